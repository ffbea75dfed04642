"""How many architectures keep the contract, raw and here: NCHW maps of ``ceil(size / stride)`` cells.

Every architecture of timm's registry, on the meta device, at its default size, 256x320 and 333x257. Raw is
``features_only=True`` with timm's defaults, held to the channels and reductions of its own ``feature_info``. Here it is
``create_feature_backbone`` with all native levels, and ``img_size=`` for a fixed-size architecture.

    python benchmarks/raw_timm.py
"""

import logging
import multiprocessing
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import timm
import torch
from results import options, reporting
from torch import Tensor

from autobackbone import InputSizeError, create_feature_backbone, describe_backbone
from autobackbone.sources.meta import meta_device

Size = tuple[int, int]
SIZES = {"its default size": None, "256x320": (256, 320), "333x257": (333, 257)}
TITLE = "Architectures that keep the contract"


def main() -> None:
    """Count the architectures that keep the contract at each size, print, and write."""
    args = options(__doc__).parse_args()
    names = timm.list_models("test_*" if args.quick else "")
    kept: Counter[tuple[str, str]] = Counter()
    with reporting("raw_timm", args) as report:
        with multiprocessing.get_context("spawn").Pool(initializer=_quiet) as pool:
            for found in pool.imap_unordered(keeps, names, chunksize=8):
                kept.update(found)
        table = report.table(TITLE, {"at": "", "raw timm": "d", "autobackbone": "d", "of": "d"})
        for label in (*SIZES, "all three"):
            table.add(label, kept["raw", label], kept["here", label], len(names))


def _quiet() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def keeps(name: str) -> list[tuple[str, str]]:
    """Return the side and the size of each time that an architecture keeps the contract."""
    found = []
    with meta_device(), torch.no_grad():
        for side, kept_at in (("raw", _raw(name)), ("here", _here(name))):
            kept = [label for label, size in SIZES.items() if kept_at(size)]
            found += [(side, label) for label in (*kept, *(["all three"] if len(kept) == len(SIZES) else []))]
    return found


def _raw(name: str) -> Callable[[Size | None], bool]:
    model = timm.create_model(name, features_only=True).eval()
    info, default = model.feature_info, model.pretrained_cfg["input_size"][1:]

    def kept_at(size: Size | None) -> bool:
        images = torch.empty(1, 3, *(size or default))
        try:
            return _kept(images, model(images), info.channels(), info.reduction())
        except (AssertionError, RuntimeError, ValueError, IndexError):
            return False

    return kept_at


def _here(name: str) -> Callable[[Size | None], bool]:
    levels = range(len(describe_backbone(name).levels))
    whole = create_feature_backbone(name, pretrained=False, out_indices=levels).eval()

    def kept_at(size: Size | None) -> bool:
        backbone = whole
        images = torch.empty(1, 3, *(size or whole.input_spec.size))
        try:
            if size and whole.input_spec.fixed_size:
                backbone = create_feature_backbone(name, pretrained=False, out_indices=levels, img_size=size).eval()
            return _kept(images, backbone(images), backbone.channels, backbone.strides)
        except InputSizeError:
            return False

    return kept_at


def _kept(images: Tensor, maps: Sequence[Tensor], channels: Sequence[int], strides: Sequence[int]) -> bool:
    height, width = images.shape[2:]
    wanted = [(c, -(-height // s), -(-width // s)) for c, s in zip(channels, strides, strict=True)]
    return [tuple(y.shape[1:]) for y in maps] == wanted


if __name__ == "__main__":
    main()
