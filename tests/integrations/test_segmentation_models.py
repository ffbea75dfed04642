"""Backbones as encoders of segmentation_models_pytorch: by name, in every model that takes them."""

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import encoders, get_encoder

from autobackbone import ConfigError, UnknownBackboneError, UnsupportedError, create_feature_backbone, list_backbones
from autobackbone.integrations.segmentation_models_pytorch import BackboneEncoder, register_encoder

DEFAULT = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "UPerNet", "Segformer")
DILATED = {"DeepLabV3": 8, "DeepLabV3Plus": 16, "PAN": 16}
NAMES = ("test_resnet", "swin_tiny_patch4_window7_224", "test_vit", "dinov3_convnext_tiny")


def create(architecture, name, **kwargs):
    torch.manual_seed(0)
    return getattr(smp, architecture)(f"ab-{name}", encoder_weights=None, classes=2, **kwargs)


def train_a_step(model, x):
    masks = model(x)
    assert masks.shape == (len(x), 2, *x.shape[-2:])
    masks.square().mean().backward()
    grads = [p.grad for p in model.encoder.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert any(grad.abs().sum() > 0 for grad in grads)


def test_every_backbone_is_an_encoder():
    assert {f"ab-{name}" for name in list_backbones()} <= encoders.keys()


@pytest.mark.parametrize("name", NAMES)
def test_unet_takes_any_size(name):
    train_a_step(create("Unet", name, in_channels=4), torch.randn(2, 4, 97, 130))


@pytest.mark.families
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("architecture", DEFAULT)
def test_every_model(architecture, name):
    train_a_step(create(architecture, name), torch.randn(2, 3, 128, 160))


@pytest.mark.families
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("architecture", "stride"), DILATED.items())
def test_models_of_dilated_encoders(architecture, stride, name):
    try:
        create_feature_backbone(name, pretrained=False, output_stride=stride)
        can_be = True
    except UnsupportedError:
        can_be = name == "test_vit" and stride == 16  # whose only stride that is
    if can_be:
        train_a_step(create(architecture, name), torch.randn(2, 3, 256, 256))
    else:
        with pytest.raises(UnsupportedError, match="cannot be dilated"):
            create(architecture, name)


def test_dpt_takes_none_but_the_librarys_own():
    with pytest.raises(ValueError, match="must start with 'tu-'"):
        create("DPT", "test_vit")


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "mobilenetv3_small_050"])
@torch.inference_mode()
def test_the_maps_are_those_of_the_librarys_own_encoder(name, depth):
    theirs = get_encoder(f"tu-{name}", depth=depth).eval()
    ours = get_encoder(f"ab-{name}", depth=depth).eval()
    state = theirs.model.state_dict()
    names = {key.removeprefix("model."): key for key in ours.backbone.network.state_dict()}
    spelled = {s: key for key in names for s in (key, key.replace(".", "_", 1))}
    shared = {spelled[key]: value for key, value in state.items() if key in spelled}  # theirs are not all cut
    ours.backbone.network.load_state_dict(shared)
    assert ours.out_channels == theirs.out_channels[: depth + 1]
    assert ours.output_stride == theirs.output_stride
    x = torch.randn(2, 3, 224, 224)
    for y, e in zip(ours(x), theirs(x), strict=True):
        assert torch.equal(y, e)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 96), (97, 130)])
@torch.inference_mode()
def test_channels_and_sizes_are_as_told(name, size):
    encoder = get_encoder(f"ab-{name}", in_channels=2).eval()
    maps = encoder(torch.randn(1, 2, *size))
    assert [y.shape[1] for y in maps] == encoder.out_channels
    assert [tuple(y.shape[2:]) for y in maps] == [tuple(-(-n // 2**i) for n in size) for i in range(6)]


def test_other_channels_keep_the_weights(tmp_path):
    trained = create_feature_backbone("test_resnet", pretrained=False, out_strides=(2, 4, 8, 16, 32))
    state = trained.network.state_dict()
    save_file(state, tmp_path / "model.safetensors")
    encoder = BackboneEncoder("test_resnet")
    encoder.load_state_dict(state)
    encoder.set_in_channels(5)
    expected = create_feature_backbone(
        "test_resnet", weights=tmp_path / "model.safetensors", in_chans=5, out_strides=(2, 4, 8, 16, 32)
    )
    for key, value in expected.network.state_dict().items():
        assert torch.equal(encoder.backbone.network.state_dict()[key], value)
    assert encoder.backbone.weights_report.coverage == 1


@torch.inference_mode()
def test_whole_models_are_saved_and_loaded(tmp_path):
    for name in ("test_resnet", "swin_tiny_patch4_window7_224"):
        model = create("Unet", name, in_channels=4).eval()
        model.save_pretrained(tmp_path / name)
        loaded = smp.from_pretrained(tmp_path / name).eval()
        x = torch.randn(1, 4, 97, 130)
        assert torch.equal(loaded(x), model(x))


def test_freezing():
    model = create("Unet", "test_resnet")
    model.freeze_encoder()
    before = {name: t.clone() for name, t in model.encoder.state_dict().items()}
    model.train()
    model(torch.randn(2, 3, 64, 64)).mean().backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(torch.equal(t, before[name]) for name, t in model.encoder.state_dict().items())


def test_configs_of_their_own():
    register_encoder("my-vit", "test_vit", pyramid="simple", pyramid_channels=32)
    try:
        encoder = get_encoder("my-vit")
        assert encoder.out_channels == [3, 0, 32, 32, 32, 32]
    finally:
        del encoders["my-vit"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "resnt18"}, UnknownBackboneError, "resnet18"),
        ({"name": "resnet18", "depth": 0}, ConfigError, "depth=0: an encoder has 1 to 5 maps"),
        ({"name": "resnet18", "depth": 6}, ConfigError, "depth=6"),
        ({"name": "resnet18", "depth": "5"}, ConfigError, "depth='5'"),
        ({"name": "test_vit", "depth": 1}, ConfigError, "has no level at stride 2"),
        ({"name": "resnet18", "out_indices": (1,)}, ConfigError, "out_indices: an encoder gets that from depth"),
        ({"name": "resnet18", "weights": "x"}, ConfigError, "weights: an encoder gets that"),
        ({"name": "resnet18", "drop_rat": 0.1}, ConfigError, "drop_rate"),
        ({"name": "resnet18", "output_stride": 7}, ConfigError, "output_stride"),
    ],
)
def test_mistakes(arguments, error, message):
    with pytest.raises(error, match=message):
        BackboneEncoder(**arguments)


def test_names_of_the_library_stay_its_own():
    with pytest.raises(ConfigError, match="'resnet18' is an encoder of the library itself"):
        register_encoder("resnet18", "resnet18")
