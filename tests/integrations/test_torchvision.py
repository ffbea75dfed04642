"""Maps by name in torchvision's models, against its own on the same weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.segmentation import FCN, DeepLabV3, deeplabv3_resnet50, fcn_resnet50

from autobackbone import ConfigError, FeaturePyramid, create_feature_backbone, freeze_stages, layer_decay_param_groups
from autobackbone.integrations.torchvision import FeatureExtractor

BACKBONE = create_feature_backbone("test_resnet", pretrained=False, out_strides=(4, 8, 16)).eval()
PYRAMID = FeaturePyramid(BACKBONE, 8).eval()


@pytest.mark.parametrize(("model", "build"), [(DeepLabV3, deeplabv3_resnet50), (FCN, fcn_resnet50)])
@torch.inference_mode()
def test_segmenters_give_what_torchvisions_do(model, build):
    theirs = build(weights=None, weights_backbone=None, num_classes=3, aux_loss=True).eval()
    backbone = create_feature_backbone("resnet50.tv_in1k", pretrained=False, output_stride=8, out_indices=(3, 4))
    backbone.network.load_state_dict(theirs.backbone.state_dict())
    extractor = FeatureExtractor(backbone, {"layer4": "out", "layer3": "aux"})
    assert (extractor.out_channels, extractor.strides) == ([2048, 1024], [8, 8])
    ours = model(extractor, theirs.classifier, theirs.aux_classifier).eval()
    x = torch.randn(1, 3, 97, 130)
    expected = theirs(x)
    for name, y in ours(x).items():
        torch.testing.assert_close(y, expected[name])


@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224", "test_vit"])
def test_a_segmenter_trains_on_any_backbone(name):
    extractor = FeatureExtractor(create_feature_backbone(name, pretrained=False), {"c5": "out", "c4": "aux"})
    heads = [torch.nn.Conv2d(channels, 3, 1) for channels in extractor.out_channels]
    model = DeepLabV3(extractor, *heads)
    freeze_stages(model, 1)
    assert list(layer_decay_param_groups(model, lr=1e-3, layer_decay=0.8))
    y = model(torch.randn(2, 3, 97, 130))
    assert {key: value.shape for key, value in y.items()} == dict.fromkeys(("out", "aux"), (2, 3, 97, 130))
    sum(value.mean() for value in y.values()).backward()
    used = [p for p in extractor.parameters() if p.requires_grad and p.grad is not None]
    assert used
    assert all(bool(p.grad.isfinite().all()) for p in used)


def test_single_shot_detectors():
    backbone = create_feature_backbone("test_resnet", pretrained=False, out_strides=(8, 16, 32))
    spec = backbone.input_spec
    extractor = FeatureExtractor(FeaturePyramid(backbone, 16, "p6p7"))
    boxes = DefaultBoxGenerator([[2]] * 5, steps=extractor.strides)
    model = SSD(extractor, boxes, (160, 128), 3, image_mean=spec.mean, image_std=spec.std)
    images = [torch.rand(3, 64, 80)]
    found = [{"boxes": torch.tensor([[10.0, 12.0, 50.0, 52.0]]), "labels": torch.ones(1, dtype=torch.int64)}]
    losses = model(images, found)
    sum(losses.values()).backward()
    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert [n for n, p in extractor.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        assert model.eval()(images)[0].keys() == {"boxes", "labels", "scores"}
        x = torch.rand(1, 3, 128, 160)
        maps = list(extractor(x).values())
    (placed,) = boxes(ImageList(x, [(128, 160)]), maps)
    centers = (placed[:, :2] + placed[:, 2:]) / 2
    expected = []
    for y, stride in zip(maps, extractor.strides, strict=True):  # each box in the middle of its cell
        rows, columns = torch.meshgrid(torch.arange(y.shape[2]), torch.arange(y.shape[3]), indexing="ij")
        cells = torch.stack([columns.flatten(), rows.flatten()], 1) + 0.5
        expected.append((cells * stride).repeat_interleave(4, 0))
    torch.testing.assert_close(centers, torch.cat(expected))


@given(st.data())
@torch.inference_mode()
def test_maps_have_the_names_that_are_asked_for(data):
    backbone = data.draw(st.sampled_from([BACKBONE, PYRAMID]))
    levels = data.draw(st.lists(st.sampled_from(backbone.levels), min_size=1, unique=True))
    names = data.draw(
        st.lists(st.text(min_size=1, max_size=5), min_size=len(levels), max_size=len(levels), unique=True)
    )
    nodes = [data.draw(st.sampled_from([level.name, level.module])) for level in levels]
    given_nodes = data.draw(st.sampled_from([dict(zip(nodes, names, strict=True)), nodes, None]))
    extractor = FeatureExtractor(backbone, given_nodes)
    x = torch.randn(1, 3, 50, 70)
    maps = extractor(x)
    if given_nodes is None:
        levels, expected = backbone.levels, [level.name for level in backbone.levels]
    else:
        expected = names if isinstance(given_nodes, dict) else nodes
    assert list(maps) == expected
    every = backbone(x) if backbone is PYRAMID else backbone.forward_dict(x)
    assert all(torch.equal(y, every[level.name]) for y, level in zip(maps.values(), levels, strict=True))
    assert extractor.out_channels == [y.shape[1] for y in maps.values()]
    assert extractor.strides == [level.stride for level in levels]


@torch.inference_mode()
def test_the_modules_are_those_of_torchvisions_extractor():
    network = BACKBONE.network
    nodes = {level.module: level.name for level in BACKBONE.levels}
    x = torch.randn(1, 3, 64, 64)
    theirs = create_feature_extractor(network, nodes)(x)
    for name, y in FeatureExtractor(BACKBONE, nodes)(x).items():
        assert torch.equal(y, theirs[name])


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (["c4", "layre2"], "there is no level 'layre2'; did you mean 'layer2'?"),
        ({"stem": "out"}, "there is no level 'stem'; the levels are c2, c3, c4, layer1, layer2, layer3."),
        (["c4", "layer3"], "has the level 'c4' twice"),
        (["c4", "c4"], "has a name twice"),
        ({"c3": "x", "c4": "x"}, "gives two levels one name"),
        ([], "must be names of levels, or a mapping of them to other names, got []"),
        ("c4", "got 'c4'"),
        (["c4", 3], "got ['c4', 3]"),
        ({"c4": None}, "got {'c4': None}"),
        ([["c4"]], "got [['c4']]"),
    ],
)
def test_maps_that_cannot_be_named(nodes, message):
    with pytest.raises(ConfigError) as err:
        FeatureExtractor(BACKBONE, nodes)
    assert message in str(err.value)


def test_levels_of_one_module_go_by_their_own_names():
    vit = create_feature_backbone("test_vit", pretrained=False, out_strides=(8, 16, 32), pyramid="simple")
    with pytest.raises(ConfigError, match=r"'blocks.\d+' returns the levels c3, c4, c5; name one of these"):
        FeatureExtractor(vit, [vit.levels[0].module])
    with pytest.raises(ConfigError, match="backbone must be a FeatureBackbone or a FeaturePyramid, got a Linear"):
        FeatureExtractor(torch.nn.Linear(1, 1))


def test_levels_as_detectron2_reads_them():
    for model in (BACKBONE, PYRAMID):
        maps = model.output_shape()
        assert [(y.channels, y.stride) for y in maps.values()] == list(zip(model.channels, model.strides, strict=True))
        assert model.size_divisibility == 0
    assert list(PYRAMID.output_shape()) == list(PYRAMID(torch.rand(1, 3, 40, 50)))
