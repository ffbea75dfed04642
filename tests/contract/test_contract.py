"""The contract, for real, on one architecture of every family."""

import pytest
import torch
from families import DINOV3_FAMILIES, FAMILIES, spread
from torch import nn

from autobackbone import FeatureBackbone, UnsupportedError, create_feature_backbone, freeze_stages, unfreeze_stages


@pytest.fixture(scope="module", params=spread(FAMILIES + DINOV3_FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def backbone(family) -> FeatureBackbone:
    torch.manual_seed(0)
    size = None if _takes_any_size(family) else family.size
    return create_feature_backbone(
        family.name,
        pretrained=False,
        extra_kwargs=family.extra_kwargs,
        img_size=size,
        out_indices=_deepest_indices(family),
    )


def test_maps_have_the_shapes_that_were_told(family, backbone):
    x = torch.randn(2, 3, *family.size)
    for mode in (backbone.train(), backbone.eval()):
        with torch.no_grad():
            maps = mode(x)
        assert isinstance(maps, list)
        assert [tuple(y.shape) for y in maps] == _contract(backbone, 2, family.size)
        assert all(y.dtype == torch.float32 and bool(y.isfinite().all()) for y in maps)


def test_autocast_gives_the_same_shapes(family, backbone):
    backbone.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        maps = backbone(torch.randn(1, 3, *family.size))
    assert [tuple(y.shape) for y in maps] == _contract(backbone, 1, family.size)
    assert all(bool(y.isfinite().all()) for y in maps)


def test_freezing_freezes_whole_stages_for_good(family, backbone):
    before = {name: p.requires_grad for name, p in backbone.named_parameters()}
    freeze_stages(backbone, 1)
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen > {name for name, is_on in before.items() if not is_on}
    backbone.eval().train()
    backbone.zero_grad()
    before_step = {name: b.clone() for name, b in backbone.named_buffers() if "running" in name}
    sum(y.square().sum() for y in backbone(torch.randn(2, 3, *family.size))).backward()
    trained = {name for name, p in backbone.named_parameters() if p.grad is not None}
    after = dict(backbone.named_buffers())
    changed = {name for name, b in before_step.items() if not torch.equal(b, after[name])}
    backbone.zero_grad()
    unfreeze_stages(backbone)
    assert trained == before.keys() - frozen  # every trainable parameter gets a gradient
    owners = {name.rpartition(".")[0] for name in frozen}
    assert {name.rpartition(".")[0] for name in changed} & owners == set()
    assert {name: p.requires_grad for name, p in backbone.named_parameters()} == before


def test_checkpointing_changes_no_gradient_and_no_statistics(family, backbone):
    backbone.train()
    x = torch.randn(2, 3, *family.size)
    try:
        backbone.set_grad_checkpointing(True)
    except UnsupportedError as err:
        pytest.skip(str(err))
    before = {name: b.clone() for name, b in backbone.named_buffers()}
    checkpointed = _gradients(backbone, x)
    counted = {name: b.clone() for name, b in backbone.named_buffers()}
    backbone.set_grad_checkpointing(False)
    for name, b in backbone.named_buffers():
        b.copy_(before[name])
    plain = _gradients(backbone, x)
    for name, grad in plain.items():
        torch.testing.assert_close(checkpointed[name], grad, rtol=1e-4, atol=1e-4 * float(grad.abs().max() + 1))
    for name, b in backbone.named_buffers():
        assert torch.equal(counted[name], b), name


def test_meta_in_meta_out(family):
    size = None if _takes_any_size(family) else family.size
    with torch.device("meta"):
        backbone = create_feature_backbone(
            family.name, pretrained=False, extra_kwargs=family.extra_kwargs, img_size=size, out_strides=(8, 32)
        )
        maps = backbone(torch.empty(2, 3, *family.size))
    assert all(p.is_meta for p in backbone.parameters())
    assert [tuple(y.shape) for y in maps] == _contract(backbone, 2, family.size)


def test_nothing_deeper_than_the_deepest_level_is_run(family):
    size = None if _takes_any_size(family) else family.size
    with torch.device("meta"):
        arguments = {"pretrained": False, "extra_kwargs": family.extra_kwargs, "img_size": size}
        shallow = create_feature_backbone(family.name, out_indices=(0,), **arguments).train()
        maps = shallow(torch.empty(2, 3, *family.size))
    leaves = [(n, m) for n, m in shallow.named_modules() if not list(m.children()) and list(m.parameters())]
    named = [(f"{n}.{k}", p) for n, m in leaves for k, p in m.named_parameters() if p.requires_grad]
    grads = torch.autograd.grad(maps, [p for _, p in named], [torch.ones_like(y) for y in maps], allow_unused=True)
    assert [name for (name, _), grad in zip(named, grads, strict=True) if grad is None] == []


def _deepest_indices(family) -> tuple[int, ...]:
    with torch.device("meta"):
        probe = create_feature_backbone(family.name, pretrained=False, extra_kwargs=family.extra_kwargs)
    info = probe.feature_info.info
    native = [entry for i, entry in enumerate(info) if entry["index"] == i]
    tops = [i for i, e in enumerate(native) if i + 1 == len(native) or native[i + 1]["reduction"] != e["reduction"]]
    return tuple(reversed(tops))


def _takes_any_size(family) -> bool:
    with torch.device("meta"):
        probe = create_feature_backbone(
            family.name, pretrained=False, extra_kwargs=family.extra_kwargs, out_indices=(-1,)
        )
    return not probe.input_spec.fixed_size


def _contract(backbone: FeatureBackbone, batch: int, size: tuple[int, int]) -> list[tuple[int, ...]]:
    return [
        (batch, channels, -(-size[0] // stride), -(-size[1] // stride))
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]


def _gradients(backbone: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    backbone.zero_grad()
    torch.manual_seed(1)
    sum(y.square().mean() for y in backbone(x)).backward()
    return {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}
