"""The sizes that architectures are tried at, to find out which of them they take. Pure."""

import itertools
import math
from collections.abc import Collection, Iterable, Sequence

from autobackbone.levels import ceil_div

# What height and width may have to be multiples of, whatever an architecture declares.
_USUAL = (1, 2, 4, 7, 8, 12, 14, 16, 28, 32, 48, 56, 64, 96, 112, 120, 128, 204, 224, 240, 256)


def divisors_to_try(strides: Iterable[int], patches: Collection[int], windows: Iterable[int]) -> tuple[int, ...]:
    """Return what height and width may have to be multiples of, in the order to try.

    Beside the usual numbers: whatever divides a stride, or what the strides would be with the first that of a patch;
    and the sides of windows, in cells and in pixels at the coarsest stride. Unequal sides of patches are also tried
    together.
    """
    strides, both = tuple(strides), math.lcm(*patches)
    sides = {*patches, both} if both < 1000 else set(patches)
    grids = {*strides, *(side * stride // min(strides) for side in sides for stride in strides)}
    divisors = {d for n in grids for d in range(1, n + 1) if n % d == 0}
    return tuple(sorted({*_USUAL, *divisors, *(n * s for n in windows for s in (1, max(strides)))}))


def sizes_to_try(divisor: int, least: int = 200) -> list[tuple[int, int]]:
    """Return four sizes, H != W, from `least` up, that are multiples of a divisor and have no other common factor.

    Their quotients by it take every remainder by 8, and spread over many by 64. Nor have the first two heights, or
    widths; so what takes them takes multiples of the divisor, and not of more.
    """
    step = 11 if divisor < 8 else 5 if divisor < 32 else 3  # odd, so that eight of them take every remainder by 8
    first = next(n for n in itertools.count(ceil_div(least, divisor)) if math.gcd(n, step) == 1)
    quotients = [(first + step * i) * divisor for i in range(8)]
    return [(quotients[i], quotients[j]) for i, j in ((0, 5), (1, 6), (2, 7), (3, 4))]


def closest_stride(size: Sequence[int], cells: Sequence[int], declared: int, finer: int) -> int:
    """Return the stride of a map: the declared one if it is near the truth, else the nearest.

    Parameters
    ----------
    size
        Height and width of the image, in pixels.
    cells
        Height and width of its map.
    declared
        What the architecture says. A map may miss a cell, or, without padding, a tenth of its cells.
    finer
        The stride of the level before; of two that would do, a multiple of it is taken.
    """

    def misses(stride: int) -> float:
        return max(abs(n / stride - m) for n, m in zip(size, cells, strict=True))

    def is_near(stride: int) -> bool:
        return misses(stride) < max(1, 0.1 * min(cells))

    possible = range(max(size[0] // (cells[0] + 1), 1), size[0] // max(cells[0] - 1, 1) + 1)
    near = [declared] if is_near(declared) else [stride for stride in possible if is_near(stride)]
    fallback = max(round(size[0] / cells[0]), 1)
    return min(near, key=lambda stride: (stride % finer != 0, misses(stride)), default=fallback)
