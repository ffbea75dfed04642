"""The command ``extract``."""

import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from autobackbone.cli import options
from autobackbone.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


@click.command()
@click.argument("images")
@options.backbone
@click.option("--out", "-o", required=True, help="Folder of the table; a run that stopped goes on.")
@click.option("--keep", help="pooled (the default); mean, max, gem, grid2 or map of each level; or c4:mean,c5:grid2.")
@click.option("--column", help="Of a table, the one with paths or images.")
@click.option("--resize", default="crop", show_default=True, help="crop, stretch or none.")
@click.option("--size", help="Size to resize to: 224 or 333x257 (height x width).")
@click.option("--full-decoding", is_flag=True, help="Decode large JPEGs at their full size.")
@click.option("--dtype", default="float32", show_default=True, help="Of the table: float32, float16 or bfloat16.")
@click.option("--compute-dtype", default="float32", show_default=True, help="Of the backbone.")
@click.option("--device", help="Such as cuda or cpu. By default, a GPU if there is one.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images at once.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads that decode.")
@click.option("--strict", is_flag=True, help="Stop at the first image that cannot be read.")
@click.option("--retry-errors", is_flag=True, help="Try images again that had errors before.")
@click.option("--engine", default="local", show_default=True, help="local, or ray for a cluster.")
@options.as_json
def extract(
    images: str,
    model: str,
    out: str,
    keep: str | None,
    size: str | None,
    full_decoding: bool,
    compute_dtype: str,
    device: str | None,
    as_json: bool,
    random_weights: bool,
    weights: str | None,
    strides: str | None,
    indices: str | None,
    img_size: str | None,
    **settings: Any,
) -> None:
    """Write the features of IMAGES to a folder of Parquet files.

    IMAGES is a folder, a quoted pattern, a .txt, .csv, .tsv or .parquet file, a .tar archive, or an address of these.
    The same command goes on after a stop.
    """
    if as_json:
        settings["show_progress"] = False
    logging.getLogger("autobackbone").setLevel(logging.INFO)
    wanted = _parsed_keep(keep)
    levels = options.level_fields(strides, indices, img_size)
    is_pooled = wanted in (None, "pooled") and strides is None and indices is None
    loading = options.weights_fields(weights, random_weights)
    image_size = options.image_size("--size", size)
    with options.loading():  # torch takes seconds to import; options are checked first
        from autobackbone.extract import extract_features

    backbone = _placed(model, is_pooled, loading | levels, device, compute_dtype)
    report = extract_features(
        backbone, images, out, keep=wanted, image_size=image_size, scaled_decoding=not full_decoding, **settings
    )
    if as_json:
        print(json.dumps(asdict(report) | {"random_weights": random_weights}))  # noqa: T201
        return
    before = f", {report.skipped} were done before" if report.skipped else ""
    print(f"{report.extracted} images added to {report.output}{before}")  # noqa: T201
    if report.repeated:
        print(f"{report.repeated} were listed more than once, and are in the table once")  # noqa: T201
    if report.failed:
        print(f"{report.failed} have no features: see {report.output.rstrip('/')}/errors.parquet")  # noqa: T201
    if random_weights:
        print("RANDOM WEIGHTS, untrained: the table's metadata says so")  # noqa: T201


def _parsed_keep(text: str | None) -> Any:
    """Parse ``mean``, or ``c4:mean,c5:grid2``."""
    if text is None or ":" not in text:
        return text
    keep: dict[str, list[str]] = {}
    for part in text.split(","):
        level, colon, reduction = (word.strip() for word in part.partition(":"))
        if not (level and colon and reduction):
            msg = f"--keep {text!r}: write levels and reductions, such as c4:mean,c5:grid2."
            raise ConfigError(msg)
        keep.setdefault(level, []).append(reduction)
    return keep


def _placed(model: str, is_pooled: bool, fields: dict[str, Any], device: str | None, dtype: str) -> "nn.Module":
    """Create a backbone of either kind on a device."""
    import torch

    from autobackbone.create import create_backbone, create_feature_backbone
    from autobackbone.weights.kinds import DTYPES

    if dtype not in DTYPES:
        msg = f"--compute-dtype {dtype!r}: it is one of {', '.join(DTYPES)}."
        raise ConfigError(msg)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not fields["pretrained"] and fields["weights"] is None:
        torch.manual_seed(0)  # so that the same random weights can be made again
    if is_pooled:
        fields = {name: value for name, value in fields.items() if not name.startswith("out_")}
        backbone: nn.Module = create_backbone(model, **fields)
    else:
        backbone = create_feature_backbone(model, **fields)
    try:
        return backbone.to(device, DTYPES[dtype])
    except (RuntimeError, AssertionError) as err:  # torch raises either for devices that it does not know or have
        msg = f"--device {device!r} cannot be used ({str(err).splitlines()[0]})."
        raise ConfigError(msg) from err
