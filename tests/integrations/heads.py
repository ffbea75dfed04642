"""The heads of transformers that backbones are tried in, each as small as it can be."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as tr
from torch import Tensor, nn

from autobackbone.integrations.transformers import AutobackboneConfig, backbone_config, head_config

WIDTH = 32


@dataclass(frozen=True)
class Head:
    """A head: how to make it, what it takes, and what of a backbone it reads.

    Attributes
    ----------
    name
        Name in the matrix.
    config, model
        Its classes.
    fields
        Fields of the config that make it small.
    task
        What its images, labels and loss are.
    levels
        Fields of the backbone: "pyramid" for strides from 8 on, "masks" from 4 on, "quarters" for a ViT's blocks at
        1/4, 1/2, 3/4 and 4/4 of its depth, "hybrid" for 4, 8 and 16, "last" for 16 alone.
    sizes, why
        Which images it takes, and why no others, from its own code.
    size
        Of the images that it is tried with.
    """

    name: str
    config: Any
    model: Any
    fields: dict[str, Any]
    task: Callable[..., Any]
    levels: str = "pyramid"
    sizes: str = "any size"
    why: str = ""
    size: tuple[int, int] = (96, 128)

    def __str__(self) -> str:
        return self.name.replace(" ", "_")


@dataclass(frozen=True)
class Backbone:
    """A backbone of the matrix."""

    name: str
    kind: str
    depth: int = 0
    fields: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def config(self, levels: str, **more: Any) -> AutobackboneConfig:
        """Return its config, with the levels that a head needs."""
        fields: dict[str, Any] = {"pretrained": False, **self.fields}
        if levels == "quarters":
            depth = self.depth or 4
            fields["out_indices"] = tuple(depth * (i + 1) // 4 - 1 for i in range(4))
        else:
            strides = {"pyramid": (8, 16, 32), "masks": (4, 8, 16, 32), "hybrid": (4, 8, 16), "last": (16,)}
            fields["out_strides"] = strides[levels]
            if self.depth and levels in ("pyramid", "masks"):
                fields |= {"pyramid": "simple", "pyramid_channels": 32}
        return backbone_config(self.name, **(fields | more))


BACKBONES = [
    # Frozen batch norms with weights of 0, as timm initializes the last of each block, would pass no gradient.
    Backbone("resnet18", "CNN", fields={"extra_kwargs": {"zero_init_last": False}}),
    Backbone("swin_tiny_patch4_window7_224", "hierarchical transformer"),
    Backbone("vit_tiny_patch16_224", "ViT", 12),
    Backbone("dinov3_vits16", "DINOv3", 4, {"extra_kwargs": {"num_hidden_layers": 4}}),
]


def make_model(head: Head, backbone: Backbone, **more: Any) -> nn.Module:
    """Build a head over a backbone."""
    channels = {"in_chans": 4} if head.name == "ViTMatte" else {}
    if head.name == "ViTPose":
        channels = {"img_size": head.size} if backbone.name.startswith("vit") else {}
    config = head_config(head.config, backbone.config(head.levels, **channels), **(head.fields | more))
    if head.name == "ViTPose":
        config.backbone_config.input["size"] = list(head.size)
    torch.manual_seed(0)
    return head.model(config)


def detection(size: tuple[int, int], _model: nn.Module) -> tuple[dict[str, Any], Callable[[Any], Tensor]]:
    labels = [
        {"class_labels": torch.tensor([i]), "boxes": torch.tensor([[0.5, 0.5, 0.3 + 0.1 * i, 0.3]])} for i in range(2)
    ]
    return {"pixel_values": torch.rand(2, 3, *size), "labels": labels}, lambda out: out.loss


def grounding(size: tuple[int, int], model: nn.Module) -> tuple[dict[str, Any], Callable[[Any], Tensor]]:
    inputs, loss = detection(size, model)
    ids = torch.tensor([[101, 5, 1012, 6, 1012, 102]] * 2)
    return inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, loss


def masks(size: tuple[int, int], _model: nn.Module) -> tuple[dict[str, Any], Callable[[Any], Tensor]]:
    mask = torch.zeros(1, *size)
    mask[:, : size[0] // 2, : size[1] // 2] = 1
    inputs = {
        "pixel_values": torch.rand(2, 3, *size),
        "mask_labels": [mask, 1 - mask],
        "class_labels": [torch.tensor([0]), torch.tensor([1])],
    }
    return inputs, lambda out: out.loss


def oneformer(size: tuple[int, int], model: nn.Module) -> tuple[dict[str, Any], Callable[[Any], Tensor]]:
    inputs, loss = masks(size, model)
    task = torch.randint(0, 90, (2, 8))
    return inputs | {"task_inputs": task, "text_inputs": torch.randint(0, 90, (2, 4, 8))}, loss


def segmentation(size: tuple[int, int], _model: nn.Module) -> tuple[dict[str, Any], Callable[[Any], Tensor]]:
    return {"pixel_values": torch.rand(2, 3, *size), "labels": torch.randint(0, 3, (2, *size))}, lambda out: out.loss


def depth(size: tuple[int, int], _model: nn.Module) -> tuple[dict[str, Any], Callable[[Any], Tensor]]:
    target = torch.rand(2)
    return {
        "pixel_values": torch.rand(2, 3, *size)
    }, lambda out: (out.predicted_depth.flatten(1).mean(1) - target - 1).abs().mean()


def matting(size: tuple[int, int], _model: nn.Module) -> tuple[dict[str, Any], Callable[[Any], Tensor]]:
    return {"pixel_values": torch.rand(2, 4, *size)}, lambda out: (out.alphas - 1).abs().mean()


def pose(size: tuple[int, int], _model: nn.Module) -> tuple[dict[str, Any], Callable[[Any], Tensor]]:
    return {"pixel_values": torch.rand(2, 3, *size)}, lambda out: ((out.heatmaps - 1) ** 2).mean()


_DETR = {
    "d_model": WIDTH,
    "encoder_ffn_dim": WIDTH,
    "decoder_ffn_dim": WIDTH,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_queries": 10,
    "num_labels": 3,
}
_RT = _DETR | {
    "encoder_hidden_dim": WIDTH,
    "decoder_in_channels": [WIDTH] * 3,
    "num_denoising": 4,
    "anchor_image_size": None,
}
_DAB = {name: value for name, value in _DETR.items() if name != "d_model"} | {"hidden_size": WIDTH}
_BERT = {
    "model_type": "bert",
    "vocab_size": 1200,
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": WIDTH,
}
_GROUNDING = _DETR | {"text_config": _BERT, "max_text_len": 16, "num_feature_levels": 4}
_MASK = {
    "feature_size": WIDTH,
    "mask_feature_size": WIDTH,
    "hidden_dim": WIDTH,
    "encoder_feedforward_dim": WIDTH,
    "dim_feedforward": WIDTH,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "num_queries": 5,
    "num_labels": 3,
    "train_num_points": 64,
}
_ONE = {
    "conv_dim": WIDTH,
    "mask_dim": WIDTH,
    "hidden_dim": 64,
    "encoder_feedforward_dim": WIDTH,
    "dim_feedforward": WIDTH,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "query_dec_layers": 1,
    "num_attention_heads": 2,
    "num_queries": 6,
    "num_labels": 3,
    "train_num_points": 64,
    "is_training": True,
    "text_encoder_width": 64,
    "text_encoder_proj_layers": 2,
    "text_encoder_context_length": 8,
    "text_encoder_num_layers": 1,
    "text_encoder_vocab_size": 100,
    "text_encoder_n_ctx": 2,
    "task_seq_len": 8,
    "max_seq_len": 8,
}
_MASKFORMER = {
    "fpn_feature_size": WIDTH,
    "mask_feature_size": WIDTH,
    "num_labels": 3,
    "decoder_config": {"model_type": "detr", **_DETR},
}
_DEPTH = {"neck_hidden_sizes": [16, 16, 16, 16], "fusion_hidden_size": 16}
_FPN = "its encoder doubles a map and joins it to the next finer one"
_GRID = "it reshapes tokens to `height // patch_size` rows"
_ONE_GRID = "it reshapes tokens to the rows and columns of `backbone_config.image_size`"
_BY_16, _BY_32 = "multiples of 16", "multiples of 32"
QUARTERS = "it reassembles maps of one stride with one number of channels"

HEADS = [
    Head("RT-DETR", tr.RTDetrConfig, tr.RTDetrForObjectDetection, _RT, detection, sizes=_BY_32, why=_FPN),
    Head("RT-DETRv2", tr.RTDetrV2Config, tr.RTDetrV2ForObjectDetection, _RT, detection, sizes=_BY_32, why=_FPN),
    Head("D-FINE", tr.DFineConfig, tr.DFineForObjectDetection, _RT, detection, sizes=_BY_32, why=_FPN),
    Head("DETR", tr.DetrConfig, tr.DetrForObjectDetection, _DETR, detection),
    Head("Conditional DETR", tr.ConditionalDetrConfig, tr.ConditionalDetrForObjectDetection, _DETR, detection),
    Head("Deformable DETR", tr.DeformableDetrConfig, tr.DeformableDetrForObjectDetection, _DETR, detection),
    Head("DAB-DETR", tr.DabDetrConfig, tr.DabDetrForObjectDetection, _DAB, detection),
    Head("Grounding DINO", tr.GroundingDinoConfig, tr.GroundingDinoForObjectDetection, _GROUNDING, grounding),
    Head("MM Grounding DINO", tr.MMGroundingDinoConfig, tr.MMGroundingDinoForObjectDetection, _GROUNDING, grounding),
    Head("Mask2Former", tr.Mask2FormerConfig, tr.Mask2FormerForUniversalSegmentation, _MASK, masks, "masks"),
    Head("OneFormer", tr.OneFormerConfig, tr.OneFormerForUniversalSegmentation, _ONE, oneformer, "masks"),
    Head("MaskFormer", tr.MaskFormerConfig, tr.MaskFormerForInstanceSegmentation, _MASKFORMER, masks, "masks"),
    Head(
        "UperNet",
        tr.UperNetConfig,
        tr.UperNetForSemanticSegmentation,
        {"hidden_size": WIDTH, "auxiliary_channels": WIDTH, "num_labels": 3},
        segmentation,
        "masks",
    ),
    Head("DPT", tr.DPTConfig, tr.DPTForDepthEstimation, _DEPTH, depth, "quarters", _BY_16, _GRID),
    Head(
        "DPT, hybrid",
        tr.DPTConfig,
        tr.DPTForDepthEstimation,
        {
            "is_hybrid": True,
            "image_size": 96,
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "backbone_out_indices": [0, 1, 2, 3],
            "fusion_hidden_size": 16,
            "patch_size": 16,
        },
        depth,
        "hybrid",
        "one size",
        "its position embeddings are for one square size",
        (96, 96),
    ),
    Head(
        "Depth Anything",
        tr.DepthAnythingConfig,
        tr.DepthAnythingForDepthEstimation,
        _DEPTH | {"head_hidden_size": 8},
        depth,
        "quarters",
        _BY_16,
        _GRID,
    ),
    Head(
        "ZoeDepth",
        tr.ZoeDepthConfig,
        tr.ZoeDepthForDepthEstimation,
        _DEPTH | {"bottleneck_features": 16, "num_relative_features": 8, "bin_embedding_dim": 16},
        depth,
        "quarters",
        _BY_16,
        _GRID,
    ),
    Head(
        "ViTMatte",
        tr.VitMatteConfig,
        tr.VitMatteForImageMatting,
        {"convstream_hidden_sizes": [8, 8, 8], "fusion_hidden_sizes": [16, 16, 16, 16]},
        matting,
        "last",
        _BY_16,
        "its decoder doubles the last map up to the size of the image",
    ),
    Head(
        "ViTPose", tr.VitPoseConfig, tr.VitPoseForPoseEstimation, {"num_labels": 5}, pose, "last", "one size", _ONE_GRID
    ),
]
