"""Backbones in models: compiled, wrapped, and two at a time."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from autobackbone import (
    ConfigError,
    FeatureBackbone,
    FeatureBackboneConfig,
    FeaturePyramid,
    WeightsError,
    WeightsMismatchError,
    create_backbone,
    create_feature_backbone,
    freeze_norms,
    freeze_stages,
    get_blocks,
    get_feature_channels,
    get_feature_info,
    get_feature_strides,
    get_input_spec,
    init_non_persistent_buffers,
    layer_decay_param_groups,
    load_weights,
    unfreeze_norms,
    unfreeze_stages,
)
from autobackbone.unwrapping import unwrap


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


WRAPPERS = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "DataParallel": DataParallel,
    "DDP": DistributedDataParallel,
    "averaged": AveragedModel,
    "DDP of compiled": lambda model: DistributedDataParallel(torch.compile(model, backend="eager")),
    "compiled DDP": lambda model: torch.compile(DistributedDataParallel(model), backend="eager"),
}


def make(name="test_resnet", **arguments):
    return create_feature_backbone(name, pretrained=False, **arguments)


def two():
    """Return a model with two backbones, one of them below another module."""
    return nn.ModuleDict({"rgb": make(), "neck": nn.Sequential(make("test_vit"))})


def frozen(model):
    return {name for name, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_backbones_are_taken_for_what_they_wrap(wrapper, tmp_path):
    backbone = make()
    backbone.save_pretrained(tmp_path)
    wrapped = WRAPPERS[wrapper](make())
    inner = unwrap(wrapped)
    assert type(inner) is type(backbone)
    assert get_feature_channels(wrapped) == list(backbone.channels)
    assert get_feature_strides(wrapped) == list(backbone.strides)
    assert get_feature_info(wrapped) == get_feature_info(backbone)
    assert get_input_spec(wrapped) == backbone.input_spec
    report = load_weights(wrapped, tmp_path)
    assert report.coverage == 1
    assert inner.weights_report is report
    assert all(
        torch.equal(a, b) for a, b in zip(inner.state_dict().values(), backbone.state_dict().values(), strict=True)
    )
    freeze_stages(wrapped, 1)
    freeze_stages(backbone, 1)
    assert frozen(inner) == frozen(backbone) != set()
    sizes = [len(group["params"]) for group in layer_decay_param_groups(backbone, 0.1)]
    assert [len(group["params"]) for group in layer_decay_param_groups(wrapped, 0.1)] == sizes


def test_wrapped_pooled_backbones_have_an_input_spec():
    pooled = create_backbone("test_resnet", pretrained=False)
    assert (
        get_input_spec(DataParallel(pooled)) == get_input_spec(torch.compile(pooled)) == pooled.autobackbone.input_spec
    )


def test_a_module_with_more_than_what_it_wraps_is_no_wrapper():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = make()
            self.head = nn.Conv2d(1, 1, 1)

    detector = Detector()
    assert unwrap(detector) is detector
    with pytest.raises(ConfigError, match="A FeatureBackbone is needed, got Detector"):
        get_feature_channels(detector)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: freeze_stages(model, 1),
        freeze_norms,
        lambda model: layer_decay_param_groups(model, 0.1),
        get_blocks,
    ],
)
def test_of_two_backbones_none_is_chosen_in_silence(call):
    model = two()
    with pytest.raises(ConfigError) as err:
        call(model)
    assert str(err.value) == (
        "ModuleDict has 2 backbones of this package in it ('rgb', 'neck.0'); say which is meant, as in name='rgb'."
    )
    assert frozen(model) == set()


@pytest.mark.parametrize(
    "wrap", [lambda model: model, lambda model: torch.compile(model, backend="eager"), DataParallel]
)
@pytest.mark.parametrize(
    ("name", "expected"),
    [("rgb", ["rgb"]), ("neck.0", ["neck.0"]), ("neck", ["neck.0"]), (["neck", "rgb"], ["rgb", "neck.0"])],
)
def test_backbones_are_chosen_by_name(name, expected, wrap):
    model = two()
    wrapped = wrap(model)
    freeze_stages(wrapped, 1, name=name)
    assert {prefix for prefix in ("rgb", "neck.0") if any(n.startswith(prefix) for n in frozen(model))} == set(expected)
    freeze_norms(wrapped, affine=True, name=name)
    unfreeze_stages(wrapped, name=name)
    assert any("bn1" in n for n in frozen(model)) == ("rgb" in expected)
    unfreeze_norms(wrapped, name=name)
    assert frozen(model) == set()
    counts = {n: len(get_blocks(model.get_submodule(n))) for n in expected}
    assert len(get_blocks(wrapped, name=name)) == sum(counts.values())


def test_both_backbones_have_the_rates_that_each_has_alone():
    model = two()
    model["head"] = nn.Linear(2, 2)

    def rates(part, **arguments):
        groups = layer_decay_param_groups(part, 0.1, layer_decay=0.5, **arguments)
        by_id = {id(p): (group["scale"], group["weight_decay"]) for group in groups for p in group["params"]}
        return {name: by_id[id(p)] for name, p in part.named_parameters()}

    alone = {n: {f"{n}.{key}": v for key, v in rates(model.get_submodule(n)).items()} for n in ("rgb", "neck.0")}
    head = {"head.weight": (1, 0.05), "head.bias": (1, 0)}
    assert rates(model, name=["rgb", "neck"]) == alone["rgb"] | alone["neck.0"] | head
    one = rates(model, name="rgb")
    assert {scale for name, (scale, _) in one.items() if name.startswith("neck")} == {1}
    assert one.items() >= alone["rgb"].items()


def test_weights_are_loaded_into_one_of_two_backbones(tmp_path):
    trained = make()
    trained.save_pretrained(tmp_path)
    model = nn.ModuleDict({"rgb": make(), "depth": torch.compile(make(), backend="eager")})
    before = copy.deepcopy(model["rgb"].state_dict())
    report = load_weights(DataParallel(model), tmp_path, name="depth")
    depth = unwrap(model["depth"])
    assert depth.weights_report is report
    assert report.coverage == 1
    assert all(torch.equal(v, trained.state_dict()[k]) for k, v in depth.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in model["rgb"].state_dict().items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("thermal", "name='thermal' names none of the backbones in the model, which are 'rgb', 'neck.0'."),
        ("rg", "name='rg' names none of the backbones"),
        ("", "name='' names 2 of the backbones"),
        (["rgb", "thermal"], "name='thermal' names none"),
        (3, "name must be the name of a backbone in the model, or a list of names, got 3."),
        ([], "or a list of names, got []."),
        ([None], "or a list of names, got [None]."),
    ],
)
def test_wrong_names(name, message):
    model = two()
    with pytest.raises(ConfigError) as err:
        freeze_stages(model, 1, name=name)
    assert message in str(err.value)
    assert frozen(model) == set()


def test_what_one_of_several_cannot_leaves_all_as_they_are():
    model = two()
    with pytest.raises(ConfigError, match="has 4 stages"):
        freeze_stages(model, 5, name=["neck", "rgb"])
    assert frozen(model) == set()


def test_something_with_one_backbone_in_it_names_it():
    model = nn.ModuleDict({"first": FeaturePyramid(make(), 8), "second": FeaturePyramid(make(), 8)})
    freeze_stages(model, 0, name="second")
    assert {n.split(".")[0] for n in frozen(model)} == {"second"}


def test_weights_of_one_backbone_do_not_go_into_a_model_with_two(tmp_path):
    torch.save(make().body.model.state_dict(), tmp_path / "one.pt")
    model = two()
    before = copy.deepcopy(model.state_dict())
    for strict in (True, False):
        with pytest.raises(WeightsMismatchError) as err:
            load_weights(model, tmp_path / "one.pt", strict=strict)
        assert "Backbones in the model: 'rgb', 'neck.0'; to load one alone, name it, as in name='rgb'." in str(
            err.value
        )
    with pytest.raises(ConfigError, match="loads one backbone at a time; call it for each"):
        load_weights(model, tmp_path / "one.pt", name=["rgb", "neck"])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert load_weights(model, tmp_path / "one.pt", name="rgb").coverage == 1


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore:.*(NO_SHARD|FSDP)")  # of a single process
@pytest.mark.parametrize("use_orig_params", [True, False])
def test_joined_parameters_are_refused(use_orig_params, tmp_path):
    """They are no longer found by name: weights would be left as they are, and rates be those of the head."""
    make().save_pretrained(tmp_path)
    wrapped = FullyShardedDataParallel(make(), device_id=torch.device("cpu"), use_orig_params=use_orig_params)
    before = {name: value.clone() for name, value in wrapped.state_dict().items()}
    assert get_feature_channels(wrapped) == list(unwrap(wrapped).channels)
    assert get_input_spec(wrapped) == unwrap(wrapped).input_spec
    with pytest.raises(WeightsError, match="A FeatureBackbone in a FullyShardedDataParallel is sharded"):
        load_weights(wrapped, tmp_path)
    for call in (freeze_norms, get_blocks, lambda m: freeze_stages(m, 1), lambda m: layer_decay_param_groups(m, 0.1)):
        with pytest.raises(ConfigError, match="do this before wrapping it"):
            call(wrapped)
    assert all(torch.equal(value, before[name]) for name, value in wrapped.state_dict().items())


BODIES = {"compiled": lambda body: torch.compile(body, backend="eager"), "DataParallel": DataParallel}


@pytest.mark.parametrize("wrapper", BODIES)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_the_body_may_be_wrapped(name, wrapper, tmp_path):
    """Stages, layers and blocks are what they are without the wrapper, and weights find their way."""
    plain, wrapped = make(name), make(name)
    plain.save_pretrained(tmp_path)
    wrapped.body = BODIES[wrapper](wrapped.body)
    assert load_weights(wrapped, tmp_path).coverage == 1
    init_non_persistent_buffers(wrapped)
    for backbone in (plain, wrapped):
        freeze_stages(backbone, 1)
    names = [{n.rpartition("model.")[2] for n in backbone.frozen} for backbone in (plain, wrapped)]
    assert names[0] == names[1]
    groups = [layer_decay_param_groups(backbone, 1e-3) for backbone in (plain, wrapped)]
    assert [(g["scale"], len(g["params"])) for g in groups[0]] == [(g["scale"], len(g["params"])) for g in groups[1]]
    assert len(get_blocks(plain)) == len(get_blocks(wrapped))
    assert wrapped.network is unwrap(wrapped.body).model


def test_torchs_checkpoint_wrapper_is_passed_over(tmp_path):
    pooled = create_backbone("test_vit", pretrained=False, num_classes=3)
    torch.save(create_backbone("test_vit", pretrained=False, num_classes=5).state_dict(), tmp_path / "other.pth")
    assert load_weights(checkpoint_wrapper(pooled), tmp_path / "other.pth").mismatched == ("head.weight", "head.bias")
    assert get_input_spec(checkpoint_wrapper(pooled)) == get_input_spec(pooled)
    backbone = make()
    assert get_feature_channels(checkpoint_wrapper(backbone)) == list(backbone.channels)


@pytest.mark.parametrize("create", [create_feature_backbone, create_backbone])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_do_not_affect_each_other(create, copied, tmp_path):
    first = create("test_resnet", pretrained=False)
    torch.save(create("test_resnet", pretrained=False).state_dict(), tmp_path / "w.pth")
    second = copied(first)
    report = load_weights(second, tmp_path / "w.pth")
    assert second.autobackbone.weights_report is report
    assert first.autobackbone.weights_report is None


def test_subclasses_can_be_trained_whatever_mode_they_are_made_in():
    class Headed(FeatureBackbone):
        def __init__(self, parts):
            super().__init__(parts)
            self.head = nn.Linear(2, 2)

    with torch.inference_mode():
        backbone = Headed.from_config(FeatureBackboneConfig("test_resnet", pretrained=False))
    assert not any(p.is_inference() for p in backbone.parameters())
