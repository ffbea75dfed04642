"""A timm reference and a config, resolved: the native levels, and how the model is built and loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from autobackbone.catalog.records import ModelFacts, ModelRecord, PublishedWeights
from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.errors import InputSizeError, UnsupportedError
from autobackbone.input_spec import InputSpec
from autobackbone.levels import NativeLevel, round_up
from autobackbone.names import ModelRef
from autobackbone.sources.meta import meta_device
from autobackbone.sources.seam import Attachment, NativeModel
from autobackbone.sources.timm.arguments import check_none_arguments
from autobackbone.sources.timm.building import TimmBuilder
from autobackbone.sources.timm.config import arguments_of, overlay_of, portable_arguments, resolve, with_saved
from autobackbone.sources.timm.facts import SizeRequest, find_facts, padded
from autobackbone.sources.timm.input import check_pooled_input, drop_size_checks
from autobackbone.sources.timm.network import Levels, unused_parameters
from autobackbone.sources.timm.registry import family, input_of, published_cfg
from autobackbone.sources.timm.weights import load_published
from autobackbone.sources.unused import make_buffers
from autobackbone.unwrapping import path_to
from autobackbone.weights.building import Built, build_from, is_loading
from autobackbone.weights.checkpoint import Checkpoint
from autobackbone.weights.loading import with_new_head
from autobackbone.weights.random_init import build_random
from autobackbone.weights.report import WeightsReport


@dataclass(frozen=True)
class TimmPlan:
    """A timm reference and a config, resolved.

    Attributes
    ----------
    ref, config
        The reference, and the config with what was saved beside the weights.
    architecture
        The name in timm's registry.
    published, overlay
        timm's pretrained_cfg, with what the config puts in its place; and the latter alone.
    saved
        Arguments that were saved beside the weights, without a size.
    has_saved_size
        Whether the weights were saved with the size that they need.
    default_size
        ``(height, width)`` in pixels if the config does not ask for another.
    arguments
        Further arguments of ``timm.create_model``.
    facts
        What was measured of the architecture with these arguments.
    """

    ref: ModelRef
    config: BackboneConfig | FeatureBackboneConfig
    architecture: str
    published: Mapping[str, Any]
    overlay: Mapping[str, Any]
    saved: Mapping[str, Any]
    has_saved_size: bool
    default_size: tuple[int, int]
    arguments: Mapping[str, Any]
    facts: ModelFacts

    @classmethod
    def resolve(cls, ref: ModelRef, config: BackboneConfig | FeatureBackboneConfig) -> Self:
        """Resolve a reference and a config.

        Raises
        ------
        UnknownBackboneError
            If a config on the Hub or in a folder names an architecture that the installed timm does not have.
        ConfigError
            If `config` has an argument that the architecture does not take.
        InputSizeError
            If the architecture cannot be built for `img_size`.
        UnsupportedError
            If the architecture lacks an ability that `config` asks for.
        WeightsError
            If the config of a reference on the Hub or in a folder cannot be had.
        """
        architecture, published, saved = resolve(ref, config.extra_kwargs.get("cache_dir"))
        overlay = overlay_of(config)
        config, saved = with_saved(ref, config, saved)
        published |= overlay
        usual = tuple(published["input_size"][1:])
        saved_size = saved.pop("img_size", None)
        size = saved_size or usual
        default_size = (size, size) if isinstance(size, int) else tuple(size)
        arguments = arguments_of(config)
        check_none_arguments(architecture, arguments)
        is_chosen = config.img_size is not None
        request = SizeRequest(
            size=config.img_size or default_size,
            usual=usual,
            is_chosen=is_chosen,
            is_fixed=saved_size is not None or (is_chosen and "input_size" in overlay),
        )
        facts, size_arguments = find_facts(architecture, saved | arguments, request)
        _check_abilities(architecture, config, facts)
        return cls(
            ref=ref,
            config=config,
            architecture=architecture,
            published=published,
            overlay=overlay,
            saved=saved,
            has_saved_size=saved_size is not None,
            default_size=default_size,
            arguments=arguments | size_arguments,
            facts=facts,
        )

    @property
    def levels(self) -> tuple[NativeLevel, ...]:
        """Every native level, by index."""
        channels = self.facts.norm_channels
        if not self._has_norm or channels is None or channels == self.facts.levels[-1].channels:
            return self.facts.levels
        return tuple(replace(level, channels=channels) for level in self.facts.levels)

    def describe(self) -> ModelRecord:
        """Return the record of a config on the Hub or in a folder, and of the weights beside it."""
        images = input_of(self.published)
        hub_id = self.ref.name if self.ref.scheme == "hf-hub" else None
        weights = PublishedWeights(str(self.ref), "", images, self.published.get("license"), hub_id)
        return ModelRecord(self.architecture, "timm", family(self.architecture), images, (weights,), self.facts)

    def build(self, indices: tuple[int, ...], checkpoint: Checkpoint | None) -> NativeModel:
        """Build the backbone up to the deepest of `indices`, which are ascending.

        Raises
        ------
        ConfigError
            If timm cannot build it with these arguments.
        InputSizeError
            If the architecture cannot be built for `img_size`.
        WeightsError
            If the weights cannot be had, or do not fit.
        """
        deepest = self.levels[indices[-1]]
        built_size = self._built_size(deepest)
        builder = self._builder(built_size, indices)
        built, report = self._loaded(builder, checkpoint)
        if self.facts.has_unused_params:
            self._make_unused_buffers(built.module, builder, built_size or padded(self._size, deepest))
        if built_size is None:
            drop_size_checks(built.module)
        spec = self._input_spec(built.network, deepest, built_size)
        return self._native(built, spec, report, Levels.native_maps, built_size)

    def build_pooled(self, checkpoint: Checkpoint | None) -> NativeModel:
        """Build timm's own model, without a head or with a new one.

        Raises
        ------
        ConfigError
            If timm cannot build it with these arguments.
        UnsupportedError
            If the architecture is an encoder without pooled output.
        InputSizeError
            If the architecture cannot be built for `img_size`.
        WeightsError
            If the weights cannot be had, or do not fit.
        """
        deepest = self.levels[-1]
        built_size = self._built_size(deepest)
        if built_size is not None and built_size != self._size:
            msg = (
                f"img_size={self._size}: {self.architecture!r} is built for multiples of {deepest.size_divisor} and "
                f"its pooled form does not pad; use img_size={built_size}."
            )
            raise InputSizeError(msg)
        if self.facts.any_size_kwargs and self.config.img_size is None and padded(self._size, deepest) != self._size:
            built_size = self._size  # not whole patches (384 pixels by 14): as timm has it, for this size alone
        built, report = self._loaded(self._builder(built_size), checkpoint)
        model = built.module
        if not hasattr(model, "get_classifier"):
            msg = f"{self.architecture!r} is an encoder without pooled output; use create_feature_backbone()."
            raise UnsupportedError(msg)
        if model.num_classes != self._num_classes:
            before = model.state_dict(keep_vars=True)
            model.reset_classifier(self._num_classes)
            report = report and with_new_head(report, model, before)
        spec = self._input_spec(model, deepest, built_size)
        if built_size is None:  # nothing is padded here
            size_divisor = self.facts.pooled_size_divisor or spec.size_divisor
            min_size = self.facts.pooled_min_size or round_up(spec.min_size, size_divisor)
            spec = replace(spec, size_divisor=size_divisor, min_size=min_size)
        return self._native(built, spec, report, _intermediates, built_size, check_pooled_input(model, spec))

    @property
    def _size(self) -> tuple[int, int]:
        return self.config.img_size or self.default_size

    @property
    def _has_norm(self) -> bool:
        return isinstance(self.config, FeatureBackboneConfig) and bool(self.config.norm)

    @property
    def _num_classes(self) -> int:
        return self.config.num_classes if isinstance(self.config, BackboneConfig) else 0

    def _built_size(self, deepest: NativeLevel) -> tuple[int, int] | None:
        """Return the size to build for if a network that ends at `deepest` has a fixed size."""
        if not deepest.fixed_size:
            return None
        if self._size == self.default_size:
            return self._size
        if deepest.size_divisor is None:
            msg = (
                f"img_size={self._size}: {self.architecture!r} takes {self.default_size} images only; leave img_size "
                "out, or ask for shallower levels."
            )
            raise InputSizeError(msg)
        height, width = padded(self._size, deepest)
        return (max(height, width),) * 2 if self.facts.square else (height, width)

    def _builder(self, built_size: tuple[int, int] | None, indices: tuple[int, ...] | None = None) -> TimmBuilder:
        is_registered = self.ref.scheme == "timm"
        arguments = {**self.saved, **self.arguments, **(self.facts.any_size_kwargs if built_size is None else {})}
        arguments |= {"in_chans": self.config.in_chans, "num_classes": self._num_classes}
        arguments |= {k: v for k in ("drop_rate", "drop_path_rate") if (v := getattr(self.config, k))}
        if built_size is not None and (self.config.img_size is not None or self.has_saved_size):
            arguments["img_size"] = built_size
        return TimmBuilder(
            name=str(self.ref) if is_registered else self.architecture,
            cfg=None if is_registered else {**self.published, "state_dict": None},
            overlay={**self.overlay, "state_dict": None},
            arguments=arguments,
            architecture=self.architecture,
            classifier=self.published.get("classifier"),
            indices=indices,
            norm=self._has_norm,
            patch=None if self.facts.output_fmt == "NCHW" else self.levels[-1].stride,
        )

    def _loaded(self, builder: TimmBuilder, checkpoint: Checkpoint | None) -> tuple[Built, WeightsReport | None]:
        """Build with the weights of the config: none, those of a checkpoint, or the published ones."""
        if not is_loading(self.config):
            return build_random(builder.build), None
        if checkpoint is not None:
            return build_from(checkpoint, builder.build)
        cache_dir = self.config.extra_kwargs.get("cache_dir")
        return load_published(builder.build, self.architecture, self.published, str(self.ref), cache_dir)

    def _make_unused_buffers(self, module: Levels, builder: TimmBuilder, size: tuple[int, int]) -> None:
        """Make the parameters that get no gradient from any requested level buffers. A twin on meta finds them."""
        with meta_device():
            twin = builder.build().module.train()
            unused = unused_parameters(twin, torch.empty(2, self.config.in_chans, *size))
        make_buffers(module, unused)

    def _input_spec(self, network: Any, deepest: NativeLevel, built_size: tuple[int, int] | None) -> InputSpec:
        return input_of(network.pretrained_cfg).to_spec(
            min_size=self.facts.min_size,
            fixed_size=built_size is not None,
            size_divisor=deepest.size_divisor,
            in_chans=self.config.in_chans,
            size=self._size,
        )

    def _native(
        self,
        built: Built,
        spec: InputSpec,
        report: WeightsReport | None,
        native_maps: Any,
        built_size: tuple[int, int] | None,
        input_checks: Any = None,
    ) -> NativeModel:
        path, license_name = path_to(built.module, built.network), self.published.get("license")
        attachment = Attachment(spec, report, license_name, built.rules, native_maps, path, input_checks)
        return NativeModel(built.module, attachment, built_size, self._portable_fields())

    def _portable_fields(self) -> dict[str, Any]:
        arguments = portable_arguments(self.config, self.overlay)
        if self.ref.scheme == "timm":
            return {"extra_kwargs": arguments}
        # elsewhere, the folder or repository of its config may not be there
        names = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "classifier")
        published = {k: self.published[k] for k in names if k in self.published}
        arguments = {**self.saved, **arguments, "pretrained_cfg_overlay": published}
        portable = {"model_name": self.architecture, "extra_kwargs": arguments}
        return portable | ({"img_size": self._size} if self.has_saved_size else {})


def _check_abilities(architecture: str, config: BackboneConfig | FeatureBackboneConfig, facts: ModelFacts) -> None:
    """Refuse a number of channels or a final norm that an architecture does not have."""
    usual = 0 if facts.any_channels else published_cfg(architecture)["input_size"][0]
    if not facts.any_channels and config.in_chans != usual:
        msg = (
            f"in_chans={config.in_chans}: {architecture!r} takes images of {usual} channels only; leave "
            f"in_chans={usual}, and make images of that many."
        )
        raise UnsupportedError(msg)
    if isinstance(config, FeatureBackboneConfig) and config.norm and not facts.norm_channels:
        msg = f"norm=True: {architecture!r} has no final norm for its maps; leave norm=None."
        raise UnsupportedError(msg)


def _intermediates(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the maps of a whole timm model."""
    maps: list[Tensor] = model.forward_intermediates(x, intermediates_only=True)  # type: ignore[operator]
    return maps
