"""The models that are compared: the libraries' own and ours, for the same levels, with the same weights."""

import timm
import torch
from torch import Tensor, nn
from transformers import DINOv3ViTBackbone

from autobackbone import FeatureBackboneConfig, create_feature_backbone
from autobackbone.sources.choose import make_plan

TIMM = (
    "resnet50",
    "efficientnet_b0",
    "mobilenetv4_conv_small",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "vit_small_patch16_224",
)
DINOV3 = "dinov3_vits16"
ALL = (*TIMM, DINOV3)


def theirs_and_ours(name: str, indices: tuple[int, ...] = (2, 5, 8, 11)) -> tuple[nn.Module, nn.Module]:
    """Return the library's model and ours, with the same random weights.

    Raw timm's ``features_only`` at its own levels; for DINOv3, transformers' backbone at the blocks of `indices`.
    """
    return _dinov3(indices) if name == DINOV3 else _timm(name)


def _timm(name: str) -> tuple[nn.Module, nn.Module]:
    raw = timm.create_model(name, features_only=True).eval()
    indices = [i % len(raw.feature_info) for i in raw.feature_info.out_indices]
    ours = create_feature_backbone(name, pretrained=False, out_indices=indices).eval()
    share_weights(ours, raw)
    return raw, ours


def _dinov3(indices: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    config = make_plan(FeatureBackboneConfig(DINOV3)).hf_config
    config.set_output_features_output_indices(out_features=None, out_indices=[i + 1 for i in indices])
    theirs = DINOv3ViTBackbone(config).eval()
    ours = create_feature_backbone(DINOV3, pretrained=False, out_indices=indices).eval()
    state = theirs.state_dict()
    ours.body.load_state_dict({name: state[name] for name in ours.body.state_dict()})
    return theirs, ours


def share_weights(ours: nn.Module, raw: nn.Module) -> None:
    """Give raw timm our weights; it renames what it rewrites."""
    state = {key.removeprefix("body.model."): value for key, value in ours.state_dict().items()}
    spelled = {s: v for k, v in state.items() for s in (k, k.replace(".", "_", 1), f"model.{k}")}
    raw.load_state_dict({key: spelled[key] for key in raw.state_dict()})


def maps(output: object) -> list[Tensor]:
    """Return the maps in what a model of any of the libraries returns."""
    found = getattr(output, "feature_maps", output)
    return list(found.values() if isinstance(found, dict) else found)  # type: ignore[call-overload]


def error(outputs: list[Tensor], expected: list[Tensor]) -> float:
    """Return how far maps are off: the worst level's root mean square of the difference, relative."""
    pairs = zip(outputs, expected, strict=True)
    return max(_error(y.double(), nchw(e, y).double()) for y, e in pairs)


def nchw(expected: Tensor, like: Tensor) -> Tensor:
    """Return a map of raw timm in our layout; it gives those of Swin with channels last."""
    return expected if expected.shape == like.shape else expected.permute(0, 3, 1, 2)


def _error(y: Tensor, expected: Tensor) -> float:
    return float((y - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def images(batch: int, size: tuple[int, int] = (224, 224), device: str = "cpu") -> Tensor:
    """Return random images."""
    return torch.rand(batch, 3, *size, device=device)
