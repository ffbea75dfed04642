"""Names: every accepted spelling, and what the wrong ones are told."""

import pytest

from autobackbone import UnknownBackboneError
from autobackbone.names import DINOV3, ModelRef, parse_name
from autobackbone.sources.registry import architectures

GOOD = [
    ("resnet50", ModelRef("timm", "resnet50")),
    ("resnet50.a1_in1k", ModelRef("timm", "resnet50", "a1_in1k")),
    ("timm/resnet50.a1_in1k", ModelRef("timm", "resnet50", "a1_in1k")),
    ("hf-hub:owner/repo", ModelRef("hf-hub", "owner/repo")),
    ("hf_hub:owner/repo@v1", ModelRef("hf-hub", "owner/repo", revision="v1")),
    ("local-dir:/some/folder", ModelRef("local-dir", "/some/folder")),
    ("local-dir:C:\\models\\mine", ModelRef("local-dir", "C:\\models\\mine")),
    ("ResNet-50", ModelRef("timm", "resnet50")),
    ("regnet-y-080", ModelRef("timm", "regnety_080")),
    ("RegNetY-040", ModelRef("timm", "regnety_040")),
    ("efficient_net", ModelRef("timm", "efficientnet_b0")),
    ("EfficientNet-B4", ModelRef("timm", "efficientnet_b4")),
    ("vit", ModelRef("timm", "vit_base_patch16_224")),
    ("MobileNetV3-Large", ModelRef("timm", "mobilenetv3_large_100")),
    ("MobileNetV3-Small", ModelRef("timm", "mobilenetv3_small_100")),
    ("dla34", ModelRef("timm", "dla34")),
    ("dla46", ModelRef("timm", "dla46_c")),
    ("torchvision/resnet50", ModelRef("timm", "resnet50", "tv2_in1k")),
    ("torchvision/resnet18", ModelRef("timm", "resnet18", "tv_in1k")),
    ("dinov3_vits16", ModelRef("dinov3", "dinov3_vits16")),
    ("dinov3-convnext-tiny", ModelRef("dinov3", "dinov3_convnext_tiny")),
    (
        "facebook/dinov3-vitl16-pretrain-sat493m",
        ModelRef("dinov3", "dinov3_vitl16", "facebook/dinov3-vitl16-pretrain-sat493m"),
    ),
    (
        "facebook/dinov3-vits16-pretrain-lvd1689m@v1",
        ModelRef("dinov3", "dinov3_vits16", "facebook/dinov3-vits16-pretrain-lvd1689m", "v1"),
    ),
    (
        "hf-hub:facebook/dinov3-vits16-pretrain-lvd1689m",
        ModelRef("dinov3", "dinov3_vits16", "facebook/dinov3-vits16-pretrain-lvd1689m"),
    ),
]

BAD = [
    ("resnet5o", "no backbone 'resnet5o'; did you mean 'resnet50'"),
    ("qqqqqqqqq", "no backbone 'qqqqqqqqq'; list_backbones() lists"),
    ("resnet50.nope", "has no weights tagged 'nope'; it has 'resnet50."),
    ("resnet50.a1", "has no weights tagged 'a1'; it has 'resnet50.a1_in1k', 'resnet50.a1h_in1k', "),
    ("owner/repo", "write 'hf-hub:owner/repo' for the Hugging Face Hub or 'local-dir:owner/repo'"),
    ("torchvision/convnext_tiny", "timm hosts no torchvision weights for 'convnext_tiny'"),
    ("s3:bucket", "unknown prefix 's3'; the prefixes are 'hf-hub:' and 'local-dir:'"),
    ("hf-hub:", "names no repository after its prefix"),
    ("hf-hub:../../etc/passwd", "is no Hub repository; write 'hf-hub:owner/repo'"),
    ("hf-hub:owner/..", "is no Hub repository"),
    ("hf-hub:owner/repo@", "is no Hub repository"),
    ("dinov3_vits14", "DINOv3 has patch 16, as 'dinov3_vits16'; DINOv2 has patch 14: 'vit_small_patch14_dinov2'"),
    ("timm/resnet5o", "no backbone 'timm/resnet5o'"),
]


@pytest.mark.parametrize(("text", "ref"), GOOD)
def test_accepted_spellings(text, ref):
    assert parse_name(text, architectures()) == ref


@pytest.mark.parametrize(("text", "message"), BAD)
def test_refused_spellings_say_what_would_work(text, message):
    with pytest.raises(UnknownBackboneError) as err:
        parse_name(text, architectures())
    assert message in str(err.value)


def test_an_ambiguous_name_lists_its_meanings():
    with pytest.raises(UnknownBackboneError, match="'Net-1' could mean 'net_1' or 'net1'; write the one"):
        parse_name("Net-1", {"net_1": (), "net1": ()})


def test_every_architecture_is_found_by_its_own_name():
    known = architectures()
    assert all(parse_name(name, known).name == name for name in known)
    assert not set(DINOV3) & set(known)


def test_references_print_as_they_parse():
    known = architectures()
    assert all(parse_name(str(ref), known) == ref for _, ref in GOOD)
