"""Images of timm's networks: checked before timm asserts anything, with this package's errors."""

import inspect
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from timm.layers import HybridEmbed, PatchEmbed
from torch import Tensor, nn

from autobackbone.batch_statistics import count_batches_once, lone_value_error
from autobackbone.errors import InputSizeError
from autobackbone.input_spec import InputSpec
from autobackbone.levels import round_up
from autobackbone.sources.meta import FAILURES, meta_device
from autobackbone.sources.seam import attachment_of


def drop_size_checks(network: nn.Module) -> None:
    """Let patch embeddings accept any size without asserting it, for a caller who pads to whole patches.

    Each assertion has a message that names the size. torch.compile builds that message, and with it a graph for this
    one size. With ``img_size=None`` a patch embedding asserts nothing.
    """
    for module in network.modules():
        if isinstance(module, PatchEmbed):
            module.img_size = None


@dataclass
class PooledInput:
    """What the check of a pooled model's images remembers.

    Attributes
    ----------
    accepted
        Unusual images that the model was found to take: whether one alone in training, height, width.
    is_checkpointed
        Whether its norms count recomputed batches once.
    """

    accepted: set[tuple[bool, int, int]] = field(default_factory=set)
    is_checkpointed: bool = False


def check_pooled_input(model: nn.Module, spec: InputSpec) -> PooledInput | None:
    """Have a pooled model check its images before it runs, so that timm does not fail on them.

    What a ViT asserts is known. Other models take some sizes that the spec does not promise. So an image that is not as
    promised is tried on a twin without storage, once for its size and every larger one. Batch norms are told when
    timm's own switch has turned gradient checkpointing on.

    Parameters
    ----------
    model
        timm's model.
    spec
        What it takes as input.

    Returns
    -------
    PooledInput or None
        To be remembered beside the model; ``None`` if there is nothing to remember.
    """
    embed = getattr(model, "patch_embed", None)
    if isinstance(embed, PatchEmbed | HybridEmbed) and len(inspect.signature(model.forward).parameters) > 1:
        embed.autobackbone_input_spec = spec  # the hook sees this module alone
        embed.register_forward_pre_hook(_check_embedded)
        return None
    model.register_forward_pre_hook(_check)
    return PooledInput()


# TorchScript compiles hooks, of modules with one argument alone, and leaves out what is in the condition.
def _check(model: nn.Module, args: tuple[Tensor]) -> None:
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        _check_images(model, args[0])


def _check_embedded(embed: nn.Module, args: tuple[Tensor]) -> None:
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        _check_patches(embed, args[0])


def _check_patches(embed: Any, x: Any) -> None:
    """Refuse what a patch embedding would assert not to be given."""
    spec: InputSpec = embed.autobackbone_input_spec
    spec.check_layout(x)
    if not isinstance(embed, PatchEmbed) or embed.img_size is None or _is_graph():
        return
    height, width = x.shape[-2:]
    rows, columns = embed.patch_size
    if embed.strict_img_size:
        replace(spec, size=tuple(embed.img_size), fixed_size=True).check(x)
    elif not embed.dynamic_img_pad and (height % rows or width % columns):
        raise InputSizeError(_refusal(height, width, replace(spec, size_divisor=math.lcm(rows, columns))))


def _check_images(model: Any, x: Any) -> None:
    is_image = isinstance(x, Tensor) and x.ndim == 4
    if not is_image and "patch_coord" in inspect.signature(model.forward).parameters:
        return  # NaFlexViT's batches of patches
    attachment = attachment_of(model)
    assert attachment is not None, "it was set before the model can be called"
    spec, checks = attachment.input_spec, attachment.input_checks
    spec.check_layout(x)
    if _is_graph():
        return
    if model.training:
        _count_once(model, checks)
    batch, _, height, width = x.shape
    usual = (height, width) == spec.size if spec.fixed_size else _is_promised(height, width, spec)
    lone = model.training and batch == 1  # batch norms may need a second image
    if (usual and not lone) or any(a == lone and h <= height and w <= width for a, h, w in checks.accepted):
        return
    twin = _twin(model, attachment.rules.build)
    if twin is None:
        return
    several = (max(batch, 2), *x.shape[1:])
    fault = None if usual else _fault(twin, several)
    if fault is not None:
        spec.check(x)
        raise InputSizeError(_refusal(height, width, spec)) from fault
    fault = _fault(twin, x.shape) if lone else None
    error = fault and lone_value_error(model, x)
    if error is not None:
        raise error from fault
    checks.accepted.add((lone, height, width))


def _count_once(model: Any, checks: PooledInput) -> None:
    is_on = any(getattr(module, "grad_checkpointing", False) for module in model.modules())
    if is_on != checks.is_checkpointed:
        count_batches_once(model, is_on)
        checks.is_checkpointed = is_on


def _is_graph() -> bool:
    """Whether a graph is being made, in which sizes are no numbers to decide by."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _is_promised(height: int, width: int, spec: InputSpec) -> bool:
    return min(height, width) >= spec.min_size and not height % spec.size_divisor and not width % spec.size_divisor


def _twin(model: Any, build: Any) -> nn.Module | None:
    """Return the same model without storage; ``None`` if it has been changed since it was created."""
    with meta_device():
        twin: nn.Module = build()
    pairs = list(zip(twin.named_modules(), model.named_modules(), strict=False))
    if len(pairs) < len(list(model.modules())) or any((a, type(m)) != (b, type(n)) for (a, m), (b, n) in pairs):
        return None
    for (_, copied), (_, original) in pairs:
        copied.training = original.training
    return twin


def _fault(twin: nn.Module, shape: tuple[int, ...]) -> Exception | None:
    with meta_device(), torch.no_grad():
        try:
            twin(torch.empty(shape))
        except FAILURES as err:
            return err
    return None


def _refusal(height: int, width: int, spec: InputSpec) -> str:
    least = round_up(max(spec.min_size, 1), spec.size_divisor)
    below = [max(n // spec.size_divisor * spec.size_divisor, least) for n in (height, width)]
    above = [max(round_up(n, spec.size_divisor), least) for n in (height, width)]
    return (
        f"This backbone has a pooled output and does not pad: it takes multiples of {spec.size_divisor}, got "
        f"{height}x{width}; resize or pad to {above[0]}x{above[1]}, or crop to {below[0]}x{below[1]}."
    )
