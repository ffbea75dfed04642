"""The timm source: any architecture of timm's registry, or a timm config on the Hub or in a folder."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from autobackbone.catalog.records import ModelFacts, ModelRecord, PublishedWeights
from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.errors import (
    ConfigError,
    InputSizeError,
    UnsupportedError,
)
from autobackbone.input_spec import InputSpec, repeat_to
from autobackbone.levels import NativeLevel, round_up
from autobackbone.names import ModelRef
from autobackbone.sources.known import facts_of, measured
from autobackbone.sources.seam import NativeModel
from autobackbone.sources.timm.arguments import check_taken, told, unexpected
from autobackbone.sources.timm.building import Recipe, convert
from autobackbone.sources.timm.config import (
    arguments_of,
    check_saved_arguments,
    overlay_of,
    portable_arguments,
    resolve,
    with_saved,
)
from autobackbone.sources.timm.dilation import create_model
from autobackbone.sources.timm.facts_cache import remembered
from autobackbone.sources.timm.input import check_pooled_input, drop_size_checks
from autobackbone.sources.timm.measure import measure, meta_device
from autobackbone.sources.timm.network import Levels, unused_parameters
from autobackbone.sources.timm.registry import declared_record, family, input_of, published_cfg
from autobackbone.sources.timm.weights import check_covered, find_published, head_prefixes
from autobackbone.sources.unused import make_buffers
from autobackbone.weights.building import SkipInit, build_from, build_loaded, is_loading
from autobackbone.weights.files import find_files, read_checkpoint
from autobackbone.weights.loading import with_new_head
from autobackbone.weights.matching import COUNTER, Rules
from autobackbone.weights.materialize import watch
from autobackbone.weights.report import WeightsReport


class TimmSource:
    """timm."""

    name = "timm"

    def describe(self, ref: ModelRef) -> ModelRecord:
        """Return what timm declares of a model, and what is measured of it."""
        if ref.source != self.name:
            return self.plan(ref, FeatureBackboneConfig(str(ref), pretrained=False)).describe()
        return replace(declared_record(ref.name), facts=measured(ref.name))

    def plan(self, ref: ModelRef, config: BackboneConfig | FeatureBackboneConfig) -> "TimmPlan":
        """Return how a config is built; `TimmPlan` says what can go wrong."""
        return TimmPlan(ref, config)

    def check_saved(self, ref: ModelRef, extra_kwargs: Mapping[str, Any], where: str) -> None:
        """Refuse what a saved config says beyond the arguments of an architecture."""
        check_saved_arguments(ref.name, extra_kwargs, where)


class TimmPlan:
    """A timm reference and a config, resolved.

    Raises
    ------
    UnknownBackboneError
        If a config on the Hub or in a folder names an architecture that the installed timm does not have.
    ConfigError
        If `config` holds an argument that the architecture does not take.
    UnsupportedError
        If the architecture does not have what `config` asks for.
    WeightsError
        If the config of a reference on the Hub or in a folder cannot be had.
    """

    def __init__(self, ref: ModelRef, config: BackboneConfig | FeatureBackboneConfig) -> None:
        self.ref = ref
        self._cache_dir = config.extra_kwargs.get("cache_dir")
        self.architecture, published, saved = resolve(ref, self._cache_dir)
        self.config, self.saved = with_saved(ref, config, saved)
        self._overlay = overlay_of(config)
        self.published = published | self._overlay
        self._saved_size = self.saved.pop("img_size", None)
        size = self._saved_size or self.published["input_size"][1:]
        self.default_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self._checkpoint: Mapping[str, Any] | None = None
        self.num_classes = config.num_classes if isinstance(config, BackboneConfig) else 0
        self.arguments = arguments_of(self.config)
        check_taken(self.architecture, self.arguments)
        self.facts = self._facts(self.saved | self.arguments)
        self._check_channels()
        self._norm = isinstance(config, FeatureBackboneConfig) and bool(config.norm)
        if self._norm and not self.facts.norm_channels:
            msg = f"norm=True: {self.architecture!r} has no final norm for its maps; leave norm=None."
            raise UnsupportedError(msg)

    @property
    def levels(self) -> tuple[NativeLevel, ...]:
        """Every native level, by index."""
        channels = self.facts.norm_channels
        if not self._norm or channels == self.facts.levels[-1].channels:
            return self.facts.levels
        return tuple(replace(level, channels=channels) for level in self.facts.levels)

    def describe(self) -> ModelRecord:
        """Return what is known of the config on the Hub or in a folder, and of the weights beside it."""
        images = input_of(self.published)
        hub_id = self.ref.name if self.ref.source == "hf-hub" else None
        weights = PublishedWeights(str(self.ref), "", images, self.published.get("license"), hub_id)
        return ModelRecord(self.architecture, "timm", family(self.architecture), images, (weights,), self.facts)

    def build(self, indices: tuple[int, ...]) -> NativeModel:
        """Build the backbone up to the deepest of `indices`, which are ascending.

        Raises
        ------
        InputSizeError
            If the architecture cannot be built for `img_size`.
        WeightsError
            If the weights cannot be had, or do not fit.
        """
        deepest = self.levels[indices[-1]]
        built = self._built_size(deepest)
        module, report = self._loaded(built, indices)
        if self.facts.has_unused_params:
            self._set_unused_aside(module, deepest, built)
        if built is None:
            drop_size_checks(module)
        return self._native(module, self._input_spec(module.model, deepest, built), built, report)

    def build_pooled(self) -> NativeModel:
        """Build timm's own model, without a head or with a new one.

        Raises
        ------
        UnsupportedError
            If the architecture is an encoder without pooled output.
        InputSizeError
            If the architecture cannot be built for `img_size`.
        WeightsError
            If the weights cannot be had, or do not fit.
        """
        deepest = self.levels[-1]
        built = self._built_size(deepest)
        if built is not None and built != self._size:
            msg = (
                f"img_size={self._size}: {self.architecture!r} is built for multiples of {deepest.divisor} and its "
                f"pooled form does not pad; use img_size={built}."
            )
            raise InputSizeError(msg)
        if self.facts.any_size_kwargs and self.config.img_size is None and _rounded(self._size, deepest) != self._size:
            built = self._size  # not whole patches (384 pixels by 14): as timm has it, for this size alone
        model, report = self._loaded(built)
        if not hasattr(model, "get_classifier"):
            msg = f"{self.architecture!r} is an encoder without pooled output; use create_feature_backbone()."
            raise UnsupportedError(msg)
        if model.num_classes != self.num_classes:
            before = model.state_dict(keep_vars=True)
            model.reset_classifier(self.num_classes)
            report = report and with_new_head(report, model, before)
        spec = self._input_spec(model, deepest, built)
        if built is None:  # nothing is padded here
            divisor = self.facts.pooled_divisor or spec.divisor
            min_size = self.facts.pooled_min_size or round_up(spec.min_size, divisor)
            spec = replace(spec, divisor=divisor, min_size=min_size)
        check_pooled_input(model, spec)
        return self._native(model, spec, built, report)

    def _native(
        self, module: nn.Module, spec: InputSpec, built: tuple[int, int] | None, report: WeightsReport | None
    ) -> NativeModel:
        portable: dict[str, Any] = {"extra_kwargs": portable_arguments(self.config, self._overlay)}
        if self.ref.source != "timm":  # elsewhere, the folder or repository of its config may not be there
            kept = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "classifier")
            published = {k: self.published[k] for k in kept if k in self.published}
            extra = self.saved | portable["extra_kwargs"] | {"pretrained_cfg_overlay": published}
            portable = {"model_name": self.architecture, "extra_kwargs": extra}
            if self._saved_size is not None:
                portable["img_size"] = self.config.img_size or self.default_size
        license_name = self.published.get("license")
        network = "model" if isinstance(module, Levels) else ""
        return NativeModel(module, spec, built, report, license_name, portable, self._checkpoint, network)

    @property
    def _size(self) -> tuple[int, int]:
        return self.config.img_size or self.default_size

    def _facts(self, shaping: dict[str, Any]) -> ModelFacts:
        """Look the facts up, or measure them where the released ones do not hold."""
        facts = self._measured(shaping) if shaping else facts_of(self.architecture)
        usual = tuple(self.published["input_size"][1:])
        # A size that was saved with weights is the one that they were built for, whatever size is usual.
        is_chosen = self.config.img_size is not None
        is_saved = self._saved_size is not None or (is_chosen and "input_size" in self._overlay)
        if (is_saved or self._size != usual) and not any(level.bound for level in facts.levels):
            # It takes any size, and may still be built for one: windows and position tables then suit that.
            deepest = facts.levels[-1]
            sizes = [_rounded(self._size, deepest) if is_chosen else self._size]
            if is_chosen:  # XCiT is built for whole patches only, and then takes images of any size
                sizes.append(_rounded(self._size, replace(deepest, divisor=deepest.stride)))
            for size in sizes:
                built = facts.any_size_kwargs | {"img_size": size}
                try:
                    facts = self._measured(shaping | built)
                except ConfigError as err:
                    if unexpected(err.__cause__) == "img_size":
                        break
                    if size == sizes[-1]:
                        msg = (
                            f"img_size={self._size}: timm cannot build {self.architecture!r} for {size} images, "
                            f"{'which is that in whole patches; ' if size != self._size else ''}leave img_size out, "
                            "since it takes images of any size, or give another one, such as a square."
                        )
                        raise InputSizeError(msg) from err
                else:
                    self.arguments |= built
                    break
        stride = shaping.get("output_stride")
        if stride is not None and max(level.stride for level in facts.levels) > stride:
            msg = f"output_stride={stride}: {self.architecture!r} cannot be dilated; leave output_stride=32."
            raise UnsupportedError(msg)
        return facts

    def _check_channels(self) -> None:
        if self.facts.any_channels:
            return
        usual = published_cfg(self.architecture)["input_size"][0]
        if self.config.in_chans != usual:
            msg = (
                f"in_chans={self.config.in_chans}: {self.architecture!r} takes images of {usual} channels only; leave "
                f"in_chans={usual}, and make images of that many."
            )
            raise UnsupportedError(msg)

    def _measured(self, shaping: dict[str, Any]) -> ModelFacts:
        def create(**any_size_kwargs: Any) -> nn.Module:
            with told(self.architecture, shaping):
                model: nn.Module = create_model(self.architecture, num_classes=0, **(shaping | any_size_kwargs))
            return model

        with told(self.architecture, shaping):
            return remembered(self.architecture, shaping, lambda: measure(create))

    def _built_size(self, deepest: NativeLevel) -> tuple[int, int] | None:
        """Return the size to build for if a network that ends at `deepest` is bound to one."""
        size = self._size
        if not deepest.bound:
            return None
        if size == self.default_size:
            return size
        if not deepest.divisor:
            msg = (
                f"img_size={size}: {self.architecture!r} takes {self.default_size} images only; leave img_size out, "
                "or ask for shallower levels."
            )
            raise InputSizeError(msg)
        built = _rounded(size, deepest)
        return (max(built), max(built)) if self.facts.square else built

    def _loaded(
        self, built: tuple[int, int] | None, indices: tuple[int, ...] | None = None
    ) -> tuple[Any, WeightsReport | None]:
        """Create the timm model, cut at its deepest level if levels are asked for, with the weights of the config."""
        if not is_loading(self.config):
            return _cut(self._create(built, indices)), None
        source = self.config.weights
        if source is None:
            return self._load_published(built, indices)
        content = self._checkpoint = read_checkpoint(find_files(source, cache_dir=self._cache_dir), source)

        def build() -> tuple[Any, Any]:
            network = self._create(built, indices)
            return _cut(network), network

        return build_from(content, source, build)

    def _load_published(
        self, built: tuple[int, int] | None, indices: tuple[int, ...] | None
    ) -> tuple[Any, WeightsReport]:
        """Create the timm model with published weights, which timm loads."""
        source, content, weights = find_published(self.published, str(self.ref), self._cache_dir)
        empty: list[str] = []
        network: Any = None

        def create(loading: AbstractContextManager[Any]) -> Any:
            nonlocal network
            with loading:
                network = self._create(built, indices, weights)
                module = _cut(network)
            if isinstance(loading, SkipInit):
                tensors = network.state_dict(keep_vars=True)
                empty.extend(name for name, tensor in tensors.items() if not loading.is_loaded(tensor))
                check_covered(self.architecture, self.published, empty, tensors, source, content)
            return module

        module = build_loaded(create)
        sizes = {name: tensor.numel() for name, tensor in network.state_dict().items()}
        missing = tuple(name for name in empty if not name.endswith(COUNTER))
        total = sum(sizes.values())
        loaded = total - sum(sizes[name] for name in empty)
        return module, WeightsReport(source=source, loaded=loaded, total=total, missing=missing)

    def _model_arguments(self, built: tuple[int, int] | None) -> dict[str, Any]:
        """Return the arguments that make the headless timm model."""
        arguments = self.saved | self.arguments | (self.facts.any_size_kwargs if built is None else {})
        arguments |= {"in_chans": self.config.in_chans, "num_classes": self.num_classes}
        arguments |= {k: v for k in ("drop_rate", "drop_path_rate") if (v := getattr(self.config, k))}
        if built is not None and (self.config.img_size is not None or self._saved_size is not None):
            arguments["img_size"] = built
        return arguments

    def _create(
        self,
        built: tuple[int, int] | None,
        indices: tuple[int, ...] | None = None,
        weights: Mapping[str, Any] | None = None,
    ) -> Any:
        """Create the timm model, with published weights or random; it is not cut yet."""
        known = self.ref.source == "timm"
        recipe = Recipe(
            name=str(self.ref) if known else self.architecture,
            cfg=None if known else self.published | {"state_dict": None},
            overlay=self._overlay | {"state_dict": None},
            arguments=self._model_arguments(built),
            indices=indices,
            norm=self._norm,
            patch=None if self.facts.output_fmt == "NCHW" else self.levels[-1].stride,
        )
        with told(self.architecture, recipe.arguments):
            network = recipe.create(weights, has_own_head=weights is not None)
        heads = head_prefixes(self.architecture, self.published, network)
        network.checkpoint_rules = Rules(
            optional=heads,
            known=frozenset(network.state_dict()),
            converters=(partial(convert, recipe, heads),),
            build=recipe,
        )
        watch(network)
        return network

    def _set_unused_aside(self, module: Levels, deepest: NativeLevel, built: tuple[int, int] | None) -> None:
        """Make what no requested level gives a gradient no parameter, found on a twin without storage."""
        with meta_device():
            twin = _cut(self._create(built, tuple(module.indices)))
            images = torch.empty(2, self.config.in_chans, *(built or _rounded(self._size, deepest)))
            unused = unused_parameters(twin.train(), images)
        make_buffers(module, unused)

    def _input_spec(self, model: Any, deepest: NativeLevel, built: tuple[int, int] | None) -> InputSpec:
        cfg = model.pretrained_cfg
        channels = self.config.in_chans
        return InputSpec(
            in_chans=channels,
            size=self._size,
            mean=repeat_to(tuple(cfg["mean"]), channels),
            std=repeat_to(tuple(cfg["std"]), channels),
            interpolation=cfg["interpolation"],
            crop_pct=cfg["crop_pct"],
            crop_mode=cfg.get("crop_mode") or "center",
            min_size=self.facts.min_size if built is None else min(self._size),
            fixed_size=built is not None,
            divisor=deepest.divisor or 1,
        )


def _cut(network: Any) -> Any:
    """Cut a model in place where its recipe says."""
    return network.checkpoint_rules.build.cut(network)


def _rounded(size: tuple[int, int], level: NativeLevel) -> tuple[int, int]:
    divisor = level.divisor or 1
    return round_up(size[0], divisor), round_up(size[1], divisor)
