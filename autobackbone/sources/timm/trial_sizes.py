"""The sizes at which architectures are tried, to add_record which sizes they accept. Pure functions."""

import itertools
import math
from collections.abc import Collection, Iterable, Sequence

from autobackbone.levels import ceil_div

# Divisors of height and width to try for every architecture.
_USUAL = (1, 2, 4, 7, 8, 12, 14, 16, 28, 32, 48, 56, 64, 96, 112, 120, 128, 204, 224, 240, 256)


def divisors_to_try(strides: Iterable[int], patches: Collection[int], windows: Iterable[int]) -> tuple[int, ...]:
    """Return candidates for the divisor of height and width, in the order to try.

    Candidates are the usual divisors, the divisors of every stride, and the divisors of the strides scaled so that the
    smallest is the side of a patch (for unequal sides, also their least common multiple). The sides of windows are
    candidates too, in cells and in pixels at the coarsest stride.
    """
    strides, both = tuple(strides), math.lcm(*patches)
    sides = {*patches, both} if both < 1000 else set(patches)
    grids = {*strides, *(side * stride // min(strides) for side in sides for stride in strides)}
    divisors = {d for n in grids for d in range(1, n + 1) if n % d == 0}
    return tuple(sorted({*_USUAL, *divisors, *(n * s for n in windows for s in (1, max(strides)))}))


def sizes_to_try(divisor: int, least: int = 200) -> list[tuple[int, int]]:
    """Return four sizes, H != W, from `least` up, that are multiples of a divisor and have no other common factor.

    Divided by the divisor, they have every remainder modulo 8, and many modulo 64. The first two heights, and the first
    two widths, also have no other common factor. So an architecture that accepts them needs no larger divisor.
    """
    step = 11 if divisor < 8 else 5 if divisor < 32 else 3  # odd, so that eight steps have every remainder modulo 8
    first = next(n for n in itertools.count(ceil_div(least, divisor)) if math.gcd(n, step) == 1)
    quotients = [(first + step * i) * divisor for i in range(8)]
    return [(quotients[i], quotients[j]) for i, j in ((0, 5), (1, 6), (2, 7), (3, 4))]


def closest_stride(size: Sequence[int], cells: Sequence[int], declared: int, finer: int) -> int:
    """Return the stride of a map: the declared one if it nearly fits, else the one that fits best.

    Parameters
    ----------
    size
        Height and width of the image, in pixels.
    cells
        Height and width of its map.
    declared
        The stride that the architecture declares. A map may lack a cell, or a tenth of its cells without padding.
    finer
        The stride of the level before. If several strides nearly fit, its multiples are preferred.
    """

    def misses(stride: int) -> float:
        return max(abs(n / stride - m) for n, m in zip(size, cells, strict=True))

    def is_near(stride: int) -> bool:
        return misses(stride) < max(1, 0.1 * min(cells))

    possible = range(max(size[0] // (cells[0] + 1), 1), size[0] // max(cells[0] - 1, 1) + 1)
    near = [declared] if is_near(declared) else [stride for stride in possible if is_near(stride)]
    fallback = max(round(size[0] / cells[0]), 1)
    return min(near, key=lambda stride: (stride % finer != 0, misses(stride)), default=fallback)
