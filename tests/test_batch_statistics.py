"""Batch norms under gradient checkpointing: a batch counts once, as without."""

import copy
import io

import pytest
import timm.layers
import torch

from autobackbone import create_backbone, create_feature_backbone

NAMES = ["test_resnet", "test_efficientnet"]  # torch's norms, and timm's own with the activation inside


@pytest.fixture(params=[False, True], ids=["saved tensors", "reentrant"])
def _reentrant(request):
    before = timm.layers.use_reentrant_ckpt()
    timm.layers.set_reentrant_ckpt(request.param)
    yield
    timm.layers.set_reentrant_ckpt(before)


@pytest.mark.usefixtures("_reentrant")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("create", [create_feature_backbone, create_backbone])
def test_three_steps_count_three_batches(create, name):
    plain = create(name, pretrained=False).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    _train(plain)
    _train(checkpointed)
    _assert_same_statistics(plain, checkpointed)
    checkpointed.set_grad_checkpointing(False)
    _train(plain)
    _train(checkpointed)
    _assert_same_statistics(plain, checkpointed)


def test_copies_and_saved_modules_count_once():
    plain = create_feature_backbone("test_resnet", pretrained=False).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    file = io.BytesIO()
    torch.save(checkpointed, file)
    file.seek(0)
    copies = [copy.deepcopy(checkpointed), torch.load(file, weights_only=False)]
    _train(plain)
    for copied in copies:
        _train(copied)
        _assert_same_statistics(plain, copied)
    copies[0].set_grad_checkpointing(False)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in copies[0].modules())


def test_compiled_training_counts_once():
    plain = create_feature_backbone("test_resnet", pretrained=False).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    torch.compiler.reset()
    compiled = torch.compile(checkpointed, fullgraph=True, backend="aot_eager")
    _train(plain)
    _train(compiled)
    _assert_same_statistics(plain, checkpointed)


def test_statistics_that_are_not_finite_stay_so():
    """What is not finite would spread through any arithmetic that was to leave it alone."""
    plain = create_feature_backbone("test_resnet", pretrained=False).train()
    plain.body.model.bn1.running_mean.fill_(float("inf"))
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    _train(plain)
    _train(checkpointed)
    _assert_same_statistics(plain, checkpointed)


def _train(model) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        outputs = model(torch.randn(2, 3, 64, 96, generator=generator))
        sum(y.square().mean() for y in outputs).backward()


def _assert_same_statistics(plain, checkpointed) -> None:
    counted = dict(checkpointed.named_buffers())
    assert any("num_batches_tracked" in name for name in counted)
    for name, buffer in plain.named_buffers():
        assert torch.equal(counted[name], buffer), name
