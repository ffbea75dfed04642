"""The facts of a request: looked up where the released ones hold, measured anew where arguments change them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from autobackbone.catalog.records import ModelFacts
from autobackbone.errors import ConfigError, InputSizeError, UnsupportedError
from autobackbone.levels import NativeLevel, round_up
from autobackbone.sources.installed import facts_of
from autobackbone.sources.timm.arguments import translated_errors, unexpected_argument
from autobackbone.sources.timm.dilation import create_model
from autobackbone.sources.timm.facts_cache import cached_facts
from autobackbone.sources.timm.measure import measure


@dataclass(frozen=True)
class SizeRequest:
    """The size of the images that a network is built for.

    Attributes
    ----------
    size
        ``(height, width)`` in pixels.
    usual
        The size of the published weights.
    is_chosen
        Whether the user asked for it.
    is_fixed
        Whether weights were saved with it, so that they need it even if it is the usual one.
    """

    size: tuple[int, int]
    usual: tuple[int, int]
    is_chosen: bool
    is_fixed: bool


def find_facts(
    architecture: str, arguments: Mapping[str, Any], request: SizeRequest
) -> tuple[ModelFacts, dict[str, Any]]:
    """Return the facts of an architecture with some arguments, and the arguments that build it for a size.

    Raises
    ------
    ConfigError
        If timm cannot build it with these arguments.
    InputSizeError
        If it cannot be built for the size.
    UnsupportedError
        If it cannot be dilated as asked for.
    """
    facts = _facts_with(architecture, arguments) if arguments else facts_of(architecture)
    size_arguments: dict[str, Any] = {}
    if (request.is_fixed or request.size != request.usual) and not any(level.fixed_size for level in facts.levels):
        facts, size_arguments = _built_for(architecture, arguments, request, facts)
    stride = arguments.get("output_stride")
    if stride is not None and max(level.stride for level in facts.levels) > stride:
        msg = f"output_stride={stride}: {architecture!r} cannot be dilated; leave output_stride=32."
        raise UnsupportedError(msg)
    return facts, size_arguments


def padded(size: tuple[int, int], level: NativeLevel) -> tuple[int, int]:
    """Return the size that images are padded to when a level is the deepest one."""
    divisor = level.size_divisor or 1
    return round_up(size[0], divisor), round_up(size[1], divisor)


def _built_for(
    architecture: str, arguments: Mapping[str, Any], request: SizeRequest, facts: ModelFacts
) -> tuple[ModelFacts, dict[str, Any]]:
    """Build an architecture of any size for one size: its windows and position tables then suit that."""
    deepest = facts.levels[-1]
    sizes = [padded(request.size, deepest) if request.is_chosen else request.size]
    if request.is_chosen:  # XCiT is built for whole patches only, and then takes images of any size
        sizes.append(padded(request.size, replace(deepest, size_divisor=deepest.stride)))
    for size in sizes:
        size_arguments = facts.any_size_kwargs | {"img_size": size}
        try:
            return _facts_with(architecture, {**arguments, **size_arguments}), size_arguments
        except ConfigError as err:
            if unexpected_argument(err.__cause__) == "img_size":
                break  # it is never built for a size
            if size == sizes[-1]:
                patches = "which is that in whole patches; " if size != request.size else ""
                msg = (
                    f"img_size={request.size}: timm cannot build {architecture!r} for {size} images, {patches}leave "
                    "img_size out, since it takes images of any size, or give another one, such as a square."
                )
                raise InputSizeError(msg) from err
    return facts, {}


def _facts_with(architecture: str, arguments: Mapping[str, Any]) -> ModelFacts:
    def create(**any_size_kwargs: Any) -> nn.Module:
        with translated_errors(architecture, arguments):
            model: nn.Module = create_model(architecture, num_classes=0, **{**arguments, **any_size_kwargs})
        return model

    with translated_errors(architecture, arguments):
        return cached_facts(architecture, arguments, lambda: measure(create))
