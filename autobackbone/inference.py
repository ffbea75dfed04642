"""Deployment: export to ONNX."""

import math
import os
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from autobackbone.backbone import FeatureBackbone
from autobackbone.config import as_size
from autobackbone.errors import ConfigError, UnsupportedError, WeightsError
from autobackbone.hub import first_line
from autobackbone.input_spec import InputSpec
from autobackbone.levels import round_up

_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_TOLERANCE = 1e-3  # of the largest value; float32 in another order of operations
_LARGEST = 2**31  # bytes of a protobuf file; larger weights go to a file beside it


def export_onnx(
    backbone: nn.Module,
    path: str | os.PathLike[str],
    input_size: tuple[int, int] | int | None = None,
    *,
    dynamic_size: bool = False,
) -> None:
    """Write a backbone as an ONNX file, after onnxruntime has given the same outputs.

    The batch is dynamic. Input: ``images``, ``(B, C, H, W)``, normalised. Outputs: one per level, by its name; of a
    backbone with pooled output, ``features``, or ``logits`` if it has a head. Needs the extra ``autobackbone[onnx]``.

    Parameters
    ----------
    backbone
        Of either kind; it is exported in evaluation mode, and left in the mode that it was in.
    path
        The file to write, ending in ``.onnx``; one that is there is replaced if all goes well. Weights of more than
        2 GB are put beside it, in a file of the same name with ``.data`` after it.
    input_size
        ``(height, width)`` of the images in pixels, or one number for a square; ``None`` for the backbone's own.
    dynamic_size
        Take any height and width, where the architecture allows: it is compared at several. From twice the largest
        stride up; `input_size` is one of them.

    Raises
    ------
    UnsupportedError
        If the architecture cannot be exported so, or the extra is not installed.
    InputSizeError
        If the backbone does not take images of `input_size`.
    ConfigError
        If `backbone` is not of this package, or `path` cannot be written.
    WeightsError
        If `backbone` is on the meta device.
    """
    file = Path(path)
    spec = getattr(backbone, "input_spec", None)
    if not isinstance(spec, InputSpec):
        msg = f"export_onnx() takes a backbone of this package, got {type(backbone).__name__}."
        raise ConfigError(msg)
    if file.suffix != ".onnx" or not file.parent.is_dir():
        msg = f"path={os.fspath(path)!r}: name a file that ends in .onnx, in a folder that exists."
        raise ConfigError(msg)
    size = spec.size if input_size is None else as_size(input_size)
    if size is None:
        msg = f"input_size must be (height, width) in pixels, or one integer for a square, got {input_size!r}."
        raise ConfigError(msg)
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        msg = f"Export to ONNX needs {', '.join(missing)}: pip install 'autobackbone[onnx]'."
        raise UnsupportedError(msg)
    if spec.fixed_size and dynamic_size:
        msg = f"dynamic_size=True: the backbone takes {spec.size[0]}x{spec.size[1]} images only; leave it out."
        raise UnsupportedError(msg)
    like = next(backbone.parameters())
    if like.is_meta:
        msg = "A backbone on the meta device has no weights to export; create it on another device."
        raise WeightsError(msg)
    images = torch.rand(2, spec.in_chans, *size, device=like.device, dtype=like.dtype)
    spec.check(images)
    names = _output_names(backbone)
    was_training = backbone.training
    try:
        backbone.eval()
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".exporting-") as folder:
            made = Path(folder) / file.name
            _write(backbone, images, made, names, dynamic_size=dynamic_size)
            for batch, height, width in _other_shapes(size) if dynamic_size else [(2, *size), (1, *size)]:
                x = torch.rand(batch, spec.in_chans, height, width, device=like.device, dtype=like.dtype)
                _compare(backbone, x, made, names)
            for part in sorted(Path(folder).iterdir(), reverse=True):  # the file itself after its data
                part.replace(file.parent / part.name)
    finally:
        backbone.train(was_training)


def _other_shapes(size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Return batches and sizes to compare: as exported, odd, whole in every stride, and whole in some."""
    whole = [round_up(n + 1, 64) for n in size]
    return [
        (2, *size),
        (1, size[1] + 17, size[0] + 30),
        (1, whole[0], whole[1] + 64),
        (3, whole[1] + 16, whole[0] + 32),
    ]


def _output_names(backbone: nn.Module) -> list[str]:
    if isinstance(backbone, FeatureBackbone):
        return [level.name for level in backbone.levels]
    return ["logits" if getattr(backbone, "num_classes", 0) else "features"]


def _write(backbone: nn.Module, images: Tensor, file: Path, names: list[str], *, dynamic_size: bool) -> None:
    axes = {0: "batch"} | ({2: "height", 3: "width"} if dynamic_size else {})
    weights = sum(t.numel() * t.element_size() for t in backbone.state_dict().values())
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch's and onnxscript's own doings
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
    except Exception as err:  # whatever comes out of torch's compiler
        remedy = "leave dynamic_size=False" if dynamic_size else "it cannot be exported"
        msg = f"torch could not export {_called(backbone)}: {first_line(err)}; {remedy}."
        raise UnsupportedError(msg) from err


def _compare(backbone: nn.Module, images: Tensor, file: Path, names: list[str]) -> None:
    """Raise UnsupportedError unless onnxruntime gives what the backbone gives."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        outputs = session.run(names, {"images": images.cpu().numpy()})
    except Exception as err:  # onnxruntime's errors have no common base
        msg = f"onnxruntime does not run {_called(backbone)} as exported: {first_line(err)}."
        raise UnsupportedError(msg) from err
    with torch.no_grad():
        expected = backbone(images)
    maps = [expected] if isinstance(expected, Tensor) else expected
    for name, output, y in zip(names, outputs, maps, strict=True):
        given = torch.from_numpy(output)
        error = float((given - y.cpu()).abs().max() / y.abs().max().cpu()) if given.shape == y.shape else math.inf
        if not error < _TOLERANCE:
            msg = (
                f"onnxruntime gives something else than {_called(backbone)} for {name!r} of {tuple(images.shape)} "
                f"images: {tuple(given.shape)} for {tuple(y.shape)}, up to {error:.1%} of its largest value "
                "off. Nothing was written."
            )
            raise UnsupportedError(msg)


def _called(backbone: nn.Module) -> str:
    return repr(backbone.config.model_name) if isinstance(backbone, FeatureBackbone) else type(backbone).__name__
