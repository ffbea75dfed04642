"""Backbones laid out for inference: the same maps, sooner."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from autobackbone.backbone import FeatureBackbone
from autobackbone.errors import ConfigError, UnsupportedError, WeightsError
from autobackbone.inference_form import CompiledBody, InferenceForm
from autobackbone.unwrapping import is_flattened, unwrap
from autobackbone.values import one_of
from autobackbone.weights.hub import first_line
from autobackbone.weights.kinds import DTYPES, is_sharded

# Largest difference of a map, root mean square over root mean square.
_TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 1e-1}
_TF32 = 1e-2  # how GPUs compute float32, unless told otherwise: with the precision of float16
_IMAGES = 2  # that are compared


def optimize_for_inference(
    backbone: FeatureBackbone,
    *,
    dtype: str | torch.dtype | None = None,
    channels_last: bool = True,
    compile: bool = False,  # noqa: A002 - what torch calls it
) -> FeatureBackbone:
    """Return a copy of a backbone that computes the same maps sooner.

    - Branches that an architecture trains apart (RepVGG, MobileOne, FastViT, RepViT and others) are joined.
    - Batch norms that alone read what a convolution gives are folded into its weights.
    - Weights and images have their channels last in memory.
    - On CPUs, linear layers in float32 are computed as 1x1 convolutions, if that is faster on this machine.

    Levels, names, sizes and the images that it takes stay as they are. It is in evaluation mode for good, computes no
    gradients, and is saved, loaded and exported like any other backbone. The maps of two random images of the default
    size are compared with those of `backbone`.

    Parameters
    ----------
    backbone
        With its weights, in evaluation mode. It is not changed.
    dtype
        ``"float32"``, ``"float16"`` or ``"bfloat16"``, of the weights, of the images that it takes, and of its maps;
        ``None`` for that of `backbone`. On CPUs that compute with bfloat16, that is the fastest.
    channels_last
        Keep the channels of weights and images last in memory. Images in another layout are copied into this one.
    compile
        Compile it with ``torch.compile``, for each shape of images anew, until torch gives up after eight; others are
        computed as usual. Copies and saved ones are not compiled. On GPUs, CUDA graphs are recorded at the first images
        of a shape in each thread; no other thread may use the GPU at that time.

    Returns
    -------
    FeatureBackbone
        On the device of `backbone`.

    Raises
    ------
    ConfigError
        If `backbone` is no feature backbone or is in training mode, or `dtype` is none of these.
    WeightsError
        If `backbone` is on the meta device, or sharded over processes.
    UnsupportedError
        If the device does not compute the backbone in `dtype`, the backbone cannot be compiled as one graph, it is
        quantized or holds tensors of other kinds, or its maps would differ: root mean square, by more than 0.1 % in
        float32, 1 % in float16 and on GPUs, or 10 % in bfloat16.

    Examples
    --------
    >>> import torch
    >>> from autobackbone import create_feature_backbone, optimize_for_inference
    >>> backbone = create_feature_backbone("resnet18", pretrained=False).eval()
    >>> fast = optimize_for_inference(backbone)
    >>> [tuple(y.shape) for y in fast(torch.rand(1, 3, 224, 224))]
    [(1, 128, 28, 28), (1, 256, 14, 14), (1, 512, 7, 7)]
    """
    source = check_backbone(backbone, "optimize_for_inference")
    like = next(source.parameters())
    name = one_of("dtype", str(like.dtype if dtype is None else dtype).removeprefix("torch."), DTYPES)
    with torch.inference_mode(mode=False), torch.no_grad():
        fast = copy.deepcopy(source)
        fast.to_inference(InferenceForm(name, channels_last))
        _compare(source, fast, DTYPES[name], compiled=compile)
    return fast


def check_backbone(backbone: Any, function: str) -> FeatureBackbone:
    """Return a backbone that can be laid out for inference, without its wrappers.

    Parameters
    ----------
    backbone
        From a user.
    function
        That takes it, as messages name it.

    Raises
    ------
    ConfigError
        If it is no feature backbone, or is in training mode.
    WeightsError
        If it is on the meta device, or sharded over processes.
    UnsupportedError
        If it is quantized, or holds tensors of other kinds.
    """
    module = unwrap(backbone)
    if not isinstance(module, FeatureBackbone):
        kind = type(module).__name__
        msg = f"{function}() takes what create_feature_backbone() returns, got {kind}."
        if isinstance(getattr(module, "backbone", None), FeatureBackbone):
            msg += f" Take its backbone, and put the result in its place: model.backbone = {function}(...)."
        raise ConfigError(msg)
    tensors = (*module.parameters(), *module.buffers())
    if any(tensor.is_meta for tensor in tensors):
        msg = (
            f"A backbone on the meta device has no weights for {function}(); create it on another device, or load it "
            "first."
        )
        raise WeightsError(msg)
    if is_flattened(backbone) or any(map(is_sharded, tensors)):
        msg = (
            "The weights are sharded over processes: load the full state dict into a plain backbone, and give that to "
            f"{function}()."
        )
        raise WeightsError(msg)
    if module.inference is not None and module.inference.quantization is not None:
        msg = (
            f"The backbone is quantized ({module.inference.quantization}); {function}() takes the one it was made from."
        )
        raise UnsupportedError(msg)
    other = next((t for t in tensors if type(t) not in (Tensor, nn.Parameter) or t.is_quantized), None)
    if other is not None or any(hasattr(part, "parametrizations") for part in module.modules()):
        kind = "parametrized weights" if other is None else f"tensors of the type {type(other).__name__}"
        msg = (
            f"The backbone has {kind}: call {function}() before it is quantized, or merge and remove parametrizations."
        )
        raise UnsupportedError(msg)
    if module.training:
        msg = "The backbone is in training mode; call eval() first: its norms then use the statistics that they have."
        raise ConfigError(msg)
    return module


def comparison_images(backbone: FeatureBackbone) -> Tensor:
    """Return the same random images in every call, of the default size, on the device of a backbone."""
    spec, like = backbone.input_spec, next(backbone.parameters())
    random = torch.Generator().manual_seed(0)  # the caller's own is left alone
    return torch.randn(_IMAGES, spec.in_chans, *spec.size, generator=random).to(like.device)


def _compare(source: FeatureBackbone, fast: FeatureBackbone, dtype: torch.dtype, *, compiled: bool) -> None:
    """Raise UnsupportedError unless both compute the same maps, the second one compiled if it is to be."""
    like = next(source.parameters())
    images = comparison_images(source)
    expected = source(images.to(like.dtype))
    name = repr(source.config.model_name)
    try:
        maps = fast(images.to(dtype))
    except RuntimeError as err:
        msg = f"{name} cannot be computed in {dtype} on {like.device}: {first_line(err)}."
        raise UnsupportedError(msg) from err
    if compiled:
        fast.compiled = CompiledBody(fast.body)
        try:
            maps = fast(images.to(dtype))
        except Exception as err:  # torch's compiler can raise anything
            msg = f"{name} cannot be compiled in {dtype} on {like.device}: {first_line(err)}. Leave compile=False."
            raise UnsupportedError(msg) from err
    tolerance = max(_TOLERANCES[dtype], _TOLERANCES.get(like.dtype, 0))  # double precision is not optimized for
    if like.is_cuda:
        tolerance = max(tolerance, _TF32)
    for level, y, other in zip(source.levels, expected, maps, strict=True):
        error = _error(other.double(), y.double())
        if not error <= tolerance:
            msg = (
                f"{name} optimized in {dtype} computes something else: level {level.name!r} is {error:.2%} off, more "
                f"than {tolerance:.1%}."
            )
            raise UnsupportedError(msg)


def _error(y: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference, relative to that of what is expected."""
    return float((y - expected).square().mean().sqrt() / expected.square().mean().sqrt().clamp(min=1e-30))
