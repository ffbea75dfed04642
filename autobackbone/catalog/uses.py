"""Which backbones published detectors, segmenters and other models were built on, by hand from their papers.

A method stands here with what its paper reports results for, as far as timm has the same architecture: one that differs
in its stem, its patches or its attention is left out.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Use:
    """A published method.

    Attributes
    ----------
    method
        Its name, such as ``"ViTDet"``.
    task
        ``"detection"`` (of boxes or masks), ``"segmentation"`` (semantic or panoptic), ``"depth"``, ``"pose"``,
        ``"matting"`` or ``"anomalies"``.
    paper
        The address of its paper.
    backbones
        Architectures.
    """

    method: str
    task: str
    paper: str
    backbones: tuple[str, ...]


def _of(method: str, task: str, arxiv: str, *backbones: str) -> Use:
    return Use(method, task, f"https://arxiv.org/abs/{arxiv}", backbones)


_SWIN = ("swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", "swin_base_patch4_window7_224")
_SWIN_22K = ("swin_base_patch4_window12_384", "swin_large_patch4_window12_384")
_DINOV2 = ("vit_small_patch14_dinov2", "vit_base_patch14_dinov2", "vit_large_patch14_dinov2")

_DINOV3 = tuple(f"dinov3_{name}" for name in ("vits16", "vitb16", "vitl16", "vith16plus", "vit7b16")) + tuple(
    f"vit_{size}_patch16_dinov3" for size in ("small", "base", "large", "huge_plus", "7b")
)

USES = (
    _of("FPN", "detection", "1612.03144", "resnet50", "resnet101"),
    _of("Mask R-CNN", "detection", "1703.06870", "resnet50", "resnet101"),
    _of("RetinaNet", "detection", "1708.02002", "resnet50", "resnet101"),
    _of("Cascade R-CNN", "detection", "1712.00726", "resnet50", "resnet101"),
    _of("FCOS", "detection", "1904.01355", "resnet50", "resnet101"),
    _of("YOLOv3", "detection", "1804.02767", "darknet53"),
    _of("YOLOv4", "detection", "2004.10934", "cspdarknet53"),
    _of("CenterNet", "detection", "1904.07850", "dla34", "resnet18", "resnet101"),
    _of("EfficientDet", "detection", "1911.09070", *(f"tf_efficientnet_b{i}" for i in range(8))),
    _of("SSDLite", "detection", "1801.04381", "mobilenetv2_100"),
    _of("DETR", "detection", "2005.12872", "resnet50", "resnet101"),
    _of("Deformable DETR", "detection", "2010.04159", "resnet50"),
    _of("Conditional DETR", "detection", "2108.06152", "resnet50", "resnet101"),
    _of("DAB-DETR", "detection", "2201.12329", "resnet50", "resnet101"),
    _of("DINO (detector)", "detection", "2203.03605", "resnet50", "swin_large_patch4_window12_384"),
    _of("RT-DETR", "detection", "2304.08069", "resnet50d", "resnet101d"),
    _of("D-FINE", "detection", "2410.13842", "hgnetv2_b0", "hgnetv2_b2", "hgnetv2_b4", "hgnetv2_b5"),
    _of("Swin Transformer", "detection", "2103.14030", *_SWIN),
    _of(
        "ConvNeXt",
        "detection",
        "2201.03545",
        *(f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")),
    ),
    _of("PVTv2", "detection", "2106.13797", *(f"pvt_v2_b{i}" for i in range(6))),
    _of("ViTDet", "detection", "2203.16527", "vit_base_patch16_224", "vit_large_patch16_224"),
    _of(
        "Segment Anything",
        "segmentation",
        "2304.02643",
        *(f"samvit_{size}_patch16" for size in ("base", "large", "huge")),
    ),
    _of("PSPNet", "segmentation", "1612.01105", "resnet50", "resnet101"),
    _of("DeepLabV3", "segmentation", "1706.05587", "resnet50", "resnet101"),
    _of("UPerNet", "segmentation", "1807.10221", "resnet50", "resnet101"),
    _of("HRNet", "segmentation", "1908.07919", "hrnet_w48"),
    _of("LR-ASPP", "segmentation", "1905.02244", "mobilenetv3_large_100", "mobilenetv3_small_100"),
    _of("SETR", "segmentation", "2012.15840", "vit_large_patch16_384"),
    _of(
        "Segmenter",
        "segmentation",
        "2105.05633",
        *(f"vit_{size}_patch16_384" for size in ("tiny", "small", "base", "large")),
    ),
    _of("MaskFormer", "segmentation", "2107.06278", "resnet50", "resnet101", *_SWIN, *_SWIN_22K),
    _of("Mask2Former", "segmentation", "2112.01527", "resnet50", "resnet101", *_SWIN[:2], *_SWIN_22K),
    _of(
        "OneFormer", "segmentation", "2211.06220", "swin_large_patch4_window12_384", "convnext_large", "convnext_xlarge"
    ),
    _of("BEiT", "segmentation", "2106.08254", "beit_base_patch16_224", "beit_large_patch16_224"),
    _of("DINOv2", "segmentation", "2304.07193", *_DINOV2, "vit_giant_patch14_dinov2"),
    _of(
        "EoMT",
        "segmentation",
        "2503.19108",
        *(f"vit_{size}_patch14_reg4_dinov2" for size in ("small", "base", "large", "giant")),
    ),
    _of("DINOv3", "segmentation", "2508.10104", *_DINOV3),
    _of("DPT", "depth", "2103.13413", "vit_large_patch16_384", "vit_base_r50_s16_384"),
    _of("ZoeDepth", "depth", "2302.12288", "beit_large_patch16_384"),
    _of("Depth Anything", "depth", "2401.10891", *_DINOV2),
    _of("ViTPose", "pose", "2204.12484", "vit_base_patch16_224", "vit_large_patch16_224"),
    _of("ViTMatte", "matting", "2305.15272", "vit_small_patch16_224", "vit_base_patch16_224"),
    _of("PatchCore", "anomalies", "2106.08265", "wide_resnet50_2", "wide_resnet101_2"),
    _of("PaDiM", "anomalies", "2011.08785", "resnet18", "wide_resnet50_2", "efficientnet_b5"),
)


def uses_of(architecture: str) -> tuple[Use, ...]:
    """Return the methods that were built on an architecture."""
    return tuple(use for use in USES if architecture in use.backbones)
