"""How far raw timm's ``features_only=True`` keeps the contract: NCHW maps of ``ceil(size / reduction)`` cells.

Every architecture of the registry, on the meta device, at its default size, 256x320 and 333x257, with timm's defaults.

    python benchmarks/raw_timm.py
"""

import logging
import multiprocessing
import warnings
from collections import Counter

import timm
import torch
from results import options, reporting

SIZES = (None, (256, 320), (333, 257))


def main() -> None:
    """Count the architectures that keep the contract at each size, print, and write."""
    args = options(__doc__).parse_args()
    names = timm.list_models("test_*" if args.quick else "")
    kept: Counter[str] = Counter()
    with reporting("raw_timm", args) as report:
        with multiprocessing.get_context("spawn").Pool(initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for flags in pool.imap_unordered(keeps, names, chunksize=8):
                kept.update(label for label, flag in flags.items() if flag)
        table = report.table("Raw features_only keeps the contract", {"at": "", "architectures": "d", "of": "d"})
        for label, count in kept.items():
            table.add(label, count, len(names))


def keeps(name: str) -> dict[str, bool]:
    """Return at which sizes an architecture keeps the contract."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with torch.device("meta"), torch.no_grad():
        model = timm.create_model(name, features_only=True).eval()
        default = model.pretrained_cfg["input_size"][1:]
        flags = {}
        for size in SIZES:
            height, width = size or default
            try:
                shapes = [tuple(y.shape[1:]) for y in model(torch.empty(1, 3, height, width))]
            except (AssertionError, RuntimeError, ValueError, IndexError):
                shapes = []
            info = model.feature_info
            wanted = [
                (channels, -(-height // stride), -(-width // stride))
                for channels, stride in zip(info.channels(), info.reduction(), strict=True)
            ]
            flags["its default size" if size is None else f"{height}x{width}"] = shapes == wanted
    flags["all three"] = all(flags.values())
    return flags


if __name__ == "__main__":
    main()
