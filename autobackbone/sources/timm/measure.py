"""Measure timm's architectures on the meta device, because what they declare is not always true."""

import contextlib
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autobackbone.catalog.records import ModelFacts
from autobackbone.errors import UnsupportedError
from autobackbone.levels import NativeLevel, ceil_div, round_up
from autobackbone.sources.meta import FAILURES, meta_device
from autobackbone.sources.timm.network import Levels, prefix_tokens, unused_parameters
from autobackbone.sources.timm.trial_sizes import closest_stride, divisors_to_try, sizes_to_try

_Size = tuple[int, int]
_Shapes = list[tuple[int, int, int]]  # channels, height, width of each level

# timm's arguments for accepting any size, in the order to try.
_ANY_SIZE_KWARGS: tuple[dict[str, bool], ...] = ({}, {"dynamic_img_size": True}, {"strict_img_size": False})


def measure(create: Callable[..., nn.Module]) -> ModelFacts:
    """Measure an architecture on the meta device.

    Parameters
    ----------
    create
        Creates the timm model without a head, with further arguments for ``timm.create_model``. Called on the meta
        device.

    Returns
    -------
    ModelFacts
        Facts from forward passes at several sizes. Declared channels and strides are not trusted.
    """
    with meta_device():
        return _Measurement(create).facts()


class _Measurement:
    """The measurement of one architecture. `measure` runs it on the meta device."""

    def __init__(self, create: Callable[..., nn.Module]) -> None:
        self.create = create
        model: Any = create()
        self.kind = type(model).__name__
        self.declared = [dict(entry) for entry in model.feature_info]
        self.strides = [entry["reduction"] for entry in self.declared]
        self.grids = _sides(model, "patch_size"), _sides(model, "window_size")
        self.divisors = divisors_to_try(self.strides, *self.grids)
        self.prefix_tokens = prefix_tokens(model)
        self.in_chans, height, width = model.pretrained_cfg["input_size"]
        self.default = (height, width)
        # Networks are cut at the deepest level of each run of equal strides.
        self.cuts = [i for i, s in enumerate(self.strides) if self.strides[i + 1 : i + 2] != [s]]
        self.nets: dict[Any, nn.Module | None] = {}
        self.shapes: dict[Any, _Shapes | None] = {}
        self.any_size_kwargs: dict[str, bool] = {}
        self.square = False
        self.patch: int | None = None
        self.scale = 1
        self._find_usual()
        self.any_size_kwargs, self.large = self._find_any_size_kwargs()
        self.usual, self.built = self._find_usual()

    def facts(self) -> ModelFacts:
        shapes = self._maps(self.cuts[-1], self.usual, fixed_size=self.built) or []
        self._correct_strides()
        self.divisors = divisors_to_try(self.strides, *self.grids)
        sizes = {cut: self._sizes(cut) for cut in reversed(self.cuts)}  # deepest first, since the others reuse its maps
        levels = []
        for i, shape in enumerate(shapes):
            divisor, fixed_size, exact = sizes[next(c for c in self.cuts if c >= i)]
            exact_here = exact[i] and (not fixed_size or self._is_exact(i, shape, self.default))
            module = self.declared[i]["module"]
            levels.append(NativeLevel(i, shape[0], self.strides[i], divisor, fixed_size, exact_here, module))
        pooled_size_divisor, pooled_min_size = self._pooled(levels)
        return ModelFacts(
            levels=tuple(levels),
            min_size=self._min_size(levels),
            square=self.square,
            any_size_kwargs=self.any_size_kwargs,
            output_fmt="NCHW" if self.patch is None else "NLC",
            norm_channels=self._norm_channels(self._images(self.usual)),
            has_unused_params=self._has_unused_params(self._images(self.usual)),
            any_channels=self._takes_any_channels(shapes),
            prefix_tokens=self.prefix_tokens,
            pooled_size_divisor=pooled_size_divisor,
            pooled_min_size=pooled_min_size,
        )

    def _find_usual(self) -> tuple[_Size, bool]:
        """Return a size that works, if possible the default, and whether to build for it; also choose the format."""
        height, width = self.default
        for scale, d in itertools.product((1, 2, 4), self.divisors):
            size = (round_up(scale * height, d), round_up(scale * width, d))
            for patch, fixed_size in itertools.product((None, self.strides[-1]), (True, False)):
                self.patch = patch
                if self._maps(self.cuts[-1], size, fixed_size=fixed_size) is not None:
                    self.scale = round(size[0] / height)  # above 1 if the strides are larger than declared
                    return size, fixed_size
        msg = f"timm's {self.kind} ran at no size that was tried, from {self.default} on."
        raise UnsupportedError(msg)

    def _find_any_size_kwargs(self) -> tuple[dict[str, bool], _Size | None]:
        """Return the first of timm's arguments with which the network accepts several sizes, and the last such size."""
        for any_size_kwargs in _ANY_SIZE_KWARGS:
            self.any_size_kwargs = any_size_kwargs
            for divisor in reversed(self.divisors):
                if self._follows(self.cuts[-1], divisor):
                    return any_size_kwargs, self._trials(divisor)[-1]
        return {}, None

    def _correct_strides(self) -> None:
        """Correct declared strides that contradict the maps of a large image; measure them on a still larger image."""
        declared = self.strides
        for times in (1, 4):
            size = self.usual if self.large is None else (times * self.large[0], times * self.large[1])
            shapes = self._maps(self.cuts[-1], size, fixed_size=self.large is None and self.built)
            if shapes is None:
                return
            self.strides = []
            for (_, *cells), stride in zip(shapes, declared, strict=True):
                self.strides.append(closest_stride(size, cells, stride, finer=self.strides[-1] if self.strides else 1))
            if self.strides == declared or self.large is None:
                return

    def _trials(self, divisor: int) -> list[_Size]:
        return sizes_to_try(divisor, least=200 * self.scale)

    def _follows(self, cut: int, divisor: int) -> bool:
        """Whether the maps scale with the image. CrossViT accepts any size, but resizes images to a fixed size."""
        sizes = self._trials(divisor)
        small, large = (self._maps(cut, size) for size in (sizes[0], sizes[-1]))
        return small is not None and large is not None and small != large

    def _sizes(self, cut: int) -> tuple[int | None, bool, list[bool]]:
        """Return the divisor, whether the size is fixed, and exactness by level, of the network cut at `cut`."""
        for fixed_size, square in ((False, False), (True, False), (True, True)):
            finest = self._finest(cut, self.divisors, fixed_size=fixed_size, square=square)
            if finest is None:
                continue
            divisor, exact = finest
            if not fixed_size and divisor > self.strides[cut]:
                # MaxViT accepts multiples of 224, but can be built for multiples of 32: its size counts as fixed.
                finer = [d for d in self.divisors if d < divisor]
                built = self._finest(cut, finer, fixed_size=True, square=False)
                if built is not None and built[1] == exact:
                    return built[0], True, built[1]
            self.square |= square
            return divisor, fixed_size, exact
        return None, True, [True] * (cut + 1)  # works only at its default size

    def _finest(
        self, cut: int, divisors: Sequence[int], *, fixed_size: bool, square: bool
    ) -> tuple[int, list[bool]] | None:
        """Return the first divisor that makes the most levels exact, and exactness by level."""
        inexact = []
        for divisor in divisors:
            exact = self._exactness(cut, divisor, fixed_size=fixed_size, square=square, first_only=True)
            if exact is not None and all(exact):
                exact = self._exactness(cut, divisor, fixed_size=fixed_size, square=square)
            if exact is not None and all(exact):
                return divisor, exact
            if exact is not None:
                inexact.append(divisor)
        everywhere = ((d, self._exactness(cut, d, fixed_size=fixed_size, square=square)) for d in inexact)
        candidates = [(d, exact) for d, exact in everywhere if exact is not None]
        return max(candidates, key=lambda pair: sum(pair[1]), default=None)  # the first of equals

    def _exactness(
        self, cut: int, divisor: int, *, fixed_size: bool, square: bool, first_only: bool = False
    ) -> list[bool] | None:
        """Return exactness by level at multiples of `divisor`; ``None`` if the network does not accept them."""
        if not fixed_size and not self._follows(cut, divisor):
            return None
        exact = [True] * (cut + 1)
        for height, width in self._trials(divisor)[: 1 if first_only else 2 if fixed_size else None]:
            size = (height, height if square else width)
            shapes = self._maps(cut, size, fixed_size=fixed_size)
            if shapes is None:
                return None
            exact = [e and self._is_exact(i, shapes[i], size) for i, e in enumerate(exact)]
        return exact

    def _is_exact(self, index: int, shape: tuple[int, int, int], size: _Size) -> bool:
        stride = self.strides[index]
        return shape[1:] == (ceil_div(size[0], stride), ceil_div(size[1], stride))

    def _min_size(self, levels: Sequence[NativeLevel]) -> int | None:
        """Return the side of the smallest square that gives every level a cell, by bisection over the divisor."""
        free = [level for level in levels if not level.fixed_size]
        if not free:
            return None
        divisor = free[-1].size_divisor
        assert divisor is not None, "only a fixed size may lack one"

        def works(side: int) -> bool:
            size = (side, side)
            shapes = self._maps(free[-1].index, size, batch=1)  # group norms of one cell fail for one image
            return shapes is not None and all(
                min(s[1:]) > 0 and (not level.exact or self._is_exact(level.index, s, size))
                for level, s in zip(free, shapes, strict=True)
            )

        return self._smallest(divisor, divisor, works) - divisor + 1

    def _smallest(self, first: int, divisor: int, works: Callable[[int], bool]) -> int:
        """Return the smallest multiple of `divisor` from `first` up that works, by bisection up to the default size."""
        low, high = (
            ceil_div(first, divisor),
            max(ceil_div(self.scale * self.default[0], divisor), ceil_div(first, divisor)),
        )
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if works(middle * divisor) else (middle + 1, high)
        return low * divisor

    def _pooled(self, levels: Sequence[NativeLevel]) -> tuple[int | None, int | None]:
        """Return the divisor and the smallest side of the pooled model; ``None`` where they are those of the levels.

        Its last layers may need more: those of GhostNetV2 pool maps by two, and others merge cells.
        """
        deepest = levels[-1]
        model = self.create(**self.any_size_kwargs).eval()
        if deepest.fixed_size or not hasattr(model, "get_classifier"):
            return None, None

        def takes(size: _Size) -> bool:
            with contextlib.suppress(*FAILURES), torch.no_grad():
                model(self._images(size, batch=1))
                return True
            return False

        least = self._min_size(levels)
        assert least is not None, "its deepest level takes any size"
        assert deepest.size_divisor is not None, "as above"
        divisors = (d for d in self.divisors if d % deepest.size_divisor == 0)
        divisor = next((d for d in divisors if all(map(takes, self._trials(d)[:2]))), None)
        if divisor is None:
            return None, None  # it may pool only images of its default size
        first = round_up(least, divisor)
        smallest = self._smallest(first, divisor, lambda side: takes((side, side)))
        return (None if divisor == deepest.size_divisor else divisor), (None if smallest == first else smallest)

    def _takes_any_channels(self, shapes: _Shapes) -> bool:
        """Whether the network accepts images with another number of channels; color transforms may not."""
        channels = self.in_chans + 1
        images = torch.empty(2, channels, *self.usual)
        arguments = self.any_size_kwargs | (
            {"img_size": self.usual} if self.built and self.usual != self.default else {}
        )
        with warnings.catch_warnings(), contextlib.suppress(*FAILURES), torch.no_grad():
            warnings.simplefilter("ignore")  # timm warns of cases that may still work
            model = self.create(**arguments, in_chans=channels)
            net = Levels(model, range(len(shapes)), patch=self.patch).eval()
            return [tuple(m.shape[1:]) for m in net(images)] == shapes
        return False

    def _norm_channels(self, x: Tensor) -> int | None:
        """Return the channels with ``norm=True``; ``None`` if that uses no further parameters."""
        net = self._net(self.cuts[-1])
        assert net is not None, "the network was built before"
        without = {name for name, _ in net.named_parameters()}
        normed = Levels(self.create(**self.any_size_kwargs), [self.cuts[-1]], norm=True, patch=self.patch).train()
        try:
            unused = unused_parameters(normed, x)
            channels = normed(x)[0].shape[1]
        except FAILURES:  # some models refuse it
            return None
        used = any(name not in without and name not in unused for name, _ in normed.named_parameters())
        return channels if used else None

    def _has_unused_params(self, x: Tensor) -> bool:
        """Whether in any of the cut networks a parameter gets no gradient from the deepest map."""
        nets = [self._net(cut) for cut in self.cuts]
        return any(net is not None and unused_parameters(net.train(), x, last_only=True) for net in nets)

    def _net(self, cut: int, img_size: _Size | None = None) -> nn.Module | None:
        """Return the network cut at `cut`, with all its levels; ``None`` if it cannot be built."""
        key = (cut, tuple(self.any_size_kwargs), self.patch, img_size)
        if key not in self.nets:
            arguments = self.any_size_kwargs | ({} if img_size is None else {"img_size": img_size})
            try:
                net = Levels(self.create(**arguments), range(cut + 1), patch=self.patch).eval()
            except FAILURES:
                net = None
            self.nets[key] = net
        return self.nets[key]

    def _maps(self, cut: int, size: _Size, *, fixed_size: bool = False, batch: int = 2) -> _Shapes | None:
        """Return the shapes of the maps up to `cut`, or ``None`` if the network does not accept `size`.

        If `fixed_size`, the network is built for `size`.
        """
        for deeper in (c for c in reversed(self.cuts) if c >= cut):  # a deeper network has the same first levels
            shapes = self.shapes.get((deeper, tuple(self.any_size_kwargs), self.patch, size, fixed_size, batch))
            if shapes is not None:
                return shapes[: cut + 1]
        key = (cut, tuple(self.any_size_kwargs), self.patch, size, fixed_size, batch)
        if key not in self.shapes:
            net = self._net(cut, size if fixed_size and size != self.default else None)
            self.shapes[key] = None
            if net is not None:
                with contextlib.suppress(*FAILURES), torch.no_grad():
                    self.shapes[key] = [(m.shape[1], m.shape[2], m.shape[3]) for m in net(self._images(size, batch))]
        return self.shapes[key]

    def _images(self, size: _Size, batch: int = 2) -> Tensor:
        return torch.empty(batch, self.in_chans, *size, device="meta")


def _sides(model: nn.Module, name: str) -> set[int]:
    """Return the sides in an attribute of a model's modules, such as those of patches or windows."""
    values = (getattr(module, name, None) for module in model.modules())
    return {n for v in values for n in (v if isinstance(v, tuple | list) else (v,)) if isinstance(n, int) and n > 0}
