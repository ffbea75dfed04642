"""The simple feature pyramid: ViTDet's published operators, on every kind of backbone, saved and loaded."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from autobackbone import (
    ConfigError,
    FeatureBackbone,
    FeatureBackboneConfig,
    WeightsMismatchError,
    create_feature_backbone,
    load_weights,
)

STRIDES = (4, 8, 16, 32, 64)
VIT = {"cfg": "test_vit", "pretrained": False}
SIMPLE = {**VIT, "pyramid": "simple", "pyramid_channels": 24, "out_strides": STRIDES}


@pytest.fixture(scope="module")
def backbone() -> FeatureBackbone:
    torch.manual_seed(0)
    made = create_feature_backbone(**SIMPLE).eval()
    with torch.no_grad():  # norms that do nothing would hide one that is missing
        for name, parameter in made.pyramid.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand_like(parameter) + ("weight" in name))
    return made


def published(x: torch.Tensor, scale: float, weights: list[torch.Tensor]) -> torch.Tensor:
    """ViTDet's pyramid at a scale as detectron2's SimpleFeaturePyramid publishes it, in torch's own operators.

    `weights`: of each layer that has any, in order; layer norm over channels, with its epsilon of 1e-6.
    """
    given = iter(weights)

    def norm(y):
        last = y.movedim(1, -1)
        return F.layer_norm(last, last.shape[-1:], next(given), next(given), 1e-6).movedim(-1, 1)

    if scale == 4:
        x = F.conv_transpose2d(x, next(given), next(given), stride=2)
        x = F.gelu(norm(x))
        x = F.conv_transpose2d(x, next(given), next(given), stride=2)
    elif scale == 2:
        x = F.conv_transpose2d(x, next(given), next(given), stride=2)
    elif scale == 0.5:
        x = F.max_pool2d(x, kernel_size=2, stride=2)
    x = norm(F.conv2d(x, next(given)))
    x = norm(F.conv2d(x, next(given), padding=1))
    assert next(given, None) is None
    return x


def test_it_is_the_published_architecture(backbone):
    images = torch.randn(2, 3, 128, 192)
    with torch.no_grad():
        last = backbone.body.native_maps(images)[-1]
        maps = dict(zip(STRIDES, backbone(images), strict=True))
        for stride, scale in ((4, 4), (8, 2), (16, 1), (32, 0.5)):
            expected = published(last, scale, list(backbone.pyramid.branches[str(stride)].parameters()))
            assert maps[stride].shape == (2, 24, 128 // stride, 192 // stride)
            torch.testing.assert_close(maps[stride], expected)
        coarsest = F.max_pool2d(maps[32], kernel_size=1, stride=2)  # the published last level
        torch.testing.assert_close(maps[64], coarsest)
    shapes = {k: [tuple(p.shape) for p in v.parameters()] for k, v in backbone.pyramid.branches.items()}
    ends = [(24,), (24,), (24, 24, 3, 3), (24,), (24,)]
    assert shapes == {
        "4": [(64, 32, 2, 2), (32,), (32,), (32,), (32, 16, 2, 2), (16,), (24, 16, 1, 1), *ends],
        "8": [(64, 32, 2, 2), (32,), (24, 32, 1, 1), *ends],
        "16": [(24, 64, 1, 1), *ends],
        "32": [(24, 64, 1, 1), *ends],
    }


def test_it_starts_as_torch_starts_its_layers():
    torch.manual_seed(0)
    pyramid = create_feature_backbone(**SIMPLE).pyramid
    for module in pyramid.modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert not module.bias.any()
        if isinstance(module, torch.nn.Conv2d):
            bound = (module.weight[0].numel()) ** -0.5  # torch's own: uniform, by fan-in
            assert module.bias is None
            assert 0.9 * bound < module.weight.abs().max() <= bound


@pytest.mark.parametrize(
    ("name", "arguments", "made"),
    [
        ("test_vit", {}, STRIDES),
        ("vit_small_patch14_dinov2", {"extra_kwargs": {"depth": 2}}, STRIDES),
        ("vit_small_patch8_224", {"extra_kwargs": {"depth": 2}}, STRIDES),
        ("vit_small_patch32_224", {"extra_kwargs": {"depth": 2}}, STRIDES),
        ("convmixer_1024_20_ks9_p14", {}, STRIDES),
        ("dinov3_vits16", {"extra_kwargs": {"num_hidden_layers": 2}}, STRIDES),
        ("dinov3_convnext_tiny", {"extra_kwargs": {"depths": [1, 1, 1, 1]}}, (64,)),
        ("test_resnet", {}, (64,)),
        ("levit_128s", {}, (4, 8)),
        ("swin_tiny_patch4_window7_224", {"extra_kwargs": {"depths": [1, 1, 1, 1]}}, (64,)),
    ],
)
def test_every_kind_of_backbone(name, arguments, made):
    backbone = create_feature_backbone(
        name, pretrained=False, pyramid="simple", pyramid_channels=8, out_strides=STRIDES, **arguments
    )
    assert tuple(level.stride for level in backbone.levels if level.method == "simple") == made
    assert all(level.channels == 8 for level in backbone.levels if level.method == "simple")
    size = backbone.input_spec.size if backbone.input_spec.fixed_size else (97, 130)
    maps = backbone(torch.randn(2, 3, *size))
    for y, level in zip(maps, backbone.levels, strict=True):
        assert y.shape == (2, level.channels, -(-size[0] // level.stride), -(-size[1] // level.stride))
    sum(y.square().sum() for y in maps).backward()
    assert [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_map_is_the_same_whatever_is_asked_for_beside_it(backbone):
    alone = create_feature_backbone(**{**SIMPLE, "out_strides": (64, 8)}).eval()
    alone.body.load_state_dict(backbone.body.state_dict())
    taken = backbone.pyramid.state_dict()
    alone.pyramid.load_state_dict({key: taken[key] for key in alone.pyramid.state_dict()})
    images = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        for y, i in zip(alone(images), (4, 1), strict=True):
            assert torch.equal(y, backbone(images)[i])


def test_patches_of_14_have_strides_of_their_own():
    backbone = create_feature_backbone(
        "vit_small_patch14_dinov2",
        pretrained=False,
        pyramid="simple",
        out_strides=(7, 14, 28),
        extra_kwargs={"depth": 1},
    )
    assert [(level.stride, level.exact, level.channels) for level in backbone.levels] == [
        (7, True, 256),
        (14, True, 256),
        (28, True, 256),
    ]


def test_native_levels_by_index_stay_as_they_are():
    backbone = create_feature_backbone(**VIT, pyramid="simple", out_indices=(1, 3))
    assert backbone.pyramid is None
    assert {level.method for level in backbone.levels} == {"native"}


def test_feature_info_tells_what_is_delivered(backbone):
    assert backbone.feature_info.channels() == [24] * 5
    assert backbone.feature_info.reduction() == list(STRIDES)
    assert backbone.config.out_strides == STRIDES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_strides": (48, 100)}, "Stride 100 cannot be made by pyramid='simple' of stride 16"),
        ({"pyramid_channels": 0}, "pyramid_channels must be a positive integer, or None, got 0"),
        (
            {"out_strides": None, "out_indices": (0,)},
            "for pyramid='simple', not for out_indices",
        ),
        ({"pyramid": "resample"}, "pyramid_channels=24 is for pyramid='simple', not for pyramid='resample'"),
        ({"extra_kwargs": {"embed_dim": 8, "num_heads": 2}, "out_strides": (1,)}, "there are not enough"),
    ],
)
def test_what_cannot_be_made_is_told(arguments, message):
    with pytest.raises(ConfigError) as err:
        create_feature_backbone(**(SIMPLE | arguments))
    assert message in str(err.value)


def test_saved_and_loaded(backbone, tmp_path):
    backbone.save_pretrained(tmp_path)
    loaded = FeatureBackbone.from_pretrained(tmp_path).eval()
    assert loaded.weights_report.coverage == 1
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for y, e in zip(loaded(images), backbone(images), strict=True):
            torch.testing.assert_close(y, e)
    assert FeatureBackbone.from_pretrained(tmp_path, pyramid="resample").pyramid is None
    fewer = FeatureBackbone.from_pretrained(tmp_path, out_strides=(32, 8))
    assert torch.equal(fewer.pyramid.branches["8"][0].weight, backbone.pyramid.branches["8"][0].weight)
    with pytest.raises(WeightsMismatchError, match=r"first 'pyramid\.branches.*of another shape|of another shape"):
        FeatureBackbone.from_pretrained(tmp_path, pyramid_channels=32)


def test_weights_without_a_pyramid_leave_a_new_one(tmp_path):
    plain = create_feature_backbone(**VIT)
    plain.save_pretrained(tmp_path)
    backbone = create_feature_backbone(**(SIMPLE | {"weights": str(tmp_path)}))
    report = backbone.weights_report
    assert report.missing
    assert all(name.startswith("pyramid.branches.") for name in report.missing)
    assert report.loaded == sum(t.numel() for t in plain.state_dict().values())
    assert torch.equal(backbone.body.state_dict()["model.pos_embed"], plain.body.state_dict()["model.pos_embed"])


def test_a_pyramid_that_was_saved_and_is_not_there_is_no_loaded_backbone(backbone, tmp_path):
    backbone.save_pretrained(tmp_path)
    create_feature_backbone(**VIT).save_pretrained(tmp_path / "plain")
    save_file(load_file(tmp_path / "plain" / "model.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatchError, match="without those of its simple pyramid"):
        FeatureBackbone.from_pretrained(tmp_path)


def test_load_weights_takes_the_pyramid_and_refuses_half_of_one(backbone, tmp_path):
    target = create_feature_backbone(**SIMPLE)
    backbone.save_pretrained(tmp_path)
    report = load_weights(target, tmp_path)
    assert (report.coverage, report.missing, report.unexpected) == (1, (), ())
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in backbone.state_dict().items())

    half = {f"model.{k}": v for k, v in backbone.state_dict().items() if "branches.4.0" not in k}
    torch.save({"state_dict": half}, tmp_path / "half.ckpt")
    target = create_feature_backbone(**SIMPLE)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(WeightsMismatchError, match=r"2 missing \(first 'pyramid\.branches\.4\.0\.weight'\)"):
        load_weights(target, tmp_path / "half.ckpt")
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    report = load_weights(target, tmp_path / "half.ckpt", strict=False)
    assert report.missing == ("pyramid.branches.4.0.weight", "pyramid.branches.4.0.bias")


def test_it_is_a_field_of_the_config():
    config = FeatureBackboneConfig(pyramid="simple", pyramid_channels=128)
    assert FeatureBackboneConfig.from_dict(config.to_dict()) == config
