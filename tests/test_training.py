"""Freezing, layer-wise learning rates, blocks and checkpointing, against timm and by what they do."""

import copy

import pytest
import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.optim import param_groups_layer_decay
from torch import nn

from autobackbone import (
    ConfigError,
    FeaturePyramid,
    UnsupportedError,
    count_parameters,
    create_backbone,
    create_feature_backbone,
    freeze_stages,
    get_blocks,
    layer_decay_param_groups,
    unfreeze_stages,
)

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def make(name="test_resnet", **arguments):
    return create_feature_backbone(name, pretrained=False, **arguments)


def frozen(backbone):
    return {name for name, p in backbone.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize(
    ("name", "arguments", "n", "prefixes"),
    [
        ("resnet18", {}, 0, ("model.conv1.", "model.bn1.")),
        ("resnet18", {}, 2, ("model.conv1.", "model.bn1.", "model.layer1.", "model.layer2.")),
        ("test_convnext", {}, 0, ("model.stem.",)),
        ("test_convnext", {}, 1, ("model.stem.", "model.stages.0.")),
        ("swin_tiny_patch4_window7_224", {}, 2, ("model.patch_embed.", "model.layers.0.", "model.layers.1.")),
        ("test_efficientnet", {}, 1, ("model.conv_stem.", "model.bn1.", "model.blocks.0.")),
        (
            "test_vit",
            {"norm": True},
            2,
            ("model.cls_token", "model.pos_embed", "model.patch_embed.", "model.blocks.0.", "model.blocks.1."),
        ),
        ("dinov3_vits16", {"extra_kwargs": {"num_hidden_layers": 3}}, 1, ("embeddings.", "model.layer.0.")),
        ("dinov3_convnext_tiny", {}, 0, ("model.stages.0.downsample_layers.",)),
        ("dinov3_convnext_tiny", {}, 1, ("model.stages.0.",)),
    ],
)
def test_the_stem_and_the_first_stages_are_frozen(name, arguments, n, prefixes):
    with torch.device("meta"):
        backbone = make(name, **arguments)
    before = frozen(backbone)
    freeze_stages(backbone, n)
    named = {key for key, _ in backbone.named_parameters()}
    assert frozen(backbone) == before | {key for key in named if key.removeprefix("body.").startswith(prefixes)}
    freeze_stages(backbone, -1)
    assert frozen(backbone) == named
    unfreeze_stages(backbone)
    assert frozen(backbone) == before


def test_frozen_norms_keep_their_statistics_and_the_others_learn():
    backbone = make("test_resnet")
    freeze_stages(backbone, 1)
    model = nn.Sequential(backbone)
    before = copy.deepcopy(backbone.state_dict())
    for _ in range(2):
        model.eval()
        model.train()  # as a training loop does
        sum(y.square().mean() for y in model(torch.randn(2, 3, 64, 64))).backward()
    after = backbone.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    running = {name for name in before if "running" in name}
    assert changed & running == {
        name for name in running if name.startswith(("body.model.layer2", "body.model.layer3", "body.model.layer4"))
    }
    assert {name for name, p in backbone.named_parameters() if p.grad is None} == frozen(backbone)


def test_frozen_blocks_drop_nothing():
    backbone = make("test_vit", drop_rate=0.5, drop_path_rate=0.5, out_indices=(2, 5)).train()
    freeze_stages(backbone, 3)
    x = torch.randn(2, 3, 64, 64)
    (one, deep), (other, deeper) = backbone(x), backbone(x)
    assert torch.equal(one, other)
    assert not torch.equal(deep, deeper)


def test_what_was_frozen_by_hand_rests_as_well():
    backbone = make("test_resnet").requires_grad_(requires_grad=False)
    freeze_stages(backbone, -1)
    backbone.train()
    before = {name: b.clone() for name, b in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(b, before[name]) for name, b in backbone.named_buffers())
    unfreeze_stages(backbone)
    assert frozen(backbone) == {name for name, _ in backbone.named_parameters()}


def test_dropout_of_the_stem_rests_with_it():
    backbone = make("test_vit", extra_kwargs={"pos_drop_rate": 0.5})
    freeze_stages(backbone, 1)
    backbone.train()
    assert not backbone.body.model.pos_drop.training
    assert backbone.body.model.blocks[1].training


def test_modules_that_changed_since_do_not_matter():
    backbone = make("test_vit")
    freeze_stages(backbone, 2)
    nn.utils.parametrizations.weight_norm(backbone.body.model.blocks[0].attn.qkv)
    unfreeze_stages(backbone)
    freeze_stages(backbone, 1)
    assert any("qkv.parametrizations" in name for name in frozen(backbone))


def test_hooks_of_others_see_nothing_of_the_tracing():
    backbone = make("test_resnet")
    seen = []
    backbone.body.model.layer1.register_forward_hook(lambda _module, _args, y: seen.append(y.mean().item()))
    freeze_stages(backbone, 1)
    assert seen == []
    backbone(torch.randn(1, 3, 64, 64))
    assert len(seen) == 1


def test_compiled_and_wrapped_models_have_one_backbone():
    backbone = make("test_resnet")
    compiled = torch.compile(backbone, backend="eager")
    freeze_stages(compiled, 1)
    assert backbone.frozen
    model = nn.Sequential(backbone)
    model.input_spec = backbone.input_spec
    assert len(layer_decay_param_groups(model, 1e-3)) == len(layer_decay_param_groups(compiled, 1e-3))


def test_freezing_again_starts_over_and_leaves_alone_what_was_frozen_by_hand():
    backbone = make("test_resnet")
    by_hand = backbone.get_parameter("body.model.layer1.0.conv1.weight")
    by_hand.requires_grad = False
    freeze_stages(backbone, 3)
    freeze_stages(backbone, 0)
    assert {name.split(".")[2] for name in frozen(backbone)} == {"conv1", "bn1", "layer1"}
    unfreeze_stages(backbone)
    assert frozen(backbone) == {"body.model.layer1.0.conv1.weight"}
    assert all(module.training for module in backbone.modules())


def test_a_pyramid_is_never_frozen():
    backbone = make("test_vit", pyramid="simple", pyramid_channels=8)
    freeze_stages(backbone, -1)
    assert {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad} == {"pyramid"}
    assert not backbone.body.training
    assert backbone.pyramid.training


def test_a_copy_and_a_converted_backbone_stay_frozen():
    backbone = make("test_efficientnet")
    freeze_stages(backbone, 2)
    for other in (copy.deepcopy(backbone), convert_sync_batchnorm(copy.deepcopy(backbone))):
        assert frozen(other) == frozen(backbone)
        other.train()
        norms = {name: module.training for name, module in other.named_modules() if isinstance(module, NORMS)}
        assert norms
        first = ("body.model.bn1", "body.model.blocks.0.", "body.model.blocks.1.")
        assert all(is_on != name.startswith(first) for name, is_on in norms.items())


@pytest.mark.parametrize(
    ("backbone", "n", "error", "message"),
    [
        (
            "test_resnet",
            5,
            ConfigError,
            "up to its deepest level this backbone has 4 stages; freeze 0 to 4, or -1",
        ),
        ("test_resnet", -2, ConfigError, "n=-2"),
        ("test_vit", 7, ConfigError, "this backbone has 6 stages"),
        ("test_resnet", 1.5, ConfigError, "takes a number of stages, or -1 for all, got 1.5"),
        ("test_resnet", None, ConfigError, "got None; unfreeze_stages() undoes it"),
        ("test_resnet", True, ConfigError, "got True"),
        ("poolformerv2_s12", 0, UnsupportedError, "does not tell its stem from its first stage"),
    ],
)
def test_what_cannot_be_frozen_is_told_and_nothing_changes(backbone, n, error, message):
    with torch.device("meta"):
        model = make(backbone)
    freeze_stages(model, 1)
    before = frozen(model)
    with pytest.raises(error) as err:
        freeze_stages(model, n)
    assert message in str(err.value)
    assert frozen(model) == before


def test_a_shallow_backbone_has_fewer_stages():
    with pytest.raises(ConfigError, match="has 2 stages"):
        freeze_stages(make("test_resnet", out_strides=(4, 8)), 3)
    with pytest.raises(ConfigError, match="takes a FeatureBackbone, got ResNet"):
        freeze_stages(create_backbone("test_resnet", pretrained=False), 1)
    model = nn.Sequential(make(), make())
    with pytest.raises(ConfigError, match="Sequential has 2 backbones"):
        freeze_stages(model, 1)
    freeze_stages(model[:1], 1)
    assert frozen(model[0])


def scales(model, groups):
    by_id = {id(p): (group["scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    return {name: by_id[id(p)] for name, p in model.named_parameters() if id(p) in by_id}


@pytest.mark.parametrize(
    "name",
    ["resnet50", "swin_tiny_patch4_window7_224", "convnext_tiny", "vit_small_patch16_224", "vit_small_patch16_dinov3"],
)
@pytest.mark.parametrize("kind", [create_feature_backbone, create_backbone])
def test_learning_rates_are_those_that_timm_gives_the_whole_model(name, kind):
    with torch.device("meta"):
        whole = timm.create_model(name, num_classes=10)
        model = kind(name, pretrained=False, **({} if kind is create_feature_backbone else {"num_classes": 10}))
    listed = getattr(whole, "no_weight_decay", set)()
    theirs = param_groups_layer_decay(whole, 0.1, listed, layer_decay=0.7)
    by_id = {id(p): (group["lr_scale"], group["weight_decay"]) for group in theirs for p in group["params"]}
    expected = {key: by_id[id(p)] for key, p in whole.named_parameters()}
    groups = layer_decay_param_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.7)
    ours = {key.removeprefix("body.model."): value for key, value in scales(model, groups).items()}
    assert len(ours) >= len(expected) - 4  # of a feature backbone the final norm and the head are gone
    assert ours == {key: (pytest.approx(expected[key][0]), expected[key][1]) for key in ours}
    assert len({scale for scale, _ in ours.values()}) > 10
    assert all(group["lr"] == group["scale"] for group in groups)


def test_both_sources_have_the_same_learning_rates():
    def by_depth(model):
        found = scales(model, layer_decay_param_groups(model, 1.0, 0.1, 0.5))
        return sorted((scale, decay, model.get_parameter(name).numel()) for name, (scale, decay) in found.items())

    with torch.device("meta"):
        hf, timms = make("dinov3_vits16", norm=False), make("vit_small_patch16_dinov3_qkvb")
        wide, narrow = make("dinov3_convnext_tiny"), make("convnext_tiny")
    total = [{s: sum(n for scale, _, n in by_depth(m) if scale == s) for s, _, _ in by_depth(m)} for m in (hf, timms)]
    assert list(total[0]) == [0.5**i for i in range(13, 0, -1)]
    assert total[0] == total[1]
    assert by_depth(wide) == by_depth(narrow)


@pytest.mark.parametrize("name", ["poolformerv2_s12", "pit_ti_224"])
def test_where_timm_does_not_tell_layers_they_are_the_native_levels(name):
    with torch.device("meta"):
        backbone, pooled = make(name, out_indices=(-1,)), create_backbone(name, pretrained=False)
    levels = len(backbone.native_levels)
    assert not hasattr(pooled, "group_matcher")
    for model in (backbone, pooled):
        found = {scale for scale, _ in scales(model, layer_decay_param_groups(model, 1.0, 0.1, 0.5)).values()}
        assert found == {0.5**i for i in range(1, levels + 1)}
        assert len(get_blocks(model)) >= levels - 1


def test_what_is_not_the_backbones_has_the_whole_rate_and_what_is_frozen_none():
    backbone = make("test_vit", pyramid="simple", pyramid_channels=8)
    freeze_stages(backbone, 2)
    detector = nn.ModuleDict({"neck": FeaturePyramid(backbone, 8), "head": nn.Conv2d(8, 2, 1)})
    found = scales(detector, layer_decay_param_groups(detector, lr=0.1, weight_decay=0.05, layer_decay=0.5))
    assert found.keys() == {name for name, p in detector.named_parameters() if p.requires_grad}
    for name, (scale, decay) in found.items():
        inside = ".body." in name
        assert (scale < 1) == inside
        assert decay == (0.05 if detector.get_parameter(name).ndim > 1 else 0)
    assert min(scale for scale, _ in found.values()) == 0.5**4


def test_optimizers_take_the_groups():
    backbone = make("test_convnext")
    optimizer = torch.optim.AdamW(layer_decay_param_groups(backbone, lr=1e-3))
    sum(y.mean() for y in backbone(torch.randn(1, 3, 64, 64))).backward()
    optimizer.step()
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == count_parameters(backbone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_decay": 0}, "layer_decay must be a finite number above 0 and at most 1, got 0"),
        ({"layer_decay": 1.1}, "layer_decay must be a finite number above 0 and at most 1, got 1.1"),
        ({"layer_decay": float("nan")}, "layer_decay must be"),
        ({"lr": 0}, "lr must be a finite number above 0, got 0"),
        ({"lr": "0.1"}, "lr must be a finite number above 0, got '0.1'"),
        ({"weight_decay": -1}, "weight_decay must be a finite number of at least 0, got -1"),
        ({"model": nn.Linear(2, 2)}, "Linear has 0 backbones of this package in it; give a model with one"),
    ],
)
def test_bad_learning_rates(arguments, message):
    with pytest.raises(ConfigError) as err:
        layer_decay_param_groups(**({"model": make(), "lr": 0.1} | arguments))
    assert message in str(err.value)


@pytest.mark.parametrize(
    ("name", "count"), [("resnet50", 16), ("convnext_tiny", 18), ("vit_small_patch16_224", 12), ("dinov3_vits16", 12)]
)
def test_blocks(name, count):
    with torch.device("meta"):
        backbone, pooled = make(name), create_backbone(name, pretrained=False)
    blocks = get_blocks(backbone)
    assert [type(b) for b in blocks] == [type(b) for b in get_blocks(pooled)]
    assert len(blocks) == count
    inside = {id(p) for block in blocks for p in block.parameters()}
    assert len(inside) == sum(len(list(block.parameters())) for block in blocks)  # none in two of them


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {}),
        ("vit_tiny_patch16_224", {"extra_kwargs": {"depth": 6}}),
        ("dinov3_vits16", {"extra_kwargs": {"num_hidden_layers": 6}}),
        ("dinov3_convnext_tiny", {"extra_kwargs": {"depths": [1, 1, 4, 1]}}),
    ],
)
@pytest.mark.parametrize("stages", [None, 1])
def test_checkpointing_keeps_less_and_changes_no_gradient(name, arguments, stages):
    backbone = make(name, **arguments).eval()
    if stages is not None:
        freeze_stages(backbone, stages)
    x = torch.randn(1, 3, 128, 96)
    kept, grads = {}, {}
    for checkpointed in (False, True):
        backbone.set_grad_checkpointing(checkpointed)
        backbone.zero_grad()
        sizes = {}

        def note(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            maps = backbone(x)
        own = {t.untyped_storage().data_ptr() for t in (*backbone.parameters(), *backbone.buffers())}
        kept[checkpointed] = sum(size for address, size in sizes.items() if address not in own)
        sum(y.square().mean() for y in maps).backward()
        grads[checkpointed] = {key: p.grad.clone() for key, p in backbone.named_parameters() if p.grad is not None}
    assert kept[True] < 0.6 * kept[False]
    assert grads[True].keys() == grads[False].keys()
    for key, grad in grads[False].items():
        torch.testing.assert_close(grads[True][key], grad)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_sync_batch_norm(name):
    backbone = make(name).eval()
    converted = convert_sync_batchnorm(copy.deepcopy(backbone))
    kinds = [sum(isinstance(m, kind) for m in converted.modules()) for kind in (nn.BatchNorm2d, nn.SyncBatchNorm)]
    assert kinds[0] == 0
    assert kinds[1] > 10
    x = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        for y, e in zip(converted(x), backbone(x), strict=True):
            torch.testing.assert_close(y, e)
