"""FPN over our maps: torchvision's numbers, and torchvision's detectors on it."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from autobackbone import ConfigError, FeaturePyramid, InputSizeError, create_feature_backbone

BACKBONES = {
    "cnn": ("test_resnet", {}),
    "swin": ("swin_tiny_patch4_window7_224", {"extra_kwargs": {"depths": (1, 1, 1, 1), "embed_dim": 24}}),
    "vit": ("test_vit", {"pyramid": "simple", "pyramid_channels": 16}),
    "vit, resampled": ("test_vit", {}),
    "dinov3": (
        "dinov3_vits16",
        {"extra_kwargs": {"num_hidden_layers": 1}, "pyramid": "simple", "pyramid_channels": 16},
    ),
}


def make(kind="cnn", strides=(4, 8, 16, 32), **arguments):
    name, options = BACKBONES[kind]
    return create_feature_backbone(name, pretrained=False, out_strides=strides, **(options | arguments))


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("extra", [None, "pool", "p6p7"])
def test_it_is_torchvisions_fpn(kind, extra):
    block = {None: None, "pool": LastLevelMaxPool(), "p6p7": LastLevelP6P7(8, 8)}[extra]
    backbone = make(kind).eval()
    fpn = FeaturePyramid(backbone, 8, extra)
    reference = FeaturePyramidNetwork(list(backbone.channels), 8, block)
    reference.load_state_dict(fpn.fpn.state_dict())
    images = torch.randn(2, 3, 97, 130)
    with torch.no_grad():
        found = fpn(images)
        expected = reference(OrderedDict((str(i), y) for i, y in enumerate(backbone(images))))
    assert isinstance(found, OrderedDict)
    assert all(torch.equal(y, e) for y, e in zip(found.values(), expected.values(), strict=True))
    names = ["p2", "p3", "p4", "p5", *{None: [], "pool": ["p6"], "p6p7": ["p6", "p7"]}[extra]]
    assert list(found) == list(fpn.names) == names
    assert fpn.strides == tuple(4 * 2**i for i in range(len(names)))
    for y, stride in zip(found.values(), fpn.strides, strict=True):
        assert y.shape == (2, fpn.out_channels, -(-97 // stride), -(-130 // stride))


def test_levels_are_sorted_from_fine_to_coarse():
    mixed = FeaturePyramid(make(strides=(32, 8, 16)), 8)
    assert mixed.names == ("p3", "p4", "p5")
    sizes = [y.shape[-1] for y in mixed(torch.randn(1, 3, 64, 64)).values()]
    assert sizes == [8, 4, 2]


def test_a_block_of_ones_own():
    class Coarser(ExtraFPNBlock):
        def forward(self, results, x, names):  # noqa: ARG002
            return [*results, nn.functional.avg_pool2d(results[-1], 4)], [*names, "x"]

    fpn = FeaturePyramid(make(), 8, Coarser())
    assert (fpn.names[-1], fpn.strides[-1]) == ("p7", 128)


def test_names_are_those_of_powers_of_two_only():
    backbone = create_feature_backbone(
        "vit_small_patch14_dinov2", pretrained=False, out_strides=(7, 14, 28), extra_kwargs={"depth": 1}
    )
    assert FeaturePyramid(backbone, 8, "pool").names == ("s7_0", "s14_0", "s28_0", "s56")


def test_it_is_where_and_what_the_backbone_is():
    backbone = make().to(torch.float64)
    with torch.inference_mode():
        fpn = FeaturePyramid(backbone, 8)
    sum(y.sum() for y in fpn(torch.randn(2, 3, 64, 64, dtype=torch.float64)).values()).backward()
    assert {p.grad.dtype for p in fpn.parameters()} == {torch.float64}
    with torch.device("meta"):
        meta = make()
    assert all(p.is_meta for p in FeaturePyramid(meta, 8, "p6p7").parameters())


@pytest.mark.parametrize(
    "arguments", [(8,), ((8,), 2.0), ((), (1.0,)), ((-1,),), (("8",),), (((32,), (64,)),), ((True,),), ((10**400,),)]
)
def test_bad_anchors(arguments):
    with pytest.raises(ConfigError, match="must be a sequence of numbers above 0"):
        FeaturePyramid(make(), 8).anchor_generator(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"extra_blocks": LastLevelP6P7(64, 64), "out_channels": 8}, "the LastLevelP6P7 does not take these maps"),
        ({"backbone": nn.Identity()}, "got Identity; compile the pyramid rather than the backbone"),
        ({"out_channels": 0}, "out_channels must be a positive integer, at most 8192, got 0"),
        ({"extra_blocks": "p6"}, "extra_blocks must be 'pool', 'p6p7', a torchvision ExtraFPNBlock, or None, got 'p6'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigError) as err:
        FeaturePyramid(**({"backbone": make()} | arguments))
    assert message in str(err.value)


def test_a_simple_pyramid_without_fpn_is_vitdet():
    backbone = make("vit").eval()
    pyramid = FeaturePyramid.without_fpn(backbone, "pool")
    images = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        maps, found = backbone(images), pyramid(images)
    assert (list(found), pyramid.strides, pyramid.out_channels) == (
        ["p2", "p3", "p4", "p5", "p6"],
        (4, 8, 16, 32, 64),
        16,
    )
    assert all(torch.equal(found[name], y) for name, y in zip(found, maps, strict=False))
    assert torch.equal(found["p6"], maps[-1][..., ::2, ::2])
    assert list(pyramid.fpn.parameters()) == []
    with pytest.raises(ConfigError, match=r"needs levels of equal channels, and these are \(32, 48, 192, 96\)"):
        FeaturePyramid.without_fpn(make())
    with pytest.raises(ConfigError, match="takes a FeatureBackbone as create_feature_backbone"):
        FeaturePyramid.without_fpn(torch.nn.Identity())
    with pytest.raises(ConfigError, match=r"got None; FeaturePyramid\.without_fpn\(\) leaves out the FPN"):
        FeaturePyramid(make(), None)


def test_levels_that_repeat_a_stride():
    backbone = create_feature_backbone("test_vit", pretrained=False, out_indices=(2, 5))
    with pytest.raises(ConfigError, match=r"levels of different strides, and these have \(16, 16\)"):
        FeaturePyramid(backbone)


def test_anchors_lie_at_the_true_strides():
    """They are centered on i * stride, as torchvision has them, at sizes that no stride divides too."""
    fpn = FeaturePyramid(make(), 8, "p6p7")
    images = torch.randn(2, 3, 97, 130)  # 97 / 4 = 24.25 pixels for each of the 4 cells of stride 32
    maps = list(fpn(images).values())
    generator = fpn.anchor_generator((8,), (1.0,))
    anchors = generator(ImageList(images, [(97, 130), (90, 100)]), maps)
    assert len(anchors) == 2
    found = anchors[0].split([y.shape[-2] * y.shape[-1] for y in maps])
    for boxes, y, stride in zip(found, maps, fpn.strides, strict=True):
        height, width = y.shape[-2:]
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        assert torch.equal(centers, torch.stack([columns, rows], -1).reshape(-1, 2) * float(stride))
        assert torch.equal(boxes[:, 2] - boxes[:, 0], torch.full((len(boxes),), 8.0 * stride))


def test_regions_are_pooled_at_the_strides_that_there_are():
    fpn = FeaturePyramid(make(strides=(8, 16)), 8, "pool")
    pooling = fpn.roi_align(5)
    assert (pooling.featmap_names, pooling.scales) == (["p3", "p4"], [1 / 8, 1 / 16])
    maps = fpn(torch.randn(1, 3, 97, 130))
    boxes = [torch.tensor([[3.0, 5.0, 60.0, 70.0], [0.0, 0.0, 130.0, 97.0]])]
    assert pooling(maps, boxes, [(97, 130)]).shape == (2, 8, 5, 5)
    with pytest.raises(ConfigError, match=r"the strides are \(4, 16\)"):
        FeaturePyramid(make(strides=(4, 16)), 8).roi_align(7)


@pytest.mark.parametrize("kind", ["cnn", "swin", "vit", "dinov3"])
@pytest.mark.parametrize("detector", ["FasterRCNN", "MaskRCNN", "RetinaNet", "FCOS"])
def test_torchvisions_detectors_train_and_infer(kind, detector):
    two_stages = detector in ("FasterRCNN", "MaskRCNN")
    backbone = make(kind, (4, 8, 16, 32) if two_stages else (8, 16, 32))
    fpn = FeaturePyramid(backbone, 32, "pool" if two_stages else "p6p7")
    spec = backbone.input_spec
    common = {"image_mean": spec.mean, "image_std": spec.std, "min_size": 90, "max_size": 140}
    boxes = {"rpn_anchor_generator": fpn.anchor_generator(), "box_roi_pool": fpn.roi_align(7)}
    model = {
        "FasterRCNN": lambda: FasterRCNN(fpn, 3, **boxes, **common),
        "MaskRCNN": lambda: MaskRCNN(fpn, 3, **boxes, mask_roi_pool=fpn.roi_align(14), **common),
        "RetinaNet": lambda: RetinaNet(fpn, 3, anchor_generator=fpn.anchor_generator((4, 5, 6.3)), **common),
        "FCOS": lambda: FCOS(fpn, 3, anchor_generator=fpn.anchor_generator((1,), (1.0,)), **common),
    }[detector]()
    images = [torch.rand(3, 97, 130), torch.rand(3, 110, 90)]
    targets = [
        {
            "boxes": torch.tensor([[10.0, 12.0, 60.0, 70.0]]),
            "labels": torch.tensor([1]),
            "masks": torch.ones(1, *image.shape[-2:], dtype=torch.uint8),
        }
        for image in images
    ]
    losses = model.train()(images, targets)
    sum(losses.values()).backward()
    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert [n for n, p in fpn.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.no_grad():
        found = model.eval()(images)
    assert len(found) == 2
    assert all({"boxes", "labels", "scores"} <= prediction.keys() for prediction in found)


def test_images_too_small_for_the_backbone():
    backbone = create_feature_backbone("inception_v3", pretrained=False)
    fpn = FeaturePyramid(backbone, 8, "p6p7")
    model = RetinaNet(fpn, 3, anchor_generator=fpn.anchor_generator((4, 5, 6)), min_size=32, max_size=48)
    with pytest.raises(InputSizeError, match="at least 75"):
        model.eval()([torch.rand(3, 32, 40)])


class _Named(ExtraFPNBlock):
    """A block that calls its levels what it likes."""

    def __init__(self, *names):
        super().__init__()
        self.names = names

    def forward(self, results, x, names):  # noqa: ARG002 - torchvision's signature
        coarser = [results[-1][..., :: 2 ** (i + 1), :: 2 ** (i + 1)] for i in range(len(self.names))]
        return [*results, *coarser], [*names, *self.names]


@pytest.mark.parametrize("strides", [(8, 16, 32, 64), (8, 16, 32, 64, 128), (64,), (32, 128), (64, 8), (4, 8)])
@pytest.mark.parametrize("extra", ["p6p7", "pool", _Named("p5"), _Named("p6", "p5"), _Named("0", "1")])
@pytest.mark.parametrize("kind", ["fpn", "simple"])
def test_maps_are_at_the_strides_of_their_names_whatever_extra_blocks_are_called(strides, extra, kind):
    if kind == "fpn":
        fpn = FeaturePyramid(make(strides=strides), 8, extra)
    else:
        fpn = FeaturePyramid.without_fpn(make("vit", strides), extra)
    with torch.no_grad():
        maps = fpn.eval()(torch.randn(1, 3, 333, 257))
    assert len(set(fpn.names)) == len(fpn.names) == len(maps)
    assert list(fpn.strides) == sorted(set(fpn.strides))
    assert fpn.strides[: len(strides)] == tuple(sorted(strides))
    for y, stride in zip(maps.values(), fpn.strides, strict=True):
        assert y.shape[2:] == (-(-333 // stride), -(-257 // stride))


def test_two_extra_levels_of_one_name():
    with pytest.raises(ConfigError, match="calls two of its levels by one name"):
        FeaturePyramid(make(), 8, _Named("p6", "p6"))
