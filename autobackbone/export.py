"""Export to files that other programs run: ONNX, and archives of torch.export."""

import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from autobackbone.backbone import FeatureBackbone
from autobackbone.errors import ConfigError, InputSizeError, UnsupportedError, WeightsError
from autobackbone.export_formats import Format, OnnxFormat, ProgramFormat, name_of, named
from autobackbone.fpn import FeaturePyramid
from autobackbone.input_spec import InputSpec
from autobackbone.inspection import input_spec_of
from autobackbone.levels import round_up
from autobackbone.modes import evaluating
from autobackbone.onnx_quantization import QuantizationPlan, checked_plan
from autobackbone.quantization_report import QuantizationReport
from autobackbone.unwrapping import unwrap
from autobackbone.values import as_path, as_size, shown
from autobackbone.weights.hub import first_line

_WITH_LEVELS = (FeatureBackbone, FeaturePyramid)


@overload
def export_onnx(
    backbone: nn.Module,
    path: str | os.PathLike[str],
    input_size: tuple[int, int] | int | None = None,
    *,
    dynamic_size: bool = False,
) -> None: ...


@overload
def export_onnx(
    backbone: nn.Module,
    path: str | os.PathLike[str],
    input_size: tuple[int, int] | int | None = None,
    *,
    dynamic_size: bool = False,
    quantize: str,
    calibration: Iterable[Tensor],
    min_similarity: float = 0.99,
) -> QuantizationReport: ...


def export_onnx(
    backbone: nn.Module,
    path: str | os.PathLike[str],
    input_size: tuple[int, int] | int | None = None,
    *,
    dynamic_size: bool = False,
    quantize: str | None = None,
    calibration: Iterable[Tensor] | None = None,
    min_similarity: float = 0.99,
) -> QuantizationReport | None:
    """Write a backbone as an ONNX file. The file is written only if onnxruntime returns the same outputs.

    The batch size is dynamic. The input is ``images``, ``(B, C, H, W)``, normalized. There is one output per level,
    with the level's name. A backbone with pooled output has one output: ``logits`` if it has a head, else
    ``features``. Needs the extra ``autobackbone[onnx]``.

    Parameters
    ----------
    backbone
        A backbone of either kind, or a `FeaturePyramid`. It is exported in evaluation mode; its own mode does not
        change.
    path
        The file to write, ending in ``.onnx``. An existing file is replaced if the export succeeds. Weights of more
        than 2 GB go into a second file with ``.data`` appended to the name.
    input_size
        ``(height, width)`` of the images in pixels, or one number for a square; ``None`` for the backbone's default.
    dynamic_size
        Accept any height and width from twice the largest stride up, if the architecture allows it. The outputs are
        compared at several sizes, `input_size` among them.
    quantize
        ``None``, or how onnxruntime quantizes the file:

        - ``"int8_static"``: weights and maps have 8 bits. The ranges of the maps are found with `calibration`. For
          networks of convolutions.
        - ``"int8_dynamic"``: weights and inputs of products of matrices have 8 bits. The range of an input is found as
          it comes, over the batch: the maps of an image depend a little on those beside it. For transformers, ConvNeXt
          and the like.

        Batch norms are folded first. Processors without instructions for 8-bit products (VNNI) may lose accuracy that
        the comparison on another processor does not show.
    calibration
        Batches of images for `quantize`, ``(B, C, H, W)`` tensors, normalized, like those that the file will get; some
        tens to hundreds of images. Of `input_size`, unless `dynamic_size`. The outputs are compared on them too.
    min_similarity
        What is refused: less than this cosine similarity, from -1 to 1, of a quantized output to that of `backbone`,
        a mean over the images.

    Returns
    -------
    QuantizationReport or None
        Of a quantized file: the similarity of each output, and the sizes of the file with and without quantization.

    Raises
    ------
    UnsupportedError
        If the architecture cannot be exported this way, if its dtype is neither float32 nor float16, or if the extra is
        not installed. With `quantize`: if its dtype is not float32, it has nothing that is quantized this way, or the
        outputs would be less alike than `min_similarity`.
    InputSizeError
        If the backbone does not accept images of `input_size`, or images of `calibration` have another size.
    InputError
        If `calibration` yields images that the backbone does not accept, or NaN.
    ConfigError
        If `backbone` is not from this package, `path` cannot be written, or `quantize` or `calibration` is none of
        these.
    WeightsError
        If `backbone` is on the meta device.
    """
    plan = None if quantize is None and calibration is None else checked_plan(quantize, calibration, min_similarity)
    if isinstance(backbone, FeatureBackbone) and backbone.inference is not None and backbone.inference.quantization:
        msg = 'The backbone is quantized; export the one that it was made from, with quantize="int8_dynamic".'
        raise UnsupportedError(msg)
    return _export(OnnxFormat(), backbone, path, input_size, dynamic_size=dynamic_size, plan=plan)


def export_program(
    backbone: nn.Module,
    path: str | os.PathLike[str],
    input_size: tuple[int, int] | int | None = None,
    *,
    dynamic_size: bool = False,
) -> None:
    """Write a backbone as an archive of torch.export. The archive is written only if it returns the same outputs.

    ``torch.export.load(path).module()`` is the backbone in evaluation mode. It needs torch, and neither this package
    nor timm. If the backbone is quantized by ``"int8_dynamic"``, it needs torchao, imported before. It takes
    ``images``, ``(B, C, H, W)``, normalized, on the device and in the dtype that the backbone has now, with any batch
    size. It returns a dict of the maps by level name, in the order of the levels, as `FeatureBackbone.forward_dict`
    does. That of a backbone with pooled output returns its ``(B, num_features)`` or ``(B, num_classes)`` tensor.

    Parameters
    ----------
    backbone
        A backbone of either kind, or a `FeaturePyramid`. It is exported in evaluation mode; its own mode does not
        change.
    path
        The file to write, ending in ``.pt2``. An existing file is replaced if the export succeeds.
    input_size
        ``(height, width)`` of the images in pixels, or one number for a square; ``None`` for the backbone's default.
    dynamic_size
        Accept any height and width from twice the largest stride up, if the architecture allows it. The outputs are
        compared at several sizes, `input_size` among them.

    Raises
    ------
    UnsupportedError
        If the architecture cannot be exported this way.
    InputSizeError
        If the backbone does not accept images of `input_size`.
    ConfigError
        If `backbone` is not from this package, or `path` cannot be written.
    WeightsError
        If `backbone` is on the meta device.
    """
    _export(ProgramFormat(), backbone, path, input_size, dynamic_size=dynamic_size)


def _export(
    file_format: Format,
    backbone: nn.Module,
    path: Any,
    input_size: Any,
    *,
    dynamic_size: bool,
    plan: QuantizationPlan | None = None,
) -> QuantizationReport | None:
    backbone = unwrap(backbone)
    spec = input_spec_of(backbone)
    if spec is None:
        msg = f"{file_format.function}() takes a backbone of this package, got {type(backbone).__name__}."
        raise ConfigError(msg)
    file = _checked_path(path, file_format.suffix)
    like = _checked_parameter(backbone, file_format)
    multiple = 1 if isinstance(backbone, _WITH_LEVELS) else spec.size_divisor  # pooled backbones do not pad
    size = _checked_size(input_size, spec, multiple)
    if spec.fixed_size and dynamic_size:
        msg = f"dynamic_size=True: the backbone takes {spec.size[0]}x{spec.size[1]} images only; leave it out."
        raise UnsupportedError(msg)
    shapes = _other_shapes(size, multiple) if dynamic_size else [(2, *size), (1, *size)]
    images = None if plan is None else plan.images(spec, like, None if dynamic_size else size)
    names = _output_names(backbone)
    report = None
    off = torch.autocast(like.device.type, enabled=False)
    try:
        with off, evaluating(backbone), tempfile.TemporaryDirectory(dir=file.parent, prefix=".exporting-") as folder:
            draft = Path(folder) / file.name
            batches = [_random_images((batch, spec.in_chans, *hw), like) for batch, *hw in shapes]
            file_format.write(backbone, batches[0], draft, names, dynamic_size=dynamic_size)
            _compare(file_format, backbone, batches, draft, names)
            if plan is not None and images is not None:
                report = plan.quantize(draft, images, lambda x: named(backbone(x), names), name_of(backbone))
            for part in sorted(Path(folder).iterdir(), reverse=True):  # the ONNX file after its data file
                part.replace(file.parent / part.name)
    except OSError as err:
        msg = f"path={os.fspath(path)!r} cannot be written: {first_line(err)}."
        raise ConfigError(msg) from err
    return report


def _checked_path(path: Any, suffix: str) -> Path:
    file = Path(as_path(path) or "")
    if file.suffix != suffix or not file.parent.is_dir() or file.is_dir():
        text = as_path(path)
        value = shown(path if text is None else text)
        msg = f"path={value}: name a file that ends in {suffix}, in a folder that exists."
        raise ConfigError(msg)
    return file


def _checked_parameter(backbone: nn.Module, file_format: Format) -> Tensor:
    """Return a parameter, whose device and dtype the images need."""
    file_format.check_installed()
    like = next(backbone.parameters())
    if like.is_meta:
        msg = "A backbone on the meta device has no weights to export; create it on another device."
        raise WeightsError(msg)
    if like.dtype not in file_format.tolerances:
        msg = f"{file_format.runner} does not compute in {like.dtype}; call backbone.float() first."
        raise UnsupportedError(msg)
    return like


def _checked_size(input_size: Any, spec: InputSpec, multiple: int) -> tuple[int, int]:
    size = spec.size if input_size is None else as_size(input_size)
    if size is None:
        msg = f"input_size must be (height, width) in pixels, or one integer for a square, got {shown(input_size)}."
        raise ConfigError(msg)
    spec.check(torch.empty(1, spec.in_chans, *size, device="meta"))
    if size != (round_up(size[0], multiple), round_up(size[1], multiple)):
        msg = f"input_size={size}: this backbone has a pooled output and does not pad; give multiples of {multiple}."
        raise InputSizeError(msg)
    return size


def _other_shapes(size: tuple[int, int], multiple: int) -> list[tuple[int, int, int]]:
    """Return (batch, height, width) to compare: as exported, odd, multiples of every stride, multiples of some."""
    even = [round_up(n + 1, 64) for n in size]
    shapes = [(2, *size), (1, size[1] + 17, size[0] + 30), (1, even[0], even[1] + 64), (3, even[1] + 16, even[0] + 32)]
    return [(batch, round_up(height, multiple), round_up(width, multiple)) for batch, height, width in shapes]


def _output_names(backbone: nn.Module) -> list[str]:
    if isinstance(backbone, _WITH_LEVELS):
        return [level.name for level in backbone.levels]
    return ["logits" if getattr(backbone, "num_classes", 0) else "features"]


def _random_images(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return the same images in every call, without a draw from the generator that users seed."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0), device="cpu")
    return images.to(like.device, like.dtype)


def _compare(file_format: Format, backbone: nn.Module, batches: list[Tensor], file: Path, names: list[str]) -> None:
    """Raise UnsupportedError unless the file returns the same outputs as the backbone."""
    runner = file_format.runner
    try:
        with torch.no_grad():
            run = file_format.open(file, names)
            results = [run(images) for images in batches]
    except Exception as err:  # onnxruntime's errors have no common base
        msg = f"{runner} does not run {name_of(backbone)} as exported: {first_line(err)}."
        raise UnsupportedError(msg) from err
    for images, outputs in zip(batches, results, strict=True):
        with torch.no_grad():
            expected = named(backbone(images), names)
        for name, y in expected.items():
            output = outputs[name].cpu()
            error = _error(output, y.cpu())
            if not error < file_format.tolerances[images.dtype]:
                msg = (
                    f"{runner} gives something else than {name_of(backbone)} for {name!r} of {tuple(images.shape)} "
                    f"images: {tuple(output.shape)} for {tuple(y.shape)}, up to {error:.1%} of its largest value off. "
                    "Nothing was written."
                )
                raise UnsupportedError(msg)


def _error(output: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value; infinity if the shapes or dtypes differ."""
    if output.shape != expected.shape or output.dtype != expected.dtype:
        return math.inf
    return float((output - expected).abs().max() / expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny))
