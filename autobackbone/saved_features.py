"""A feature backbone in files: its config and weights, and the backbone that they make again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from autobackbone.config import FeatureBackboneConfig
from autobackbone.errors import ConfigError, WeightsCorruptedError, WeightsMismatchError
from autobackbone.inference_form import InferenceForm
from autobackbone.input_spec import InputSpec, repeat_to
from autobackbone.pretrained import Pretrained
from autobackbone.weights.building import is_loading
from autobackbone.weights.checkpoint import Checkpoint
from autobackbone.weights.loading import find_match
from autobackbone.weights.materialize import load_matched
from autobackbone.weights.model_card import model_card
from autobackbone.weights.saved_files import write
from autobackbone.weights.saving import Saved, check_state, describe, understand


class SavedFeatures(Pretrained, nn.Module):
    """What a `FeatureBackbone` does to be saved, and created and loaded again."""

    config: FeatureBackboneConfig
    inference: InferenceForm | None
    license: str | None
    pyramid: nn.Module | None
    _portable_fields: dict[str, Any]

    @property
    def input_spec(self) -> InputSpec:
        """What it takes as input."""
        raise NotImplementedError

    @input_spec.setter
    def input_spec(self, spec: InputSpec) -> None:
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: FeatureBackboneConfig, checkpoint: Checkpoint | None = None) -> Self:
        """Create a backbone."""
        raise NotImplementedError

    def to_inference(self, form: InferenceForm) -> None:
        """Restructure it for inference, in place and for good."""
        raise NotImplementedError

    @classmethod
    def from_saved(
        cls,
        saved: Saved,
        overrides: Mapping[str, Any],
        cache_dir: str | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Self:
        """Create a saved backbone again; `from_pretrained` lists the errors.

        The overrides name the weights, which are those of the checkpoint if it is open.
        """
        config = saved.config
        if "out_indices" in overrides or "out_strides" in overrides:
            config = config.replace(out_indices=None, out_strides=None)
        if overrides.get("pyramid", "simple") != "simple" or overrides.get("out_indices") is not None:
            config = config.replace(pyramid_channels=None)
        config = config.replace(**overrides)
        if cache_dir is not None:
            config = config.replace(extra_kwargs=config.extra_kwargs | {"cache_dir": cache_dir})
        if saved.inference is None:
            backbone = cls._recreate(saved, config, checkpoint)
        else:
            backbone = cls._recreate_for_inference(saved, saved.inference, config, checkpoint, cache_dir)
        report = backbone.weights_report
        missing = [name for name in report.missing if name.startswith("pyramid.")] if report else []
        if missing and saved.config.pyramid == "simple":
            msg = f"The weights of {config.weights!r} are without those of its simple pyramid (first {missing[0]!r})."
            raise WeightsMismatchError(msg)
        return backbone

    def write_pretrained(self, folder: Path, title: str) -> None:
        """Write it to a folder, under a title; see `save_pretrained`."""
        values, twin = self.describe()
        state = self.state_dict()
        check_state(state, twin.state_dict())
        spec, name = self.input_spec, values["backbone"]["model_name"]
        write(folder, values, state, model_card("FeatureBackbone", title, name, self.levels, spec, self.license))

    def describe(self, fpn: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Self]:
        """Return its ``config.json``, that of an FPN over it included, and the backbone that this creates, on meta.

        Raises
        ------
        ConfigError
            If the config holds something that JSON cannot, or the backbone that it creates takes other images.
        """
        config = self.config.replace(**self._portable_fields, weights=None, pretrained=False)
        values = describe(config, self.levels, self.input_spec, fpn, self.inference)
        saved = understand(values, "What is to be saved")
        with torch.device("meta"):
            twin = self._recreate(saved, saved.config)
            if self.inference is not None:
                twin.to_inference(self.inference)
        if twin.input_spec != self.input_spec:
            msg = f"The input spec is not saved as it is, but as {twin.input_spec}; it is {self.input_spec}."
            raise ConfigError(msg)
        return values, twin

    @classmethod
    @torch.inference_mode(mode=False)
    def _recreate_for_inference(
        cls,
        saved: Saved,
        form: InferenceForm,
        config: FeatureBackboneConfig,
        checkpoint: Checkpoint | None,
        cache_dir: str | None,
    ) -> Self:
        """Create a backbone again that was optimized for inference: first its structure, then its weights."""
        if config.weights is None or not is_loading(config):  # random or published weights are those before it
            backbone = cls._recreate(saved, config)
            backbone.to_inference(form)
            return backbone
        with torch.device("meta"):
            backbone = cls._recreate(saved, config.replace(weights=None, pretrained=False))
            backbone.to_inference(form)
        network, rules = backbone.checkpoint_target
        checkpoint = checkpoint or Checkpoint.at(config.weights, cache_dir)
        match = find_match(network, checkpoint, rules)
        backbone.weights_report = load_matched(network, backbone.pyramid, match, checkpoint, rules)
        form.lay_out(backbone)
        return backbone

    @classmethod
    def _recreate(cls, saved: Saved, config: FeatureBackboneConfig, checkpoint: Checkpoint | None = None) -> Self:
        """Create a saved backbone again, or one that differs from it. What a config does not change of images stays."""
        backbone = cls.from_config(config, checkpoint)
        if config.pretrained and config.weights is None:
            return backbone  # with published weights, whose images are known
        images, spec = dict(saved.images), backbone.input_spec
        if (config.model_name, config.img_size) != (saved.config.model_name, saved.config.img_size):
            images.pop("size", None)
        for name in images.keys() & {"mean", "std"}:
            images[name] = repeat_to(images[name], config.in_chans)
        if spec.fixed_size and images.get("size", spec.size) != spec.size:
            msg = f"The saved input has the size {images['size']}, and the backbone takes {spec.size} only."
            raise WeightsCorruptedError(msg)
        backbone.input_spec = replace(spec, **images)
        return backbone
