"""FeatureBackbone: the contract, whatever the source."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from autobackbone.batch_statistics import count_batches_once, lone_value_error
from autobackbone.config import PYRAMID_CHANNELS, FeatureBackboneConfig
from autobackbone.errors import ConfigError, WeightsCorruptedError, WeightsMismatchError
from autobackbone.frozen import Frozen
from autobackbone.input_spec import mismatch_error, repeat_to
from autobackbone.levels import FeatureInfo, FeatureLevel, NativeLevel, cells, choose_levels, round_up
from autobackbone.pretrained import Pretrained
from autobackbone.pyramid import SimplePyramid, crop, fit, pad, resample
from autobackbone.sources.choose import make_plan
from autobackbone.sources.seam import NativeModel
from autobackbone.values import path_of
from autobackbone.weights.loading import find_part, load_part
from autobackbone.weights.model_card import model_card
from autobackbone.weights.saved_files import write
from autobackbone.weights.saving import Saved, check_state, describe, read_config, understand


class FeatureBackbone(Pretrained, nn.Module):
    """A backbone that gives feature maps.

    Level *l* is ``(B, channels[l], ceil(H / strides[l]), ceil(W / strides[l]))``. Made by `create_feature_backbone`.

    Parameters
    ----------
    native
        What a source built of the native levels that `levels` take.
    ladder
        Every native level of the architecture.
    levels
        What to deliver, in order.
    config
        The resolved config, as a record.

    Attributes
    ----------
    ladder : tuple of NativeLevel
        Every native level of the architecture, by index.
    levels : tuple of FeatureLevel
        Name, native index, channels, stride, module and exactness of each map.
    feature_info : FeatureInfo
        The same under timm's interface.
    input_spec : InputSpec
        Channels, size, normalization, minimum size, and whether any size is taken.
    config : FeatureBackboneConfig
        With concrete indices or strides.
    weights_report : WeightsReport or None
        What was loaded at creation; ``None`` for random weights.
    license : str or None
        Of the published weights; ``None`` if it is not known.
    """

    def __init__(
        self,
        native: NativeModel,
        ladder: Sequence[NativeLevel],
        levels: Sequence[FeatureLevel],
        config: FeatureBackboneConfig,
    ) -> None:
        super().__init__()
        self.body = native.module
        self.ladder = tuple(ladder)
        self.levels = tuple(levels)
        self.feature_info = FeatureInfo(ladder, levels)
        self.input_spec = native.input_spec
        self.config = config
        self.weights_report = native.weights_report
        self._frozen = Frozen()  # of the body
        self._built_size = native.built_size
        self.license = native.license
        self._portable = native.portable
        self._network = native.network
        taken = sorted({level.index for level in levels})
        # Per level: where its map is in the body's list, and the native level it comes from.
        self._recipe = tuple((taken.index(level.index), ladder[level.index], level) for level in levels)
        self._simple = tuple(i for i, level in enumerate(levels) if level.made_by == "simple")
        self.pyramid: SimplePyramid | None = None
        if self._simple:
            origins = {levels[i].stride: ladder[levels[i].index] for i in self._simple}
            self.pyramid = SimplePyramid(origins, levels[self._simple[0]].channels)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map, in order."""
        return tuple(level.channels for level in self.levels)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each map, in order."""
        return tuple(level.stride for level in self.levels)

    @property
    def out_channels(self) -> int:
        """Channels of the last map."""
        return self.levels[-1].channels

    @property
    def network(self) -> nn.Module:
        """The library's own module, under its own names: timm's model, or transformers' modules of DINOv3."""
        return self.body.get_submodule(self._network)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the maps.

        Parameters
        ----------
        x
            ``(B, C, H, W)`` images, floating point, normalized as `input_spec` says.

        Returns
        -------
        list of Tensor
            One ``(B, channels[l], ceil(H / strides[l]), ceil(W / strides[l]))`` map per level, in order.

        Raises
        ------
        InputError
            If `x` is not a 4-D floating point tensor with images of the right number of channels, or is one image too
            small for batch norm to train on.
        InputSizeError
            If H or W is below the minimum, or not the one size that the architecture takes.
        """
        self.input_spec.check(x)
        height, width = x.shape[-2:]
        full = self.padded_size(height, width)
        if self._pads:
            x = pad(x, full)
        try:
            maps = self.body(x)
        except (NotImplementedError, RuntimeError, ValueError) as err:
            error = None if isinstance(err, torch.OutOfMemoryError) else mismatch_error(self.body, x)
            if error is None and isinstance(err, ValueError):
                error = lone_value_error(self.body, x)
            if error is None:
                raise
            raise error from err
        result = [self._deliver(maps[i], native, level, (height, width), full) for i, native, level in self._recipe]
        if self.pyramid is None:
            return result
        made = self.pyramid([result[i] for i in self._simple], (height, width))
        for i, y in zip(self._simple, made, strict=True):
            result[i] = y
        return result

    def forward_dict(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the maps by level name; see `forward`."""
        return {level.name: y for level, y in zip(self.levels, self(x), strict=True)}

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that images are padded to at the bottom and right, in pixels."""
        divisor = self.input_spec.divisor
        return self._built_size or (round_up(height, divisor), round_up(width, divisor))

    @property
    def _pads(self) -> bool:
        return self._built_size is not None or self.input_spec.divisor > 1

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if mode:
            self._frozen.rest(self.body)
        return self

    @property
    def frozen(self) -> frozenset[str]:
        """Parameters of the body in the stages that are frozen, without what was thawed by hand since."""
        return frozenset(
            name for name, p in self.body.named_parameters() if name in self._frozen.stages and not p.requires_grad
        )

    def freeze(self, parameters: Iterable[str], modules: Iterable[str]) -> None:
        """Freeze stages of the body, and thaw those that an earlier call froze; see `freeze_stages`.

        Parameters
        ----------
        parameters
            Names of parameters of the body, to require no gradient.
        modules
            Names of modules of the body, to stay in evaluation mode whatever `train` says.
        """
        self._frozen.freeze_stages(self.body, parameters, modules)
        self.train(self.training)

    def freeze_norms(self, parameters: Iterable[str], modules: Iterable[str]) -> None:
        """Freeze norms of the body, and thaw those that an earlier call froze; see `autobackbone.freeze_norms`.

        Parameters
        ----------
        parameters
            Names of parameters of the body, to require no gradient.
        modules
            Names of norms of the body, to stay in evaluation mode whatever `train` says.
        """
        self._frozen.freeze_norms(self.body, parameters, modules)
        self.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them.

        Batch norms count each batch once. Call it again after replacing norms, as synchronizing them does.

        Raises
        ------
        UnsupportedError
            If the architecture cannot.
        """
        self.body.set_grad_checkpointing(enable)  # type: ignore[operator]
        count_batches_once(self.body, enable)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        **overrides: Any,
    ) -> Self:
        """Load a backbone that `save_pretrained` or `push_to_hub` saved.

        Parameters
        ----------
        source
            A folder, or ``owner/repo`` on the Hub.
        revision
            Branch, tag or commit of the repository; ``None`` for its default.
        cache_dir
            Instead of the Hub's own cache.
        **overrides
            Fields of `FeatureBackboneConfig` that take precedence; other levels, as long as they need no deeper block.
            What they do not change stays as it was saved, the normalization of images included.

        Returns
        -------
        FeatureBackbone
            In training mode, on the default device, in the default dtype.

        Raises
        ------
        WeightsNotFoundError
            If there is no such folder or repository.
        WeightsCorruptedError
            If it holds no saved backbone, a damaged one, or files of two.
        WeightsMismatchError
            If the overrides ask for what was not saved.
        ConfigError
            If an override cannot be honored, or the saved config sets more than an architecture and its arguments.
        """
        place = None if cache_dir is None else path_of(cache_dir, "cache_dir")
        source = path_of(source, "source")
        is_whole = "weights" not in overrides
        saved, weights = read_config(source, revision=revision, cache_dir=place, with_weights=is_whole)
        return cls.from_saved(saved, {"weights": weights, **overrides}, place)

    @classmethod
    def from_saved(cls, saved: Saved, overrides: Mapping[str, Any], cache_dir: str | None = None) -> Self:
        """Create what was saved, weights among the overrides; `from_pretrained` says what can go wrong."""
        config = saved.config
        if "out_indices" in overrides or "out_strides" in overrides:
            config = config.replace(out_indices=None, out_strides=None)
        if overrides.get("pyramid", "simple") != "simple" or overrides.get("out_indices") is not None:
            config = config.replace(pyramid_channels=None)
        config = config.replace(**overrides)
        if cache_dir is not None:
            config = config.replace(extra_kwargs=config.extra_kwargs | {"cache_dir": cache_dir})
        backbone = cls._remade(saved, config)
        report = backbone.weights_report
        lost = [name for name in report.missing if name.startswith("pyramid.")] if report else []
        if lost and saved.config.pyramid == "simple":
            msg = f"The weights of {config.weights!r} are without those of its simple pyramid (first {lost[0]!r})."
            raise WeightsMismatchError(msg)
        return backbone

    @classmethod
    def from_config(cls, config: FeatureBackboneConfig) -> Self:
        """Create a backbone; `create_feature_backbone` says what can go wrong."""
        given: Any = config
        if not isinstance(given, FeatureBackboneConfig):
            msg = f"A FeatureBackboneConfig is needed, got {type(given).__name__}."
            raise ConfigError(msg)
        with torch.inference_mode(mode=False):  # it can be trained, whatever mode it was made in
            return cls._from_config(config)

    @classmethod
    def _from_config(cls, config: FeatureBackboneConfig) -> Self:
        plan = make_plan(config)
        assert isinstance(plan.config, FeatureBackboneConfig)
        config = plan.config
        ladder = plan.levels
        levels = choose_levels(
            ladder,
            config.out_indices,
            config.out_strides,
            pyramid=config.pyramid,
            pyramid_channels=config.pyramid_channels or PYRAMID_CHANNELS,
            output_stride=config.output_stride,
        )
        indices = [level.index for level in levels]
        native = plan.build(tuple(sorted(set(indices))))
        by_index = choose_levels(ladder, indices, None) if len(set(indices)) == len(indices) else ()
        if by_index == levels:
            config = config.replace(out_indices=tuple(indices), out_strides=None, pyramid_channels=None)
        else:
            config = config.replace(out_indices=None, out_strides=tuple(level.stride for level in levels))
        backbone = cls(native, ladder, levels, config)
        report = native.weights_report
        if backbone.pyramid is not None and report is not None:
            content, entry, prefix = native.checkpoint or {}, report.entry, report.prefix
            found = find_part(backbone.pyramid, "pyramid", content, report.source, entry=entry, prefix=prefix)
            backbone.weights_report = load_part(backbone.pyramid, "pyramid", found, report)
        return backbone

    def extra_repr(self) -> str:
        """Return the levels, for printing."""
        return ", ".join(f"{level.name}: {level.channels}x1/{level.stride}" for level in self.levels)

    def write_pretrained(self, folder: Path, title: str) -> None:
        """Write it to a folder, under a title; see `save_pretrained`."""
        values, twin = self.describe()
        state = self.state_dict()
        check_state(state, twin.state_dict())
        spec, name = self.input_spec, values["backbone"]["model_name"]
        write(folder, values, state, model_card("FeatureBackbone", title, name, self.levels, spec, self.license))

    def describe(self, fpn: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Self]:
        """Return what ``config.json`` says of it, and of an FPN over it; and what is made of that, without storage.

        Raises
        ------
        ConfigError
            If the config holds something that JSON cannot, or what is made of it takes other images.
        """
        config = self.config.replace(**self._portable, weights=None, pretrained=False)
        values = describe(config, self.levels, self.input_spec, fpn)
        saved = understand(values, "What is to be saved")
        with torch.device("meta"):
            twin = self._remade(saved, saved.config)
        if twin.input_spec != self.input_spec:
            msg = f"The input spec is not saved as it is, but as {twin.input_spec}; it is {self.input_spec}."
            raise ConfigError(msg)
        return values, twin

    @classmethod
    def _remade(cls, saved: Saved, config: FeatureBackboneConfig) -> Self:
        """Make a saved backbone again, or one that differs from it; what does not differ of its images stays."""
        backbone = cls.from_config(config)
        if config.pretrained and config.weights is None:
            return backbone  # of published weights, whose images are known
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

    def _deliver(
        self, y: Tensor, native: NativeLevel, level: FeatureLevel, image: tuple[int, int], full: tuple[int, int]
    ) -> Tensor:
        """Return a map at the size that the contract says, from which a simple pyramid goes on."""
        if not native.exact:
            y = fit(y, cells(full, native.stride))
        if level.made_by == "resample":
            return resample(y, native.stride, level.stride, cells(image, level.stride))
        if not self._pads:
            return y
        return crop(y, cells(image, native.stride))
