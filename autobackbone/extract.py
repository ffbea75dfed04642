"""From many images to a table of features, and opening it."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autobackbone.backbone import FeatureBackbone
from autobackbone.config import BackboneConfig
from autobackbone.errors import ConfigError, UnsupportedError, WeightsError
from autobackbone.inspection import get_input_spec
from autobackbone.modes import evaluating
from autobackbone.unwrapping import unwrap
from autobackbone.values import as_integer, one_of, path_of, shown

if TYPE_CHECKING:
    from autobackbone.extraction.columns import Column
    from autobackbone.extraction.preparation import Preparation
    from autobackbone.extraction.run import ExtractionReport
    from autobackbone.extraction.table import FeatureTable

_PACKAGES = ("pyarrow", "fsspec")
_ENGINES = ("local", "ray")


def extract_features(
    backbone: nn.Module,
    images: Any,
    output: str | os.PathLike[str],
    *,
    keep: Any = None,
    column: str | None = None,
    resize: str = "crop",
    image_size: tuple[int, int] | int | None = None,
    scaled_decoding: bool = True,
    transform: Callable[[Any], Tensor] | None = None,
    dtype: str | torch.dtype = "float32",
    batch_size: int | None = None,
    workers: int | None = None,
    strict: bool = False,
    retry_errors: bool = False,
    show_progress: bool | None = None,
    engine: str = "local",
) -> "ExtractionReport":
    """Write the features of images to a folder of Parquet files.

    Call it again with the same arguments to go on after a stop of any kind: images that are in the table are not
    computed again. So new images in a folder are added, too. An image that cannot be read is a row in
    ``errors.parquet``. Read the table with `open_features`. Needs the extra ``autobackbone[extract]``.

    Under torchrun, each process computes a share of the parts.

    Parameters
    ----------
    backbone
        Of `create_backbone`, for its pooled feature, or of `create_feature_backbone`, for maps. It runs on its own
        device, in its own dtype, in evaluation mode; its own mode does not change.
    images
        - a folder, searched at any depth: ids are paths within it;
        - a pattern such as ``"photos/**/*.jpg"``, or a list of paths: ids are the paths;
        - a ``.txt`` file with a path a line, or a ``.csv``, ``.tsv`` or ``.parquet`` file with a `column` of paths,
          relative to the file: ids are the paths as they stand there, and empty cells are left out;
        - one or several ``.parquet`` files with a `column` of encoded images, or uncompressed ``.tar`` archives as
          webdataset has them: ids are file and row, or file and member, with ``!`` between;
        - a frame of pandas or polars with a `column` of paths;
        - a Hugging Face ``Dataset``, a torch ``Dataset`` with a length, or a list of PIL images: ids are the positions.
          Of a tuple, the first value is the image; of a mapping, `column`. Tensors are taken as normalized.

        Paths may be addresses for fsspec (``"s3://..."``). Images are turned upright, and converted to RGB or gray.
    output
        The folder of the table, made if need be; an address for fsspec, too.
    keep
        For a feature backbone: ``"mean"``, ``"max"``, ``"gem"`` (generalized mean with power 3, of values above 0),
        ``"gridK"`` (means over K x K cells of equal size), or ``"map"`` (the map itself), for every level; or a mapping
        from names of levels to one or several of these. Columns are named ``c5_mean`` and so on. ``None`` for the mean
        of each level. A pooled backbone has one column, ``pooled``, or ``logits`` if it has a head.
    column
        Of a table or data set, the one that holds the images.
    resize
        ``"crop"`` to resize and crop as the weights were evaluated, ``"stretch"`` to resize without a crop, ``"none"``
        to keep the size of every image. Then images of one size are computed together, and maps have sizes of their
        own.
    image_size
        ``(height, width)`` in pixels to resize to, or one number for a square; ``None`` for the backbone's own.
    scaled_decoding
        Decode JPEGs that are shrunk to half their size or less at 1/2, 1/4 or 1/8 of it. Many times faster for large
        photographs; values differ a little from those of a full decoding.
    transform
        A function from an upright RGB or gray PIL image to a normalized ``(C, H, W)`` tensor, in place of `resize` and
        `image_size`. It runs in several threads. Another one is refused in the same folder: it is told by its repr, a
        function by its code. What a function calls is not looked at.
    dtype
        In which features are kept: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
    batch_size
        Images at once; ``None`` for 8 per thread on CPUs, and 64 on other devices. Halved if the device has too little
        memory.
    workers
        Threads that decode; ``None`` for one per thread of torch on CPUs, or per core beside another device.
    strict
        Stop at the first image that cannot be read.
    retry_errors
        Try images again that had errors in a run before.
    show_progress
        Show a bar; ``None`` for a bar on a terminal, and lines in the log ``autobackbone`` elsewhere.
    engine
        ``"local"`` for this machine; ``"ray"`` for a Ray cluster, with one worker per GPU (needs the extra
        ``autobackbone[ray]``).

    Returns
    -------
    ExtractionReport
        How many images were listed, skipped, extracted, and failed.

    Raises
    ------
    ConfigError
        If the backbone is none of this package, or an argument cannot be honored.
    InputError
        If there are no images, or they are out of reach; if `strict`, also if one of them cannot be read.
    InputSizeError
        If the backbone does not accept images of this size.
    OutputError
        If the folder holds something else, features made otherwise, or another run, or cannot be written.
    UnsupportedError
        If the extra is not installed.
    WeightsError
        If the backbone is on the meta device.

    Examples
    --------
    >>> from autobackbone import create_backbone, extract_features, open_features
    >>> backbone = create_backbone("resnet18", pretrained=False)
    >>> report = extract_features(backbone, "photos", "features")  # doctest: +SKIP
    >>> open_features("features").numpy("pooled").shape  # doctest: +SKIP
    (3, 512)
    """
    engine = one_of("engine", engine, _ENGINES)
    _check_packages(engine)
    from autobackbone.extraction.lanes import Job
    from autobackbone.extraction.listing import list_images
    from autobackbone.extraction.output import Output
    from autobackbone.extraction.parts import Layout
    from autobackbone.extraction.preparation import Preparation
    from autobackbone.extraction.progress import progress
    from autobackbone.extraction.recipe import Recipe
    from autobackbone.extraction.run import ExtractionReport, Written, chunks_of, rows_per_part, run_here
    from autobackbone.extraction.sole_run import sole_run
    from autobackbone.weights.kinds import DTYPES

    dtype = one_of("dtype", str(dtype).removeprefix("torch."), DTYPES)
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value is not None and as_integer(value, 1) is None:
            msg = f"{name} must be a positive integer or None, got {shown(value)}."
            raise ConfigError(msg)
    flags = {"scaled_decoding": scaled_decoding, "strict": strict, "retry_errors": retry_errors}
    for name, flag in flags.items():
        _check_flag(name, flag)
    preparation = Preparation.of(get_input_spec(backbone), resize, image_size, transform, scaled=scaled_decoding)
    out = Output(path_of(output, "output"))
    out.check()
    run, world = run_here()
    with evaluating(backbone):
        columns = _columns(backbone, keep, preparation)
        listed, repeated = list_images(images, column)
        preparation = preparation.for_images(listed)
        recipe = Recipe.of(backbone, columns, preparation, dtype)
        layout = Layout(columns, preparation.input_size, DTYPES[dtype], recipe)
        job = Job(backbone, listed, preparation, columns, layout, batch_size, workers, strict)
        out.prepare()
        with sole_run(out, run):
            written = Written(out, recipe)
            rows = rows_per_part(layout, len(listed.refs))
            skipped, chunks = chunks_of(listed.refs, written, rows, run.rank, world, retry=retry_errors)
            total = skipped + sum(len(chunk.refs) for chunk in chunks)
            extracted = 0
            try:
                with progress(total, skipped, show=show_progress) as on_images:
                    for done in _engine(engine)(job, out, chunks, on_images) if chunks else ():
                        extracted += done.extracted
                        written.fail(done.failures)
            finally:
                with out.lock():
                    if retry_errors or world > 1:  # images that have features now, and the errors of other processes
                        written = Written(out, recipe)
                    out.write_errors(written.failures)
    return ExtractionReport(
        output=out.address,
        listed=total,
        repeated=repeated,
        skipped=skipped,
        extracted=extracted,
        failed=len(written.failures),
    )


def open_features(output: str | os.PathLike[str]) -> "FeatureTable":
    """Open a table that `extract_features` wrote.

    Parameters
    ----------
    output
        Its folder; an address for fsspec, too.

    Raises
    ------
    InputError
        If there is no table.
    OutputError
        If a part of it is damaged, or cannot be read.
    UnsupportedError
        If the extra is not installed.
    """
    _check_packages("local")
    from autobackbone.extraction.table import FeatureTable

    return FeatureTable(path_of(output, "output"))


def _check_packages(engine: str) -> None:
    """Raise UnsupportedError if an extra is not installed."""
    for extra, packages in (("extract", _PACKAGES), ("ray", ("ray",) if engine == "ray" else ())):
        missing = [name for name in packages if find_spec(name) is None]
        if missing:
            msg = f"Tables of features need {', '.join(missing)}: pip install 'autobackbone[{extra}]'."
            raise UnsupportedError(msg)


def _check_flag(name: str, value: Any) -> None:
    """Raise ConfigError for a value that is no bool."""
    if not isinstance(value, bool):
        msg = f"{name} must be True or False, got {shown(value)}."
        raise ConfigError(msg)


def _engine(name: str) -> Any:
    """Return the function that computes and writes parts."""
    if name == "ray":
        from autobackbone.integrations.ray import run_on_ray

        return run_on_ray
    from autobackbone.extraction.run import run_locally

    return run_locally


def _columns(backbone: nn.Module, keep: Any, preparation: "Preparation") -> "tuple[Column, ...]":
    """Return what is kept, after trying the backbone on an image without content.

    Raises
    ------
    ConfigError
        If the backbone is none of this package's, or does not have what to keep.
    InputSizeError
        If it does not accept images of the size that they will have.
    WeightsError
        If it is on the meta device.
    """
    from autobackbone.extraction.columns import level_columns, pooled_columns
    from autobackbone.extraction.recipe import config_of

    inner = unwrap(backbone)
    config = config_of(inner)
    if next(backbone.parameters()).is_meta:
        msg = "A backbone on the meta device has no weights; create it on another device."
        raise WeightsError(msg)
    if isinstance(inner, FeatureBackbone):
        columns = level_columns(keep, inner.levels)
    with torch.inference_mode():
        like = next(backbone.parameters())
        size = preparation.input_size or preparation.spec.size
        output = backbone(torch.zeros(1, preparation.spec.in_chans, *size, device=like.device, dtype=like.dtype))
    if isinstance(config, BackboneConfig):
        columns = pooled_columns(keep, output.shape[1], has_head=config.num_classes > 0)
    return columns
