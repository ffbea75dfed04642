"""Quantizing an ONNX file with onnxruntime, and comparing what comes out."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autobackbone.calibration import check_similarity, checked_floor, checked_images, measure_similarity
from autobackbone.errors import ConfigError, UnsupportedError
from autobackbone.export_formats import OnnxFormat
from autobackbone.input_spec import InputSpec
from autobackbone.quantization_report import QuantizationReport
from autobackbone.values import one_of
from autobackbone.weights.hub import first_line

_STATIC, _DYNAMIC = _SCHEMES = ("int8_static", "int8_dynamic")
_LARGEST = 2**31  # bytes in a protobuf file: what onnxruntime quantizes is one file
_PRODUCTS = ["MatMul", "Gemm"]  # that have a fast 8-bit form with ranges found as the inputs come


@dataclass(frozen=True)
class QuantizationPlan:
    """How a file is to be quantized; see `export_onnx`."""

    scheme: str
    calibration: Any
    min_similarity: float

    def images(self, spec: InputSpec, like: Tensor, size: tuple[int, int] | None) -> list[Tensor]:
        """Return the images to calibrate with; see `checked_images`.

        Raises
        ------
        UnsupportedError
            If the backbone is not in float32.
        """
        if like.dtype != torch.float32:
            msg = f"quantize={self.scheme!r}: the backbone is in {like.dtype}; call backbone.float() first."
            raise UnsupportedError(msg)
        return checked_images(self.calibration, spec, like, size)

    def quantize(
        self, file: Path, batches: list[Tensor], expected: Callable[[Tensor], Mapping[str, Tensor]], name: str
    ) -> QuantizationReport:
        """Quantize a file, in place.

        Parameters
        ----------
        file
            In float32.
        batches
            The images.
        expected
            What the file computes, by the name of an output.
        name
            Of the backbone, for messages.

        Raises
        ------
        UnsupportedError
            If onnxruntime cannot quantize it, finds nothing to quantize, or the outputs change too much.
        """
        before = file.stat().st_size
        target = file.with_name(f"quantized-{file.name}")
        self._write(file, target, batches, name)
        outputs = list(expected(batches[0][:1]))
        try:
            run = OnnxFormat().open(target, outputs)
            similarity = measure_similarity(run, expected, batches)
        except Exception as err:  # onnxruntime's errors have no common base
            msg = f"onnxruntime does not run {name} in {self.scheme}: {first_line(err)}."
            raise UnsupportedError(msg) from err
        report = QuantizationReport(self.scheme, similarity, sum(map(len, batches)), before, target.stat().st_size)
        remedy = f"Nothing was written; try more images, quantize={self._other!r}, or lower min_similarity."
        check_similarity(report, self.min_similarity, name, remedy)
        target.replace(file)
        return report

    @property
    def _other(self) -> str:
        return _DYNAMIC if self.scheme == _STATIC else _STATIC

    def _write(self, source: Path, target: Path, batches: list[Tensor], name: str) -> None:
        if source.stat().st_size >= _LARGEST or source.with_name(f"{source.name}.data").exists():
            msg = f"quantize={self.scheme!r}: {name} has more than 2 GB of weights, and onnxruntime quantizes less."
            raise UnsupportedError(msg)
        try:
            with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=target.parent) as folder:
                warnings.simplefilter("ignore")  # about the internals of onnxruntime
                folded = Path(folder) / "folded.onnx"
                _fold(source, folded)
                if self.scheme == _STATIC:
                    _quantize_static(folded, target, batches)
                else:
                    _quantize_dynamic(folded, target)
                quantized = _count_quantized(target)
        except Exception as err:  # onnxruntime's errors have no common base
            msg = f"onnxruntime cannot quantize {name} in {self.scheme}: {first_line(err)}."
            raise UnsupportedError(msg) from err
        if quantized == 0:
            msg = f"quantize={self.scheme!r}: {name} has nothing that is quantized this way; try {self._other!r}."
            raise UnsupportedError(msg)


def checked_plan(quantize: Any, calibration: Any, min_similarity: Any) -> QuantizationPlan:
    """Return what a user asks for; the images are looked at later.

    Raises
    ------
    ConfigError
        If there is no such scheme, there are no images, or `min_similarity` is no cosine.
    """
    if quantize is None:
        msg = f"calibration= is for quantized files; name a scheme, quantize={_STATIC!r} or {_DYNAMIC!r}."
        raise ConfigError(msg)
    scheme = one_of("quantize", quantize, _SCHEMES)
    if calibration is None:
        msg = f"quantize={scheme!r} needs images to compare on: calibration=[images], (B, C, H, W) and normalized."
        raise ConfigError(msg)
    return QuantizationPlan(scheme, calibration, checked_floor(min_similarity))


def _fold(source: Path, target: Path) -> None:
    """Fold norms and constants, and infer the shapes of maps."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(source, target, skip_symbolic_shape=True)


def _quantize_static(source: Path, target: Path, batches: list[Tensor]) -> None:
    """Quantize weights and maps. The range of a map is a mean over the images: a single one should not widen it.

    Norms that are computed from the map itself stay in float32: their weights are vectors, which have no channels to be
    quantized by.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images: Iterator[Tensor] = (image for batch in batches for image in batch)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._images, None)
            return None if image is None else {"images": image[None].cpu().numpy()}

    nodes = onnx.load(source).graph.node
    quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,  # with signed weights, what x86 multiplies fastest
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[node.name for node in nodes if node.op_type.endswith("Normalization")],
        extra_options={"CalibMovingAverage": True},
    )


def _quantize_dynamic(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, op_types_to_quantize=_PRODUCTS, per_channel=True, weight_type=QuantType.QInt8)


def _count_quantized(file: Path) -> int:
    """Return how many weights of 8 bits there are."""
    import onnx

    graph = onnx.load(file).graph
    codes = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    return sum(tensor.data_type in codes and len(tensor.dims) > 1 for tensor in graph.initializer)
