"""Images that a quantized backbone is calibrated and compared on, and how alike its maps are."""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from autobackbone.errors import ConfigError, InputError, InputSizeError, UnsupportedError
from autobackbone.input_spec import InputSpec
from autobackbone.quantization_report import QuantizationReport
from autobackbone.values import as_real, shown

_MOST = 4096  # images: all are kept in memory


def checked_images(
    calibration: Any, spec: InputSpec, like: Tensor, size: tuple[int, int] | None = None
) -> list[Tensor]:
    """Return batches of images from a user.

    Parameters
    ----------
    calibration
        An iterable of ``(B, C, H, W)`` tensors.
    spec
        What they must be like.
    like
        On whose device, and in whose dtype, they must be.
    size
        The one height and width that they must have; ``None`` for any that `spec` accepts.

    Raises
    ------
    ConfigError
        If it is no iterable of tensors, is empty, or yields too many images.
    InputError
        If a batch is not like that, or holds NaN or infinity.
    """
    if isinstance(calibration, Tensor | str | bytes | Mapping) or not isinstance(calibration, Iterable):
        msg = f"calibration={_kind(calibration)}: it is an iterable of (B, C, H, W) tensors, such as [images]."
        raise ConfigError(msg)
    batches: list[Tensor] = []
    for batch in islice(calibration, _MOST + 1):
        _check(batch, len(batches), spec, like, size)
        batches.append(batch.detach())
        if sum(map(len, batches)) > _MOST:
            msg = f"calibration yields more than {_MOST:,} images; a few hundred do: itertools.islice(loader, 10)."
            raise ConfigError(msg)
    if not batches:
        msg = "calibration is empty; give some batches of images. An iterator can be used only once: give a list."
        raise ConfigError(msg)
    return batches


def checked_floor(value: Any) -> float:
    """Return the argument `min_similarity`.

    Raises
    ------
    ConfigError
        If it is not a number from -1 to 1.
    """
    floor = as_real(value)
    if floor is None or not -1 <= floor <= 1:
        msg = f"min_similarity={shown(value)}: it is a cosine, a number from -1 to 1."
        raise ConfigError(msg)
    return floor


def measure_similarity(
    run: Callable[[Tensor], Mapping[str, Tensor]],
    expected: Callable[[Tensor], Mapping[str, Tensor]],
    batches: list[Tensor],
) -> dict[str, float]:
    """Return by level the mean over images of the cosine similarity of two functions' maps; NaN where one has NaN."""
    sums: dict[str, float] = {}
    for batch in batches:
        with torch.no_grad():
            ours, theirs = run(batch), expected(batch)
        for level, y in theirs.items():
            one, other = (t.detach().flatten(1).double().cpu() for t in (ours[level], y))
            alike = cosine_similarity(one, other, dim=1)
            alike[(one == other).all(1)] = 1  # zeros too
            sums[level] = sums.get(level, 0.0) + float(alike.sum())
    count = sum(map(len, batches))
    return {level: total / count for level, total in sums.items()}


def check_similarity(report: QuantizationReport, floor: float, name: str, remedy: str) -> None:
    """Raise UnsupportedError if the maps of a level are less alike than `floor`."""
    for level, alike in report.similarity.items():
        if not alike >= floor:
            msg = (
                f"{name} in {report.scheme} computes something else: the maps of level {level!r} have a cosine "
                f"similarity of {alike:.4f} to those from before, less than min_similarity={floor:g}. {remedy}"
            )
            raise UnsupportedError(msg)


def _check(batch: Any, position: int, spec: InputSpec, like: Tensor, size: tuple[int, int] | None) -> None:
    where = f"calibration, batch {position}: "
    if not isinstance(batch, Tensor):
        msg = f"{where}it is {_kind(batch)}, not a (B, C, H, W) tensor; of pairs, give the images alone."
        raise ConfigError(msg)
    try:
        spec.check(batch)
    except InputError as err:
        raise type(err)(where + str(err)) from err
    if (batch.dtype, batch.device) != (like.dtype, like.device):
        msg = f"{where}it is {batch.dtype} on {batch.device}; the backbone takes {like.dtype} on {like.device}."
        raise InputError(msg)
    if size is not None and batch.shape[-2:] != size:
        height, width = batch.shape[-2:]
        msg = f"{where}it has {height}x{width} pixels, and the file takes {size[0]}x{size[1]}; give that as input_size."
        raise InputSizeError(msg)
    if not bool(batch.isfinite().all()):
        msg = f"{where}it holds NaN or infinity."
        raise InputError(msg)


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of the type {type(value).__name__}"
