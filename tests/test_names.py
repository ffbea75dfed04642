"""Names: every accepted spelling, and what the wrong ones are told."""

import pytest
import torchvision

from autobackbone import UnknownBackboneError, describe_backbone, list_backbones
from autobackbone.names import DINOV3, ModelRef, nearest, parse_name
from autobackbone.sources.timm.registry import architectures

GOOD = [
    ("resnet50", ModelRef("timm", "resnet50")),
    ("resnet50.a1_in1k", ModelRef("timm", "resnet50", "a1_in1k")),
    ("timm/resnet50.a1_in1k", ModelRef("timm", "resnet50", "a1_in1k")),
    ("hf-hub:owner/repo", ModelRef("hf-hub", "owner/repo")),
    ("hf_hub:owner/repo@v1", ModelRef("hf-hub", "owner/repo", revision="v1")),
    ("local-dir:/some/folder", ModelRef("local-dir", "/some/folder")),
    ("local-dir:C:\\models\\mine", ModelRef("local-dir", "C:\\models\\mine")),
    ("HF-Hub:owner/repo@refs/pr/1", ModelRef("hf-hub", "owner/repo", revision="refs/pr/1")),
    ("ResNet-50", ModelRef("timm", "resnet50")),
    ("ResNet50.A1_IN1K", ModelRef("timm", "resnet50", "a1_in1k")),
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
    (
        "hf-hub:owner/my--repo",
        "is no Hub repository; write 'hf-hub:owner/repo' or 'hf-hub:owner/repo@revision'; a name",
    ),
    ("hf-hub:owner/repo.git", "has no '--' or '..', and does not end in '.git'"),
    ("hf-hub:owner/repo@a/../../b", "is no Hub repository"),
    ("hf-hub:owner/repo@a b", "is no Hub repository"),
    (f"hf-hub:owner/{'x' * 260}", "is no Hub repository"),
    ("hf-hub:owner/repo\n", r"'hf-hub:owner/repo\n' is no Hub repository"),
    ("a\0b", r"no backbone 'a\x00b'; list_backbones() lists the names"),
    ("x" * 10_000, "list_backbones() lists the names there are"),
    ("https://huggingface.co/timm/resnet50", "is an address, and no model name; weights= takes https:// addresses"),
    ("HTTPS://host/file", "is an address, and no model name"),
    ("ViT-B/16", "There is no backbone 'ViT-B/16'; did you mean 'vit_base_patch16_224', "),
    ("C:\\models\\x", r"looks like a path; write 'local-dir:C:\\models\\x' for a folder"),
    ("./models/x", "looks like a path; write 'local-dir:./models/x' for a folder with a timm config."),
    ("google/vit-base-patch16-224", "for a folder. If timm's own is meant: 'vit_base_patch16_224', "),
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


def test_what_torchvision_has_is_suggested_first():
    """By the number of parameters, where timm has an architecture with as many.

    Of some RegNets timm has two, its own and torchvision's.
    """
    params = {name: describe_backbone(name) for name in list_backbones()}
    totals = {name: card.params + 1000 * (card.channels[-1] + 1) for name, card in params.items()}
    met = 0
    for name in torchvision.models.list_models(torchvision.models):
        total = torchvision.models.get_model_weights(name)["DEFAULT"].meta["num_params"]
        if total in totals.values():
            met += 1
            assert total in [totals[found] for found in nearest(name, architectures(), 2)], name
    assert met > 35


TORCHVISION = [
    ("mobilenet_v2", "mobilenetv2_100"),
    ("mnasnet0_5", "mnasnet_050"),
    ("maxvit_t", "maxvit_tiny_tf_224"),
    ("swin_v2_b", "swinv2_base_window8_256"),
    ("efficientnet_v2_s", "efficientnetv2_s"),
    ("regnet_y_400mf", "regnety_004"),
    ("regnet_x_1_6gf", "regnetx_016"),
    ("regnet_x_16gf", "regnetx_160"),
    ("regnet_y_128gf", "regnety_1280"),
]


@pytest.mark.parametrize(("text", "meant"), TORCHVISION)
def test_sizes_widths_and_costs_are_read_as_timm_writes_them(text, meant):
    assert nearest(text, architectures())[0] == meant


@pytest.mark.parametrize("text", ["shufflenet_v2_x1_0", "squeezenet1_1", "googlenet", "yolo_x"])
def test_what_timm_does_not_have_is_like_nothing(text):
    assert nearest(text, architectures()) == []


def test_every_architecture_is_found_by_its_own_name():
    known = architectures()
    assert all(parse_name(name, known).name == name for name in known)
    assert not set(DINOV3) & set(known)


def test_references_print_as_they_parse():
    known = architectures()
    assert all(parse_name(str(ref), known) == ref for _, ref in GOOD)
