"""The published DINOv3 models: sizes, weights and images. Does not import transformers.

O. Siméoni et al., "DINOv3", 2025, https://arxiv.org/abs/2508.10104.
"""

from typing import NamedTuple

from autobackbone.catalog.records import ModelRecord, PublishedInput, PublishedWeights
from autobackbone.names import DINOV3, DINOV3_REPOS


class ViTSize(NamedTuple):
    """Size of a published ViT.

    Attributes
    ----------
    width
        Channels of a token.
    heads
        Number of attention heads.
    mlp_width
        Hidden channels of the MLP.
    depth
        Number of blocks.
    timm_name
        timm's architecture for the same weights.
    gated
        Whether the MLP is gated.
    has_qv_bias
        Whether queries and values have biases.
    """

    width: int
    heads: int
    mlp_width: int
    depth: int
    timm_name: str
    gated: bool = False
    has_qv_bias: bool = True


class ConvNeXtSize(NamedTuple):
    """Size of a published ConvNeXt.

    Attributes
    ----------
    width
        Channels of the first stage. Each next stage has twice as many.
    depth
        Number of blocks of the third stage. The others have three.
    timm_name
        timm's architecture for the same weights.
    """

    width: int
    depth: int
    timm_name: str


VITS = {
    "dinov3_vits16": ViTSize(384, 6, 1536, 12, timm_name="vit_small_patch16_dinov3"),
    "dinov3_vits16plus": ViTSize(384, 6, 1536, 12, gated=True, timm_name="vit_small_plus_patch16_dinov3"),
    "dinov3_vitb16": ViTSize(768, 12, 3072, 12, timm_name="vit_base_patch16_dinov3"),
    "dinov3_vitl16": ViTSize(1024, 16, 4096, 24, timm_name="vit_large_patch16_dinov3"),
    "dinov3_vith16plus": ViTSize(1280, 20, 5120, 32, gated=True, timm_name="vit_huge_plus_patch16_dinov3"),
    "dinov3_vit7b16": ViTSize(4096, 32, 8192, 40, gated=True, timm_name="vit_7b_patch16_dinov3", has_qv_bias=False),
}
CONVNEXTS = {
    "dinov3_convnext_tiny": ConvNeXtSize(96, 9, "convnext_tiny"),
    "dinov3_convnext_small": ConvNeXtSize(96, 27, "convnext_small"),
    "dinov3_convnext_base": ConvNeXtSize(128, 27, "convnext_base"),
    "dinov3_convnext_large": ConvNeXtSize(192, 27, "convnext_large"),
}
LICENSE = "dinov3-license"
_FAMILIES = ("dinov3_vit", "dinov3_convnext")  # model types of transformers
_WEB = PublishedInput(3, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 1.0, "squash")
_SATELLITE = _WEB._replace(mean=(0.430, 0.411, 0.296), std=(0.213, 0.156, 0.143))


def declared_record(name: str) -> ModelRecord:
    """Return the record of a model. Its first weights are the default ones."""
    repos = sorted((repo for repo, short in DINOV3_REPOS.items() if short == name), key=lambda r: r != DINOV3[name])
    weights = tuple(
        PublishedWeights(repo, repo, images_of(name, repo), LICENSE, repo, ungated_name(name, repo)) for repo in repos
    )
    return ModelRecord(name, "dinov3", _FAMILIES[name in CONVNEXTS], weights[0].input, weights)


def images_of(name: str, repo: str) -> PublishedInput:
    """Return the images of a repository's weights: web images for the default weights, else satellite images."""
    return _WEB if repo == DINOV3[name] else _SATELLITE


def ungated_name(name: str, repo: str) -> str:
    """Return timm's name of the same weights, which timm publishes without a gate."""
    tag = "lvd1689m" if repo == DINOV3[name] else "sat493m"
    if name in VITS:
        return f"{VITS[name].timm_name}.{tag}"
    return f"{CONVNEXTS[name].timm_name}.dinov3_{tag}"
