"""Assembling a backbone of either kind: from a config over a plan, levels and weights to a network."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from autobackbone.config import PYRAMID_CHANNELS, BackboneConfig, FeatureBackboneConfig
from autobackbone.levels import FeatureLevel, NativeLevel, choose_levels
from autobackbone.pyramid import SimplePyramid
from autobackbone.sources.choose import make_plan
from autobackbone.sources.seam import NativeModel
from autobackbone.weights.building import is_loading
from autobackbone.weights.checkpoint import Checkpoint
from autobackbone.weights.loading import load_part, match_part


class FeatureParts(NamedTuple):
    """What a `FeatureBackbone` is made of.

    Attributes
    ----------
    native
        The network that gives the maps of native levels.
    pyramid
        Makes the levels with ``method="simple"``; ``None`` if there are none.
    native_levels
        Every native level of the architecture.
    levels
        The levels to return, in order.
    config
        With concrete indices or strides.
    """

    native: NativeModel
    pyramid: SimplePyramid | None
    native_levels: tuple[NativeLevel, ...]
    levels: tuple[FeatureLevel, ...]
    config: FeatureBackboneConfig


def assemble_features(config: FeatureBackboneConfig, checkpoint: Checkpoint | None = None) -> FeatureParts:
    """Build the parts of a feature backbone; `create_feature_backbone` lists the errors.

    Parameters
    ----------
    config
        What to build.
    checkpoint
        The weights that the config names, if they are open.
    """
    plan = make_plan(config)
    config = plan.config  # type: ignore[assignment]  # of the kind that it was made from
    levels = choose_levels(
        plan.levels,
        config.out_indices,
        config.out_strides,
        pyramid=config.pyramid,
        pyramid_channels=config.pyramid_channels or PYRAMID_CHANNELS,
        output_stride=config.output_stride,
    )
    checkpoint = _checkpoint(config, checkpoint)
    native = plan.build(tuple(sorted({level.index for level in levels})), checkpoint)
    pyramid = _simple_pyramid(plan.levels, levels)
    if pyramid is not None:
        native = _load_pyramid(pyramid, native, checkpoint)
    return FeatureParts(native, pyramid, plan.levels, levels, _with_levels(config, plan.levels, levels))


def assemble_pooled(config: BackboneConfig) -> nn.Module:
    """Build a pooled backbone; `create_backbone` lists the errors."""
    with torch.inference_mode(mode=False):  # it can be trained, whatever mode the caller is in
        plan = make_plan(config)
        native = plan.build_pooled(_checkpoint(config))
        native.module.autobackbone = replace(native.attachment, config=plan.config)  # type: ignore[assignment, arg-type]
        return native.module


def _checkpoint(
    config: BackboneConfig | FeatureBackboneConfig, checkpoint: Checkpoint | None = None
) -> Checkpoint | None:
    """Return the weights that a config names instead of published ones: those that are open, if there are some."""
    if config.weights is None or not is_loading(config):
        return None
    return checkpoint or Checkpoint.at(config.weights, config.extra_kwargs.get("cache_dir"))


def _simple_pyramid(native_levels: tuple[NativeLevel, ...], levels: tuple[FeatureLevel, ...]) -> SimplePyramid | None:
    """Return what makes the levels of a simple pyramid, on the default device."""
    simple = [level for level in levels if level.method == "simple"]
    if not simple:
        return None
    return SimplePyramid({level.stride: native_levels[level.index] for level in simple}, simple[0].channels)


def _load_pyramid(pyramid: SimplePyramid, native: NativeModel, checkpoint: Checkpoint | None) -> NativeModel:
    """Load a simple pyramid from the checkpoint of the network, if both have one, and report it with the network."""
    report = native.attachment.weights_report
    if report is None:
        return native
    values = {}
    if checkpoint is not None:
        values = match_part(pyramid, "pyramid", checkpoint, entry=report.entry, prefix=report.prefix)
    report = load_part(pyramid, "pyramid", values, report)
    return replace(native, attachment=replace(native.attachment, weights_report=report))


def _with_levels(
    config: FeatureBackboneConfig, native_levels: tuple[NativeLevel, ...], levels: tuple[FeatureLevel, ...]
) -> FeatureBackboneConfig:
    """Return a config that asks for some levels: by index if that means the same, else by stride."""
    indices = tuple(level.index for level in levels)
    if len(set(indices)) == len(indices) and choose_levels(native_levels, indices, None) == levels:
        return config.replace(out_indices=indices, out_strides=None, pyramid_channels=None)
    return config.replace(out_indices=None, out_strides=tuple(level.stride for level in levels))
