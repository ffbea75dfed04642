"""Export to ONNX."""

import math
import os
import re
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autobackbone.backbone import FeatureBackbone
from autobackbone.errors import ConfigError, InputSizeError, UnsupportedError, WeightsError
from autobackbone.fpn import FeaturePyramid
from autobackbone.input_spec import InputSpec
from autobackbone.inspection import input_spec_of
from autobackbone.levels import round_up
from autobackbone.unwrapping import unwrap
from autobackbone.values import as_path, as_size, shown
from autobackbone.weights.hub import first_line

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TOLERANCES = {torch.float32: 1e-3, torch.float16: 3e-2}  # of the largest value; operations run in another order
_ANSI = re.compile(r"\x1b\[\d+m")
_WITH_LEVELS = (FeatureBackbone, FeaturePyramid)
_LARGEST = 2**31  # bytes in a protobuf file; larger weights go into a separate file


def export_onnx(
    backbone: nn.Module,
    path: str | os.PathLike[str],
    input_size: tuple[int, int] | int | None = None,
    *,
    dynamic_size: bool = False,
) -> None:
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

    Raises
    ------
    UnsupportedError
        If the architecture cannot be exported this way, if its dtype is neither float32 nor float16, or if the extra is
        not installed.
    InputSizeError
        If the backbone does not accept images of `input_size`.
    ConfigError
        If `backbone` is not from this package, or `path` cannot be written.
    WeightsError
        If `backbone` is on the meta device.
    """
    backbone = unwrap(backbone)
    spec = input_spec_of(backbone)
    if spec is None:
        msg = f"export_onnx() takes a backbone of this package, got {type(backbone).__name__}."
        raise ConfigError(msg)
    file = _checked_path(path)
    _check_exportable(backbone)
    multiple = 1 if isinstance(backbone, _WITH_LEVELS) else spec.size_divisor  # pooled backbones do not pad
    size = _checked_size(input_size, spec, multiple)
    if spec.fixed_size and dynamic_size:
        msg = f"dynamic_size=True: the backbone takes {spec.size[0]}x{spec.size[1]} images only; leave it out."
        raise UnsupportedError(msg)
    like = next(backbone.parameters())
    was_training = backbone.training
    try:
        backbone.eval()
        off = torch.autocast(like.device.type, enabled=False)
        with off, tempfile.TemporaryDirectory(dir=file.parent, prefix=".exporting-") as folder:
            draft = Path(folder) / file.name
            shapes = _other_shapes(size, multiple) if dynamic_size else [(2, *size), (1, *size)]
            batches = [torch.rand(n, spec.in_chans, *hw, device=like.device, dtype=like.dtype) for n, *hw in shapes]
            names = _output_names(backbone)
            _write(backbone, batches[0], draft, names, dynamic_size=dynamic_size)
            _compare(backbone, batches, draft, names)
            for part in sorted(Path(folder).iterdir(), reverse=True):  # the ONNX file after its data file
                part.replace(file.parent / part.name)
    except OSError as err:
        msg = f"path={os.fspath(path)!r} cannot be written: {first_line(err)}."
        raise ConfigError(msg) from err
    finally:
        backbone.train(was_training)


def _checked_path(path: Any) -> Path:
    file = Path(as_path(path) or "")
    if file.suffix != ".onnx" or not file.parent.is_dir() or file.is_dir():
        text = as_path(path)
        msg = f"path={shown(path if text is None else text)}: name a file that ends in .onnx, in a folder that exists."
        raise ConfigError(msg)
    return file


def _check_exportable(backbone: nn.Module) -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        msg = f"Export to ONNX needs {', '.join(missing)}: pip install 'autobackbone[onnx]'."
        raise UnsupportedError(msg)
    like = next(backbone.parameters())
    if like.is_meta:
        msg = "A backbone on the meta device has no weights to export; create it on another device."
        raise WeightsError(msg)
    if like.dtype not in _TOLERANCES:
        msg = f"onnxruntime does not compute in {like.dtype}; call backbone.float() first."
        raise UnsupportedError(msg)


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


def _write(backbone: nn.Module, images: Tensor, file: Path, names: list[str], *, dynamic_size: bool) -> None:
    axes = {0: "batch"} | ({2: "height", 3: "width"} if dynamic_size else {})
    weights = sum(t.numel() * t.element_size() for t in backbone.state_dict().values())
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about the internals of torch and onnxscript
            torch.onnx.export(
                backbone,
                (images,),
                file,
                dynamo=True,
                input_names=["images"],
                output_names=names,
                dynamic_shapes=(axes,),
                external_data=weights >= _LARGEST,
                verbose=False,
            )
    except Exception as err:  # torch's compiler can raise anything
        cause: BaseException = err
        while cause.__cause__ is not None:
            cause = cause.__cause__
        remedy = " Leave dynamic_size=False." if dynamic_size else ""
        msg = f"torch could not export {_name_of(backbone)}: {_ANSI.sub('', first_line(cause))}.{remedy}"
        raise UnsupportedError(msg) from err


def _compare(backbone: nn.Module, batches: list[Tensor], file: Path, names: list[str]) -> None:
    """Raise UnsupportedError unless onnxruntime returns the same outputs as the backbone."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        results = [session.run(names, {"images": images.cpu().numpy()}) for images in batches]
    except Exception as err:  # onnxruntime's errors have no common base
        msg = f"onnxruntime does not run {_name_of(backbone)} as exported: {first_line(err)}."
        raise UnsupportedError(msg) from err
    for images, outputs in zip(batches, results, strict=True):
        with torch.no_grad():
            expected = backbone(images)
        maps = (
            expected.values()
            if isinstance(expected, dict)
            else [expected]
            if isinstance(expected, Tensor)
            else expected
        )
        for name, output, y in zip(names, outputs, maps, strict=True):
            error = _error(torch.from_numpy(output), y.cpu())
            if not error < _TOLERANCES[images.dtype]:
                msg = (
                    f"onnxruntime gives something else than {_name_of(backbone)} for {name!r} of {tuple(images.shape)} "
                    f"images: {output.shape} for {tuple(y.shape)}, up to {error:.1%} of its largest value off. Nothing "
                    "was written."
                )
                raise UnsupportedError(msg)


def _error(output: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value; infinity if the shapes differ."""
    if output.shape != expected.shape:
        return math.inf
    return float((output - expected).abs().max() / expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny))


def _name_of(backbone: nn.Module) -> str:
    inner = backbone.backbone if isinstance(backbone, FeaturePyramid) else backbone
    return repr(inner.config.model_name) if isinstance(inner, FeatureBackbone) else type(inner).__name__
