"""FeatureBackbone: what it refuses, and what it tells."""

import copy
import pickle

import pytest
import torch

from autobackbone import InputError, InputSizeError, create_feature_backbone, get_feature_info


@pytest.fixture(scope="module")
def backbone():
    return create_feature_backbone("test_resnet", pretrained=False).eval()


BAD = [
    (
        torch.rand(1, 4, 64, 64),
        InputError,
        "takes 3 channels, got 4 in shape (1, 4, 64, 64); create it with in_ch",
    ),
    (torch.rand(1, 64, 64, 3), InputError, "or give NCHW images"),
    (
        torch.rand(3, 64, 64),
        InputError,
        "images, got shape (3, 64, 64); add the batch dimension with x[None]",
    ),
    (torch.rand(1, 0, 64, 64), InputError, "takes 3 channels, got 0 in shape (1, 0, 64, 64); give NCHW images"),
    (torch.rand(1, 3, 64, 64).double(), InputError, "is torch.float32 on cpu, and the images are torch.float64 on cpu"),
    (torch.rand(1, 3, 64, 64).half(), InputError, "is torch.float32 on cpu, and the images are torch.float16 on cpu"),
    (torch.rand(1, 3, 64, 64, device="meta"), InputError, "and the images are torch.float32 on meta; use x.to()"),
    (torch.zeros(1, 3, 64, 64).to_sparse(), InputError, "takes a dense tensor, got torch.sparse_coo; use to_dense()"),
    (torch.zeros(1, 3, 64, 64).to(torch.float8_e4m3fn), InputError, "the images are torch.float8_e4m3fn on cpu"),
    (torch.rand(0, 3, 64, 64), InputError, "at least one image, got shape (0, 3, 64, 64)"),
    ([[1.0]], InputError, "takes a tensor of (B, 3, H, W) images, got list"),
    (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), InputError, "floating point images, got torch.uint8; scale them"),
]


@pytest.mark.parametrize(("x", "error", "message"), BAD)
def test_bad_tensors(backbone, x, error, message):
    with pytest.raises(error) as err:
        backbone(x)
    assert message in str(err.value)


def test_a_size_below_the_minimum():
    backbone = create_feature_backbone("inception_v3", pretrained=False).eval()
    floor = backbone.input_spec.min_size
    assert floor == 75
    with pytest.raises(InputSizeError, match="images of at least 75x75, got 74x200; resize or pad them"):
        backbone(torch.rand(1, 3, 74, 200))
    assert [tuple(y.shape[2:]) for y in backbone(torch.rand(1, 3, 75, 75))] == [(10, 10), (5, 5), (3, 3)]


def test_a_size_that_it_is_not_built_for():
    backbone = create_feature_backbone("test_coatnet", pretrained=False, img_size=(97, 130)).eval()
    assert backbone.input_spec.fixed_size
    assert backbone.input_spec.size == (97, 130)
    assert [tuple(y.shape[2:]) for y in backbone(torch.rand(1, 3, 97, 130))] == [(13, 17), (7, 9), (4, 5)]
    with pytest.raises(InputSizeError, match=r"takes 97x130 images only, got 96x130; create it with img_size="):
        backbone(torch.rand(1, 3, 96, 130))


def test_what_it_tells():
    backbone = create_feature_backbone("resnet50", pretrained=False)
    assert backbone.channels == (512, 1024, 2048)
    assert backbone.strides == (8, 16, 32)
    assert backbone.out_channels == 2048
    assert backbone.config.out_indices == (2, 3, 4)
    assert backbone.config.out_strides is None
    assert backbone.feature_info.channels() == [512, 1024, 2048]
    assert [level.name for level in backbone.levels] == ["c3", "c4", "c5"]
    assert get_feature_info(backbone)[0] == {"num_chs": 512, "reduction": 8, "module": "layer2", "index": 2}
    assert "c3: 512x1/8, c4: 1024x1/16, c5: 2048x1/32" in repr(backbone)


def test_a_resolved_config_makes_the_same_backbone():
    for name in ("test_resnet", "test_vit"):
        backbone = create_feature_backbone(name, pretrained=False)
        again = create_feature_backbone(backbone.config)
        assert again.levels == backbone.levels
        assert again.config == backbone.config


def test_maps_by_name(backbone):
    x = torch.rand(1, 3, 64, 64)
    maps = backbone.forward_dict(x)
    assert list(maps) == ["c3", "c4", "c5"]
    assert all(torch.equal(y, e) for y, e in zip(maps.values(), backbone(x), strict=True))


def test_copies_and_pickles(backbone):
    x = torch.rand(1, 3, 50, 70)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):  # noqa: S301
        assert other.levels == backbone.levels
        assert all(torch.equal(y, e) for y, e in zip(other(x), backbone(x), strict=True))


def test_lower_precision(backbone):
    other = copy.deepcopy(backbone).bfloat16()
    assert {y.dtype for y in other(torch.rand(1, 3, 50, 70, dtype=torch.bfloat16))} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "dinov3_vits16", "dinov3_convnext_tiny"])
def test_the_librarys_own_network(name):
    extra = {"dinov3_vits16": {"num_hidden_layers": 1}, "dinov3_convnext_tiny": {"depths": [1, 1, 1, 1]}}.get(name, {})
    backbone = create_feature_backbone(name, pretrained=False, extra_kwargs=extra)
    names = {"test_resnet": "layer1", "test_vit": "blocks", "dinov3_vits16": "embeddings"}
    assert hasattr(backbone.network, names.get(name, "model"))
    ours = {id(p) for p in backbone.body.parameters()}
    assert {id(p) for p in backbone.network.parameters()} == ours
    assert copy.deepcopy(backbone).network is not backbone.network
    assert "network" not in dict(backbone.named_modules())


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_failures_that_the_type_of_images_has_no_part_in(error):
    """Under autocast types may differ, and memory runs out whatever they are."""
    backbone = create_feature_backbone("test_resnet", pretrained=False).eval()

    def fail(*_):
        msg = "something else"
        raise error(msg)

    backbone.body.register_forward_pre_hook(fail)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(error, match="something else"):
        backbone(torch.rand(1, 3, 64, 64).bfloat16())
    expected = InputError if error is RuntimeError else error  # of another type: that is told, unless memory ran out
    with pytest.raises(expected):
        backbone(torch.rand(1, 3, 64, 64).bfloat16())
    backbone.bfloat16()
    with pytest.raises(error, match="something else"):
        backbone(torch.rand(1, 3, 64, 64).bfloat16())
