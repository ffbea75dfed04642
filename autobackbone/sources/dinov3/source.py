"""The DINOv3 source: Meta's ViTs and ConvNeXts, as transformers has them.

O. Siméoni et al., "DINOv3", 2025, https://arxiv.org/abs/2508.10104. The sizes are those of the published weights.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from timm.models import adapt_input_conv
from torch import nn

from autobackbone.catalog.records import ModelFacts, ModelRecord, PublishedInput
from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.errors import BackboneError, ConfigError, UnsupportedError, WeightsError
from autobackbone.input_spec import InputSpec
from autobackbone.levels import NativeLevel
from autobackbone.names import DINOV3, ModelRef
from autobackbone.sources.dinov3.arguments import check_saved_arguments, hf_arguments, portable_arguments
from autobackbone.sources.dinov3.convnext import CONVNEXT
from autobackbone.sources.dinov3.names import to_transformers
from autobackbone.sources.dinov3.network import Variant
from autobackbone.sources.dinov3.published import LICENSE, VITS, declared_record, images_of, ungated_name
from autobackbone.sources.dinov3.vit import VIT
from autobackbone.sources.published import check_published
from autobackbone.sources.seam import Attachment, NativeModel
from autobackbone.values import shown
from autobackbone.weights.building import Built, build_from, is_loading
from autobackbone.weights.cache import is_no_json, quarantine
from autobackbone.weights.checkpoint import Checkpoint
from autobackbone.weights.files import fetch_weights, read_checkpoint
from autobackbone.weights.hub import fetch
from autobackbone.weights.loading import with_new_head
from autobackbone.weights.materialize import init_buffers_on_load
from autobackbone.weights.random_init import build_random
from autobackbone.weights.report import WeightsReport
from autobackbone.weights.rules import CheckpointRules, StateDict

_FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class DINOv3Source:
    """transformers' DINOv3."""

    name = "dinov3"

    def describe(self, ref: ModelRef) -> ModelRecord:
        """Return the record of a model, without building it."""
        plan = self.plan(ref, FeatureBackboneConfig(ref.name, pretrained=False))
        tokens = plan.variant.prefix_tokens(plan.hf_config)
        return replace(declared_record(ref.name), facts=ModelFacts(plan.levels, min_size=1, prefix_tokens=tokens))

    def plan(self, ref: ModelRef, config: BackboneConfig | FeatureBackboneConfig) -> "DINOv3Plan":
        """Return how a model is built; `DINOv3Plan` lists the errors."""
        return DINOv3Plan(ref, config)

    def check_saved(self, ref: ModelRef, extra_kwargs: Mapping[str, Any], where: str) -> None:
        """Refuse arguments of a saved config that are not those of an architecture."""
        check_saved_arguments(_variant(ref.name), ref.name, extra_kwargs, where)


class DINOv3Plan:
    """A DINOv3 reference and a config, resolved.

    Raises
    ------
    ConfigError
        If `config` has an argument that transformers' config does not accept, or that cannot be honored.
    UnsupportedError
        If the architecture lacks an ability that `config` asks for.
    """

    def __init__(self, ref: ModelRef, config: BackboneConfig | FeatureBackboneConfig) -> None:
        self.name = ref.name
        self.repo = ref.tag or DINOV3[ref.name]
        self.revision = ref.revision
        self.config = config
        self.variant = _variant(ref.name)
        self._norm = False
        if isinstance(config, FeatureBackboneConfig):
            self._norm = self.variant.has_final_norm if config.norm is None else config.norm
            self._check_features(config)
        self._arguments = hf_arguments(self.variant, ref.name, config)
        self.hf_config = self._hf_config(self._arguments)

    @property
    def levels(self) -> tuple[NativeLevel, ...]:
        """Every native level, by index: a ViT's blocks, or a ConvNeXt's stages."""
        return self.variant.native_levels(self.hf_config)

    def build(self, indices: tuple[int, ...], checkpoint: Checkpoint | None) -> NativeModel:
        """Build the backbone up to the deepest of `indices`, which are ascending.

        Raises
        ------
        WeightsError
            If the weights cannot be had, or do not fit.
        """
        deepest = self.levels[indices[-1]]
        create = partial(self.variant.levels_network, indices=indices, norm=self._norm)
        built, report = self._build(create, indices[-1] + 1, checkpoint)
        spec = self._input_spec(min_size=1, size_divisor=deepest.size_divisor)
        portable = {"extra_kwargs": portable_arguments(self.config.extra_kwargs)}
        return NativeModel(built.module, _attachment(built, spec, report), portable_fields=portable)

    def build_pooled(self, checkpoint: Checkpoint | None) -> NativeModel:
        """Build the whole backbone, with pooled output or a head.

        Raises
        ------
        WeightsError
            If the weights cannot be had, or do not fit.
        """
        classes = self.config.num_classes if isinstance(self.config, BackboneConfig) else 0
        create = partial(self.variant.pooled_network, num_classes=classes, drop_rate=self.config.drop_rate)
        built, report = self._build(create, len(self.levels), checkpoint)
        module = built.module
        # after the weights, whose errors say what is wrong with the repository
        spec = self._input_spec(min_size=self.levels[-1].stride, size_divisor=1)
        if module.num_classes != classes:
            before = module.state_dict(keep_vars=True)
            module.reset_classifier(classes)
            report = report and with_new_head(report, module, before)
        return NativeModel(module, _attachment(built, spec, report))

    def _check_features(self, config: FeatureBackboneConfig) -> None:
        if config.output_stride != 32:
            msg = f"output_stride={config.output_stride}: {self.name!r} cannot be dilated; leave output_stride=32."
            raise UnsupportedError(msg)
        if config.norm and not self.variant.has_final_norm:
            msg = f"norm=True: {self.name!r} has no final norm for its maps; leave norm=None."
            raise UnsupportedError(msg)
        if config.drop_rate:
            msg = (
                f"drop_rate={config.drop_rate}: there is no dropout in the features of {self.name!r}; leave "
                "drop_rate=0, or set extra_kwargs={'attention_dropout': ...} for a ViT."
            )
            raise ConfigError(msg)

    def _hf_config(self, arguments: dict[str, Any]) -> Any:
        try:
            return self.variant.config_class(**arguments)
        except Exception as err:  # strict dataclasses have errors of their own
            faults = " ".join(str(err).split())
            kind = self.variant.config_class.__name__
            msg = f"{kind} does not take extra_kwargs={self.config.extra_kwargs}: {faults}"
            raise ConfigError(msg) from err

    def _build(
        self, create: Callable[[Any], Any], depth: int, checkpoint: Checkpoint | None
    ) -> tuple[Built, WeightsReport | None]:
        """Build the first blocks or stages, and load them."""
        shallow = self._hf_config(self.variant.shallow_arguments(self._arguments, self.hf_config, depth))

        def build() -> Built:
            try:
                module = create(self.variant.create(shallow))
            except BackboneError:
                raise
            except _FAILURES as err:
                faults = " ".join(str(err).split())
                msg = f"transformers cannot build {self.name!r} with {shown(self.config.extra_kwargs)}: {faults}"
                raise ConfigError(msg) from err
            rules = self._rules(module, partial(_create, self.variant, create, shallow))
            init_buffers_on_load(module, rules)
            return Built(module, module, rules)  # all of it has transformers' names

        if not is_loading(self.config):
            return build_random(build), None
        return build_from(checkpoint or self._published_checkpoint(), build)

    def _rules(self, module: nn.Module, build: Callable[[], Any]) -> CheckpointRules:
        """Return how checkpoints are matched to a network that may end before the last block or stage."""
        names = frozenset(self.variant.tensor_names(list(module.state_dict(keep_vars=True)), self.hf_config))
        return CheckpointRules(head_prefixes=("head.",), pruned_names=names, converters=(_convert,), build=build)

    def _published_checkpoint(self) -> Checkpoint:
        remedy = f"The same weights are published without a gate as {ungated_name(self.name, self.repo)!r}, of timm."

        def read() -> Mapping[str, Any]:
            cache_dir = self.config.extra_kwargs.get("cache_dir")
            files = fetch_weights(self.repo, revision=self.revision, cache_dir=cache_dir, remedy=remedy)
            return read_checkpoint(files, self.repo)

        return Checkpoint(self.repo, read)

    def _input_spec(self, *, min_size: int, size_divisor: int | None) -> InputSpec:
        return self._images().to_spec(
            min_size=min_size,
            fixed_size=False,
            size_divisor=size_divisor,
            in_chans=self.config.in_chans,
            size=self.config.img_size,
        )

    def _images(self) -> PublishedInput:
        """Return the images of the weights: as the repository says if weights come from there, else as published."""
        images = images_of(self.name, self.repo)
        if not is_loading(self.config) or self.config.weights is not None:
            return images
        try:
            cache_dir = self.config.extra_kwargs.get("cache_dir")
            path = fetch(self.repo, ["preprocessor_config.json"], revision=self.revision, cache_dir=cache_dir)
            values = json.loads(path.read_text(encoding="utf-8"))
            size = (int(values["size"]["height"]), int(values["size"]["width"]))
            mean, std = values["image_mean"], values["image_std"]
            checked = check_published({"input_size": (len(mean), *size), "mean": mean, "std": std}, path.name)
        except (WeightsError, OSError, ValueError, KeyError, TypeError) as err:  # optional: what is published is known
            if is_no_json(err):
                quarantine(path)
            return images
        if not len(mean) == len(std) == images.in_chans:
            return images
        return images._replace(size=size, mean=tuple(checked["mean"]), std=tuple(checked["std"]))


def _variant(name: str) -> Variant:
    return VIT if name in VITS else CONVNEXT


def _create(variant: Variant, create: Callable[[Any], Any], config: Any) -> Any:
    """Build transformers' model, and what is made of it."""
    return create(variant.create(config))


def _attachment(built: Built, spec: InputSpec, report: WeightsReport | None) -> Attachment:
    return Attachment(spec, report, LICENSE, built.rules, type(built.module).native_maps)


def _convert(state: StateDict, target: StateDict) -> StateDict | None:
    """Rename a state dict of another library, and fit its stem to the model's channels."""
    renamed = dict(to_transformers(state, target) or state)
    for stem in ("embeddings.patch_embeddings.weight", "model.stages.0.downsample_layers.0.weight"):
        if stem in target and stem in renamed and renamed[stem].ndim == 4 and renamed[stem].shape[1] == 3:
            renamed[stem] = adapt_input_conv(target[stem].shape[1], renamed[stem], base_chans=3)
    return renamed
