"""Published figures from a checkout of timm's repository: the tables in its folder ``results``."""

import csv
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
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
    tops = {
        column: {key: float(row["top1"]) for key, row in _rows(folder / file, "top1")}
        for column, file in _ACCURACY.items()
    }
    accuracy: defaultdict[str, list[Accuracy]] = defaultdict(list)
    for (name, size), row in sorted(_rows(folder / _ACCURACY["top1"], "top1", "top5")):
        values = {column: found.get((name, size)) for column, found in tops.items() if column != "top1"}
        accuracy[name].append(Accuracy(size, float(row["top1"]), float(row["top5"]), **values))
    rates = {device: dict(_rates(folder / file)) for device, file in _THROUGHPUT.items()}
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


def _rates(path: Path) -> Iterator[tuple[tuple[str, int], float]]:
    """Yield the images per second of architectures, at sizes; what failed there has none."""
    for key, row in _rows(path, "infer_samples_per_sec"):
        if row["infer_samples_per_sec"]:
            yield key, float(row["infer_samples_per_sec"])


def _rows(path: Path, *columns: str) -> Iterator[tuple[tuple[str, int], Mapping[str, str]]]:
    """Yield the rows of a table that have values, by name and size."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                size = row.get("img_size") or row["infer_img_size"]
                yield (row["model"], int(size)), {column: row[column] for column in columns}
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
