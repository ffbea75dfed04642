"""Anchors, pooling and detectors, against torchvision's own figures and weights."""

import functools

import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet, fasterrcnn_resnet50_fpn
from torchvision.models.detection import faster_rcnn as torchvision_faster_rcnn
from torchvision.models.detection import retinanet as torchvision_retinanet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from autobackbone import (
    ConfigError,
    FeatureLevel,
    FeaturePyramid,
    WeightsMismatchError,
    create_feature_backbone,
    export_onnx,
    freeze_norms,
    get_feature_channels,
    get_feature_strides,
    get_input_spec,
    load_weights,
)

FCOS_SIZES = ((8,), (16,), (32,), (64,), (128,))


def make(name="test_resnet", strides=(4, 8, 16, 32), **arguments):
    return create_feature_backbone(name, pretrained=False, out_strides=strides, **arguments)


@functools.cache
def five_levels():
    return FeaturePyramid(make(), 8, "pool")


@pytest.mark.parametrize(
    ("kind", "strides", "extra", "published"),
    [
        ("faster_rcnn", (4, 8, 16, 32), "pool", torchvision_faster_rcnn._default_anchorgen()),
        ("retinanet", (8, 16, 32), "p6p7", torchvision_retinanet._default_anchorgen()),
        ("fcos", (8, 16, 32), "p6p7", AnchorGenerator(FCOS_SIZES, ((1.0,),) * 5)),
    ],
)
def test_published_anchors_are_torchvisions(kind, strides, extra, published):
    pyramid = FeaturePyramid(make(strides=strides), 8, extra)
    images = torch.zeros(2, 3, 128, 256)  # a multiple of every stride: torchvision infers the same ones
    maps = list(pyramid(images).values())
    shapes = ImageList(images, [(128, 256), (100, 200)])
    for generator in (
        pyramid.anchor_generator(kind),
        pyramid.anchor_generator(None, published.aspect_ratios, sizes=published.sizes),
    ):
        assert generator.num_anchors_per_location() == published.num_anchors_per_location()
        for found, expected in zip(generator(shapes, maps), published(shapes, maps), strict=True):
            assert torch.equal(found, expected)


def test_without_arguments_anchors_are_those_of_faster_rcnn():
    assert five_levels().anchor_generator().sizes == five_levels().anchor_generator("faster_rcnn").sizes
    assert five_levels().anchor_generator().sizes == ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))


def test_anchors_by_level():
    ratios = [(1.0,), (0.5,), (2.0,), (1.0,), (1.0,)]
    generator = five_levels().anchor_generator(aspect_ratios=ratios, sizes=[[10], [20], [40], [80], [160]])
    height = [boxes[0, 3] - boxes[0, 1] for boxes in generator.cell_anchors]
    assert [round(float(h)) for h in height] == [10, 14, 56, 80, 160]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": ((32,), (64,))}, "Anchors by level go into sizes."),
        ({"scales": "ssd"}, "scales='ssd' is none of 'faster_rcnn', 'retinanet', 'fcos'"),
        ({"scales": (8,), "sizes": ((8,),) * 5}, "give one of them"),
        ({"sizes": ((8,),) * 4}, "sizes must have a sequence of numbers for each of the 5 levels"),
        ({"sizes": (8, 16, 32, 64, 128)}, "sizes must have a sequence of numbers for each of the 5 levels"),
        ({"sizes": ((8,), ("16",), (32,), (64,), (128,))}, "sizes[1] must be a sequence of numbers above 0"),
        ({"sizes": ((8,), (16, 20), (32,), (64,), (128,))}, "The levels have [3, 6, 3, 3, 3] anchors per cell"),
        ({"aspect_ratios": ((1.0,), (2.0,))}, "aspect_ratios must have a sequence of numbers for each of the 5 levels"),
        ({"aspect_ratios": (float("nan"),)}, "aspect_ratios must be a sequence of numbers above 0"),
    ],
)
def test_anchors_that_cannot_be_made(arguments, message):
    with pytest.raises(ConfigError) as err:
        five_levels().anchor_generator(**arguments)
    assert message in str(err.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("7",), "output_size must be a positive integer, or two of them, such as 7 or (7, 7), got '7'"),
        ((0,), "got 0"),
        ((7.0,), "got 7.0"),
        ((True,), "got True"),
        (((7, 7, 7),), "got (7, 7, 7)"),
        ((None,), "got None"),
        ((7, 2.0), "sampling_ratio must be a positive integer, or 0 for as many points as fit, got 2.0"),
    ],
)
def test_pooling_that_cannot_be_made(arguments, message):
    with pytest.raises(ConfigError) as err:
        five_levels().roi_align(*arguments)
    assert message in str(err.value)
    for name, value in (("canonical_scale", 0), ("canonical_scale", "224"), ("canonical_level", 4.5)):
        with pytest.raises(ConfigError, match=name):
            five_levels().roi_align(7, **{name: value})


numbers = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=2), st.just(10**400))
values = st.recursive(numbers, lambda inner: st.lists(inner, max_size=5) | st.tuples(inner, inner), max_leaves=8)


@given(scales=values, aspect_ratios=values, sizes=st.none() | values, size=values, ratio=values)
def test_whatever_is_given_there_is_a_generator_or_our_error(scales, aspect_ratios, sizes, size, ratio):
    try:
        generator = five_levels().anchor_generator(scales, aspect_ratios, sizes=sizes)
    except ConfigError:
        pass
    else:
        assert len(set(generator.num_anchors_per_location())) == 1
        assert len(generator.sizes) == len(five_levels().strides)
    try:
        pooling = five_levels().roi_align(size, ratio)
    except ConfigError:
        pass
    else:
        assert min(pooling.output_size) > 0


def test_regions_go_to_the_levels_that_torchvision_gives_them_to():
    pyramid = FeaturePyramid(make(), 8)
    maps = pyramid(torch.randn(1, 3, 256, 256))
    corners = torch.rand(50, 2) * 60
    boxes = [torch.cat([corners, corners + 4 + torch.rand(50, 2) * 190], 1)]
    for canonical in ({}, {"canonical_scale": 56, "canonical_level": 3}):
        theirs = MultiScaleRoIAlign(list(pyramid.names), 7, 2, **canonical)
        found = pyramid.roi_align(7, **canonical)(maps, boxes, [(256, 256)])
        assert torch.equal(found, theirs(maps, boxes, [(256, 256)]))
    assert not torch.equal(found, pyramid.roi_align(7)(maps, boxes, [(256, 256)]))


def detector(kind, fpn, spec):
    common = {"image_mean": spec.mean, "image_std": spec.std, "min_size": 64, "max_size": 96}
    boxes = {"rpn_anchor_generator": fpn.anchor_generator("faster_rcnn"), "box_roi_pool": fpn.roi_align(7)}
    boxes |= {"rpn_post_nms_top_n_train": 16, "rpn_post_nms_top_n_test": 8, "box_batch_size_per_image": 8}
    if kind in ("RetinaNet", "FCOS"):
        model = RetinaNet if kind == "RetinaNet" else FCOS
        return model(fpn, 3, anchor_generator=fpn.anchor_generator(kind.lower()), **common)
    if kind == "KeypointRCNN":
        heads = {"keypoint_head": KeypointRCNNHeads(32, (32,)), "keypoint_predictor": KeypointRCNNPredictor(32, 4)}
        return KeypointRCNN(
            fpn,
            None,
            keypoint_roi_pool=fpn.roi_align(14),
            box_predictor=FastRCNNPredictor(1024, 2),
            **heads,
            **boxes,
            **common,
        )
    if kind == "MaskRCNN":
        return MaskRCNN(fpn, 3, mask_roi_pool=fpn.roi_align(14), **boxes, **common)
    return FasterRCNN(fpn, 3, **boxes, **common)


def target(count):
    """Return what is in an image of 64 by 80 pixels."""
    corners = torch.tensor([[10.0, 12.0]]).repeat(count, 1)
    points = torch.cat([corners, torch.full((count, 1), 2.0)], 1)[:, None].repeat(1, 4, 1)
    return {
        "boxes": torch.cat([corners, corners + 40], 1),
        "labels": torch.ones(count, dtype=torch.int64),
        "masks": torch.ones(count, 64, 80, dtype=torch.uint8),
        "keypoints": points + torch.arange(4)[:, None] * torch.tensor([8.0, 8.0, 0.0]),
    }


@pytest.mark.parametrize("kind", ["FasterRCNN", "MaskRCNN", "KeypointRCNN", "RetinaNet", "FCOS"])
@pytest.mark.parametrize("counts", [(0, 0), (0, 2)])
def test_detectors_train_on_images_with_and_without_objects(kind, counts):
    two_stages = kind.endswith("RCNN")
    backbone = make(strides=(4, 8, 16, 32) if two_stages else (8, 16, 32))
    freeze_norms(backbone)
    fpn = FeaturePyramid(backbone, 32, "pool" if two_stages else "p6p7")
    model = detector(kind, fpn, backbone.input_spec).train()
    images = [torch.rand(3, 64, 80) for _ in counts]
    losses = model(images, [target(count) for count in counts])
    sum(losses.values()).backward()
    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert [n for n, p in fpn.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    with torch.no_grad():
        found = model.eval()(images)
    wanted = {"boxes", "labels", "scores"} | {"MaskRCNN": {"masks"}, "KeypointRCNN": {"keypoints"}}.get(kind, set())
    assert all(wanted <= each.keys() for each in found)


def spread(model):
    """Give every norm weights and statistics of its own, as training does."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var") or tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    return model


def old_names(state):
    """Return a state dict under the names of the files that torchvision publishes."""
    return {
        key.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if "fpn." in key else key: v
        for key, v in state.items()
    }


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("norm_layer", [nn.BatchNorm2d, None])
def test_torchvisions_weights_give_torchvisions_maps(norm_layer, published, tmp_path):
    arguments = {} if norm_layer is None else {"norm_layer": norm_layer}
    theirs = spread(resnet_fpn_backbone(backbone_name="resnet18", weights=None, **arguments)).eval()
    state = theirs.state_dict()
    if published:
        state = {f"backbone.{key}": value for key, value in old_names(state).items()}
        state |= {
            "rpn.head.cls_logits.weight": torch.zeros(3, 256, 1, 1),
            "roi_heads.box_head.fc6.bias": torch.zeros(9),
        }
    torch.save(state, tmp_path / "theirs.pth")
    pyramid = FeaturePyramid(make("resnet18"), 256, "pool").eval()
    report = load_weights(pyramid, tmp_path / "theirs.pth")
    assert report.mismatched == ()
    assert [name for name in report.missing if not name.endswith("num_batches_tracked")] == []
    images = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        for found, expected in zip(pyramid(images).values(), theirs(images).values(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            assert norm_layer is None or torch.equal(found, expected)


def test_weights_of_torchvisions_retinanet_backbone(tmp_path):
    theirs = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
    )
    theirs = spread(theirs).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    pyramid = FeaturePyramid(make("resnet18", (8, 16, 32)), 256, "p6p7").eval()
    load_weights(pyramid, tmp_path / "theirs.pth")
    images = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        for found, expected in zip(pyramid(images).values(), theirs(images).values(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_other_weights_of_torchvision_are_refused(tmp_path):
    theirs = resnet_fpn_backbone(backbone_name="resnet34", weights=None)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    pyramid = FeaturePyramid(make("resnet18"), 256, "pool")
    before = {name: value.clone() for name, value in pyramid.state_dict().items()}
    with pytest.raises(WeightsMismatchError):
        load_weights(pyramid, tmp_path / "theirs.pth")
    assert all(torch.equal(value, before[name]) for name, value in pyramid.state_dict().items())


def test_a_detector_has_the_convolutions_of_torchvisions():
    with torch.device("meta"):
        theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        fpn = FeaturePyramid(make("resnet50"), 256, "pool")
        ours = FasterRCNN(
            fpn, 91, rpn_anchor_generator=fpn.anchor_generator("faster_rcnn"), box_roi_pool=fpn.roi_align(7)
        )
    counts = [
        sorted(tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
        for model in (ours, theirs)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("pyramid", "method"),
    [
        (lambda: FeaturePyramid(make(strides=(16, 4, 8)), 8, "p6p7"), ["fpn"] * 5),
        (
            lambda: FeaturePyramid.without_fpn(make("test_vit", (8, 16), pyramid="simple", pyramid_channels=8), "pool"),
            ["simple", "simple", "fpn"],
        ),
    ],
)
def test_a_pyramid_tells_its_levels_as_a_backbone_does(pyramid, method):
    fpn = pyramid()
    maps = fpn(torch.randn(1, 3, 97, 130))
    assert tuple(level.name for level in fpn.levels) == fpn.names == tuple(maps)
    assert all(isinstance(level, FeatureLevel) for level in fpn.levels)
    assert [level.method for level in fpn.levels] == method
    assert get_feature_channels(fpn) == list(fpn.channels) == [y.shape[1] for y in maps.values()]
    assert get_feature_strides(torch.compile(fpn)) == list(fpn.strides)
    for level, y in zip(fpn.levels, maps.values(), strict=True):
        assert y.shape[-2:] == (-(-97 // level.stride), -(-130 // level.stride))
        assert level.method != "fpn" or level.module in dict(fpn.named_modules())
    assert fpn.input_spec is get_input_spec(fpn) is fpn.backbone.input_spec


def test_checkpointing_reaches_the_backbone():
    fpn = FeaturePyramid(make(), 8)
    images = torch.randn(2, 3, 64, 64)
    grads = []
    for enable in (False, True):
        fpn.eval().set_grad_checkpointing(enable)
        fpn.zero_grad()
        sum(y.square().mean() for y in fpn(images).values()).backward()
        grads.append([p.grad.clone() for p in fpn.parameters()])
    assert fpn.backbone.body.model.grad_checkpointing
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_a_pyramid_is_exported_to_onnx(tmp_path):
    fpn = FeaturePyramid(make(strides=(8, 16)), 8, "pool").eval()
    export_onnx(torch.compile(fpn), tmp_path / "fpn.onnx", (65, 90), dynamic_size=True)
    session = onnxruntime.InferenceSession(tmp_path / "fpn.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == ["p3", "p4", "p5"]
    for size in ((97, 130), (64, 200)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = fpn(images)
        for name, value in zip(names, session.run(names, {"images": images.numpy()}), strict=True):
            torch.testing.assert_close(torch.from_numpy(value), expected[name], rtol=1e-3, atol=1e-3)
