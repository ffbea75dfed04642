"""Published figures from a checkout of timm's repository: the tables in its folder ``results``."""

import csv
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from autobackbone.catalog.figures import Accuracy, Figures, Throughput
from autobackbone.errors import ConfigError

_ACCURACY = {
    "top1": "results-imagenet.csv",
    "real": "results-imagenet-real.csv",
    "v2": "results-imagenetv2-matched-frequency.csv",
    "sketch": "results-sketch.csv",
    "a": "results-imagenet-a.csv",
    "r": "results-imagenet-r.csv",
}
_THROUGHPUT = {
    "rtx4090": "benchmark-infer-amp-nchw-pt291-cu128-4090.csv",
    "rtx5090": "benchmark-infer-amp-nchw-pt291-cu130-5090.csv",
    "rtx_pro_6000": "benchmark-infer-amp-nchw-pt291-cu130-pro6000maxq.csv",
    "i9_10940x": "benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv",
}
_URL = "https://github.com/huggingface/pytorch-image-models/tree/{}/results"


def read_results(checkout: Path) -> Figures:
    """Read the figures.

    Parameters
    ----------
    checkout
        A git checkout of huggingface/pytorch-image-models.

    Raises
    ------
    ConfigError
        If it is none, or a table is missing or has other columns.
    """
    commit, date = _revision(checkout)
    folder = checkout / "results"
    tops = {column: dict(_values(folder / file, "top1")) for column, file in _ACCURACY.items()}
    top5 = dict(_values(folder / _ACCURACY["top1"], "top5"))
    accuracy: defaultdict[str, list[Accuracy]] = defaultdict(list)
    for key in sorted(tops["top1"].keys() & top5.keys()):
        values = {column: found.get(key) for column, found in tops.items() if column != "top1"}
        accuracy[key[0]].append(Accuracy(key[1], tops["top1"][key], top5[key], **values))
    rates = {device: dict(_values(folder / file, "infer_samples_per_sec")) for device, file in _THROUGHPUT.items()}
    throughput: defaultdict[str, list[Throughput]] = defaultdict(list)
    for name, size in sorted({key for found in rates.values() for key in found}):
        values = {device: found.get((name, size)) for device, found in rates.items()}
        throughput[name].append(Throughput(size, **values))
    return Figures(
        {
            "title": "Validation and benchmark results of timm",
            "url": _URL.format(commit),
            "license": "Apache-2.0",
            "date": date,
        },
        {name: tuple(rows) for name, rows in accuracy.items()},
        {name: tuple(rows) for name, rows in throughput.items()},
    )


def _values(path: Path, column: str) -> Iterator[tuple[tuple[str, int], float]]:
    """Yield the numbers in a column by name and size; what failed there has none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                size = int(row.get("img_size") or row["infer_img_size"])
                if row[column]:
                    yield (row["model"], size), float(row[column])
    except FileNotFoundError as err:
        msg = f"There is no {str(path)!r}; give a checkout of huggingface/pytorch-image-models that has it."
        raise ConfigError(msg) from err
    except (KeyError, ValueError, TypeError, csv.Error) as err:
        msg = f"{str(path)!r} is no table of timm's results ({type(err).__name__}: {err})."
        raise ConfigError(msg) from err


def _revision(checkout: Path) -> tuple[str, str]:
    """Return the commit that is checked out, and its date."""
    command = ["git", "-C", str(checkout), "log", "-1", "--format=%H %cs"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as err:
        msg = f"{str(checkout)!r} is no git checkout; clone https://github.com/huggingface/pytorch-image-models first."
        raise ConfigError(msg) from err
    commit, date = done.stdout.split()
    return commit, date
