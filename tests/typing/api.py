"""User code under the type checker: this must pass mypy --strict, and is not run."""

from torch import Tensor, nn
from transformers import RTDetrConfig, RTDetrImageProcessor

import autobackbone as ab
from autobackbone.integrations.torchvision import FeatureExtractor
from autobackbone.integrations.transformers import (
    AutobackboneConfig,
    backbone_config,
    head_config,
    image_processor,
)

config = ab.FeatureBackboneConfig("resnet50", pretrained=False, out_strides=(4, 8, 16, 32))
backbone: ab.FeatureBackbone = ab.create_feature_backbone(config, in_chans=4)
maps: list[Tensor] = backbone.forward(Tensor())
named: dict[str, Tensor] = backbone.forward_dict(Tensor())
tokens: list[ab.LevelTokens] = backbone.forward_tokens(Tensor())
class_token: Tensor = tokens[-1].prefix["class"]
channels: tuple[int, ...] = backbone.channels
levels: tuple[ab.FeatureLevel, ...] = backbone.levels
network: nn.Module = backbone.network
spec: ab.InputSpec = ab.get_input_spec(backbone)
normalized: Tensor = spec.normalize(Tensor())
pooled: nn.Module = ab.create_backbone("resnet50", num_classes=10)
names: list[str] = ab.list_backbones("*resnet*", pretrained_only=True)
light: list[str] = ab.list_backbones(strides=(4, 8), max_params=30e6, any_size=True, license=["mit", "apache-2.0"])
card: ab.BackboneCard = ab.describe_backbone("resnet50.a1_in1k")
native: tuple[int, ...] = card.channels
accuracy: tuple[ab.Accuracy, ...] = card.accuracy
rates: list[float | None] = [row.i9_10940x for row in card.throughput]
papers: list[str] = [use.paper for use in card.used_by]
best: list[str] = ab.list_backbones(commercial=True, used_by="detection", min_top1=80, min_throughput=5e2, sort="top1")
count: int = ab.count_parameters(pooled, trainable_only=False)
strides: list[int] = ab.get_feature_strides(backbone)
again: ab.FeatureBackboneConfig = ab.FeatureBackboneConfig.from_yaml("config.yaml").replace(norm=True)

report: ab.WeightsReport = ab.load_weights(pooled, "weights.safetensors", strict=False)
share: float = report.coverage
missing: tuple[str, ...] = report.missing
backbone.save_pretrained("folder")
restored: ab.FeatureBackbone = ab.FeatureBackbone.from_pretrained("owner/repo", revision="v1", out_strides=(4, 8))
address: str = restored.push_to_hub("owner/repo", private=True)
loaded: ab.WeightsReport | None = restored.weights_report

pyramid: ab.FeaturePyramid = ab.FeaturePyramid(backbone, 128, "pool")
named_maps: dict[str, Tensor] = pyramid(Tensor())
ab.freeze_stages(backbone, 2)
groups: list[dict[str, object]] = list(ab.layer_decay_param_groups(pyramid, lr=1e-3, layer_decay=0.8))
blocks: list[nn.Module] = ab.get_blocks(backbone)
ab.export_onnx(backbone, "backbone.onnx", (480, 640), dynamic_size=True)
ab.export_program(pyramid, "pyramid.pt2", 224)
fast: ab.FeatureBackbone = ab.optimize_for_inference(backbone, dtype="bfloat16", compile=True)
small: ab.FeatureBackbone = ab.quantize(fast, "int8_dynamic", [Tensor()], min_similarity=0.9)
changed: ab.QuantizationReport | None = small.quantization_report
written: ab.QuantizationReport = ab.export_onnx(pooled, "p.onnx", quantize="int8_static", calibration=[Tensor()])
backbone.train().eval()

extractor: FeatureExtractor = FeatureExtractor(pyramid, {"p3": "fine"})
by_name: dict[str, Tensor] = extractor.forward(Tensor())
shapes: dict[str, ab.FeatureLevel] = backbone.output_shape()

inside: AutobackboneConfig = backbone_config("resnet50", out_strides=(8, 16, 32))
head: RTDetrConfig = head_config(RTDetrConfig, inside, num_labels=3)
widths: list[int] = inside.channels
processor: RTDetrImageProcessor = image_processor(RTDetrImageProcessor, head)
