"""The formats of exported files: how a backbone is written in each, and how a file is run."""

import io
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from autobackbone.backbone import FeatureBackbone
from autobackbone.errors import UnsupportedError
from autobackbone.fpn import FeaturePyramid
from autobackbone.weights.hub import first_line

_ANSI = re.compile(r"\x1b\[\d+m")
_LARGEST = 2**31  # bytes in a protobuf file; larger weights go into a separate file


class Format(ABC):
    """A format of exported files."""

    function: str  # that writes it, as messages name it
    suffix: str
    runner: str  # what runs a file, at the beginning of a sentence
    tolerances: Mapping[torch.dtype, float]  # by the dtypes that it computes in: share of an output's largest value

    def check_installed(self) -> None:  # noqa: B027 - most need nothing
        """Raise UnsupportedError if packages that it needs are missing."""

    @abstractmethod
    def write(self, backbone: nn.Module, images: Tensor, file: Path, names: list[str], *, dynamic_size: bool) -> None:
        """Write a backbone, traced with these images, with its outputs under these names.

        Raises
        ------
        UnsupportedError
            If torch cannot trace it.
        OSError
            If the file cannot be written.
        """

    @abstractmethod
    def open(self, file: Path, names: list[str]) -> Callable[[Tensor], Mapping[str, Tensor]]:
        """Return a function that runs a file: images to outputs by name. Both can raise anything."""


class OnnxFormat(Format):
    """ONNX, run by onnxruntime."""

    function = "export_onnx"
    suffix = ".onnx"
    runner = "onnxruntime"
    tolerances = {torch.float32: 1e-3, torch.float16: 3e-2}  # noqa: RUF012 - operations run in another order
    packages = ("onnx", "onnxscript", "onnxruntime")

    def check_installed(self) -> None:
        """Raise UnsupportedError if the extra is missing."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            msg = f"Export to ONNX needs {', '.join(missing)}: pip install 'autobackbone[onnx]'."
            raise UnsupportedError(msg)

    def write(self, backbone: nn.Module, images: Tensor, file: Path, names: list[str], *, dynamic_size: bool) -> None:
        """Write a backbone as an ONNX file, and its weights beside it if they are large."""
        axes = {0: "batch"} | ({2: "height", 3: "width"} if dynamic_size else {})
        weights = sum(t.numel() * t.element_size() for t in backbone.state_dict().values())
        with _tracing(backbone, dynamic_size=dynamic_size):
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

    def open(self, file: Path, names: list[str]) -> Callable[[Tensor], Mapping[str, Tensor]]:
        """Return a function that runs a file on the CPU."""
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> dict[str, Tensor]:
            outputs = session.run(names, {"images": images.cpu().numpy()})
            return dict(zip(names, map(torch.from_numpy, outputs), strict=True))

        return run


class ProgramFormat(Format):
    """An archive of torch.export, run by torch."""

    function = "export_program"
    suffix = ".pt2"
    runner = "The exported program"
    tolerances = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}  # noqa: RUF012

    def write(self, backbone: nn.Module, images: Tensor, file: Path, names: list[str], *, dynamic_size: bool) -> None:
        """Write a backbone as an archive."""
        free = {0: Dim.DYNAMIC} | ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if dynamic_size else {})
        content = io.BytesIO()  # torch ends the process if it cannot write to a file itself
        with _tracing(backbone, dynamic_size=dynamic_size):
            program = torch.export.export(_Named(backbone, names).eval(), (images,), dynamic_shapes=(free,))
            torch.export.save(program, content)
        file.write_bytes(content.getbuffer())

    def open(self, file: Path, names: list[str]) -> Callable[[Tensor], Mapping[str, Tensor]]:
        """Return a function that runs a file where the backbone was when it was exported."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the internals of torch
            module = torch.export.load(file).module()

        def run(images: Tensor) -> dict[str, Tensor]:
            try:
                return named(module(images), names)
            except AssertionError as err:
                msg = f"torch bound it to some sizes ({first_line(err)}); leave dynamic_size=False"
                raise UnsupportedError(msg) from err

        return run


class _Named(nn.Module):
    """A backbone as a program has it: maps by name, or one tensor."""

    def __init__(self, backbone: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.names = names

    def forward(self, images: Tensor) -> dict[str, Tensor] | Tensor:
        outputs = self.backbone(images)
        return outputs if isinstance(outputs, Tensor) else named(outputs, self.names)


def named(outputs: Any, names: list[str]) -> dict[str, Tensor]:
    """Return what a backbone of any kind returns, in order, by name."""
    values = outputs.values() if isinstance(outputs, dict) else [outputs] if isinstance(outputs, Tensor) else outputs
    return dict(zip(names, values, strict=True))


def name_of(backbone: nn.Module) -> str:
    """Return a backbone's name for messages."""
    inner = backbone.backbone if isinstance(backbone, FeaturePyramid) else backbone
    return repr(inner.config.model_name) if isinstance(inner, FeatureBackbone) else type(inner).__name__


@contextmanager
def _tracing(backbone: nn.Module, *, dynamic_size: bool) -> Iterator[None]:
    """Silence torch while it traces a backbone, and translate its errors."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about the internals of torch and onnxscript
            yield
    except Exception as err:  # torch's compiler can raise anything
        cause: BaseException = err
        while cause.__cause__ is not None:
            cause = cause.__cause__
        remedy = " Leave dynamic_size=False." if dynamic_size else ""
        msg = f"torch could not export {name_of(backbone)}: {_ANSI.sub('', first_line(cause))}.{remedy}"
        raise UnsupportedError(msg) from err
