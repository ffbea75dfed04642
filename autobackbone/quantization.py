"""Quantized backbones: 8-bit weights, and products of 8-bit numbers."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autobackbone.backbone import FeatureBackbone
from autobackbone.calibration import check_similarity, checked_floor, checked_images, measure_similarity
from autobackbone.errors import UnsupportedError
from autobackbone.inference import check_backbone, comparison_images
from autobackbone.inference_form import InferenceForm
from autobackbone.quantization_report import QuantizationReport
from autobackbone.quantized_linear import SCHEMES
from autobackbone.values import one_of
from autobackbone.weights.hub import first_line
from autobackbone.weights.kinds import DTYPES


def quantize(
    backbone: FeatureBackbone,
    scheme: str,
    calibration: Iterable[Tensor] | None = None,
    *,
    min_similarity: float = 0.99,
) -> FeatureBackbone:
    """Return a copy of a backbone whose linear layers are quantized by torchao.

    - ``"int8_weight_only"``: the weights have 8 bits, with one scale per output. They take a fourth of the memory. The
      layers compute in the dtype of the backbone, which is slower than without.
    - ``"int8_dynamic"``: the inputs of the layers have 8 bits too, with one scale per token that is found as they come.
      Products of 8-bit numbers are faster on CPUs with instructions for them.

    Transformers, ConvNeXt and the like gain from it. Networks of convolutions have no linear layers: quantize those by
    ``export_onnx(..., quantize="int8_static")``.

    The copy is optimized for inference too, as by `optimize_for_inference`. To choose how, give an optimized backbone.
    Levels, names, sizes and the images that it takes stay as they are. It is in evaluation mode for good, computes no
    gradients, and is saved, loaded and exported to torch.export like any other backbone. Needs the extra
    ``autobackbone[quantize]``.

    Parameters
    ----------
    backbone
        With its weights, in evaluation mode. It is not changed.
    scheme
        One of these.
    calibration
        Batches of images, ``(B, C, H, W)`` tensors, normalized, on the device and in the dtype of `backbone`, on which
        the maps are compared. ``None`` for two random images. These schemes need no images for anything else.
    min_similarity
        What is refused: less than this cosine similarity, from -1 to 1, of the maps of a level to those of `backbone`.

    Returns
    -------
    FeatureBackbone
        On the device of `backbone`. Its `quantization_report` tells the similarity of each level, and the sizes.

    Raises
    ------
    ConfigError
        If `backbone` is no feature backbone or is in training mode, `scheme` is none of these, or `calibration` is no
        iterable of tensors or empty.
    InputError
        If `calibration` yields images that the backbone does not accept, or NaN.
    WeightsError
        If `backbone` is on the meta device, or sharded over processes.
    UnsupportedError
        If it has no linear layers, is quantized or holds tensors of other kinds, the device does not compute it, its
        maps would be less alike than `min_similarity`, or the extra is not installed.

    Examples
    --------
    >>> import torch
    >>> from autobackbone import create_feature_backbone, quantize
    >>> backbone = create_feature_backbone("test_vit", pretrained=False).eval()
    >>> small = quantize(backbone, "int8_dynamic", [torch.rand(4, 3, 160, 160)])
    >>> all(alike > 0.99 for alike in small.quantization_report.similarity.values())
    True
    """
    name = one_of("scheme", scheme, SCHEMES)
    floor = checked_floor(min_similarity)
    source = check_backbone(backbone, "quantize")
    like = next(source.parameters())
    form = source.inference
    if form is None:
        dtype = one_of("dtype", str(like.dtype).removeprefix("torch."), DTYPES)
        form = InferenceForm(dtype, channels_last=True)
    if calibration is None:
        batches = [comparison_images(source).to(like.dtype)]
    else:
        batches = checked_images(calibration, source.input_spec, like)
    with torch.inference_mode(mode=False), torch.no_grad():
        result = copy.deepcopy(source)
        result.to_inference(replace(form, quantization=name))
        report = _report(source, result, name, batches)
    remedy = "Leave it as it is, or lower min_similarity."
    check_similarity(report, floor, repr(source.config.model_name), remedy)
    result.quantization_report = report
    return result


def _report(source: FeatureBackbone, result: FeatureBackbone, scheme: str, batches: list[Tensor]) -> QuantizationReport:
    dtype = DTYPES[result.inference.dtype]  # type: ignore[union-attr] # it was just laid out

    def run(images: Tensor) -> dict[str, Tensor]:
        try:
            return result.forward_dict(images.to(dtype))
        except (RuntimeError, TypeError) as err:
            like = next(result.parameters())
            name = repr(source.config.model_name)
            msg = f"{name} in {scheme} cannot be computed in {like.dtype} on {like.device}: {first_line(err)}."
            raise UnsupportedError(msg) from err

    similarity = measure_similarity(run, source.forward_dict, batches)
    return QuantizationReport(scheme, similarity, sum(map(len, batches)), _size(source), _size(result))


def _size(module: nn.Module) -> int:
    tensors: Any = module.state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
