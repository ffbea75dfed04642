"""Every head over every kind of backbone: what runs is what the page docs/heads.md says."""

import pytest
import torch
from heads import BACKBONES, HEADS, make_model
from matrix import CANNOT, PAGE, read_page, table

from autobackbone import ConfigError
from autobackbone.integrations.transformers import AutobackboneModel

ODD = (97, 130)
QUICK = {("RT-DETR", "resnet18"), ("Mask2Former", "swin_tiny_patch4_window7_224"), ("DPT", "vit_tiny_patch16_224")}
QUICK |= {("DPT", "resnet18"), ("Deformable DETR", "dinov3_vits16"), ("ViTPose", "vit_tiny_patch16_224")}
CELLS = [
    pytest.param(h, b, id=f"{h}-{b}", marks=() if (h.name, b.name) in QUICK else pytest.mark.families)
    for h in HEADS
    for b in BACKBONES
]


def _trains(head, model):
    """Whether a step gives a finite loss, and gradients in every part of the backbone that is to be trained."""
    inputs, loss = head.task(head.size, model)
    value = loss(model.train()(**inputs))
    value.backward()
    backbones = [module.backbone for module in model.modules() if isinstance(module, AutobackboneModel)]
    grads = [p.grad for p in backbones[0].parameters() if p.grad is not None]
    assert len(backbones) == 1
    assert value.isfinite()
    assert all(grad.isfinite().all() for grad in grads)
    return sum(bool(grad.any()) for grad in grads) > len(list(backbones[0].parameters())) / 2


def _infers(head, model, size):
    """Compute outputs without labels, and say whether all are numbers."""
    inputs, _ = head.task(size, model)
    inputs = {name: value for name, value in inputs.items() if not name.endswith("labels")}
    with torch.no_grad():
        output = model.eval()(**inputs)
    return not any(value.isnan().any() for value in output.to_tuple() if isinstance(value, torch.Tensor))


def _outcome(head, backbone):
    """Return which sizes a head takes over a backbone, or that it cannot be built."""
    if head.levels == "quarters" and not backbone.depth:
        with pytest.raises(ConfigError, match="with the same stride and channels"):
            make_model(head, backbone)
        return CANNOT
    model = make_model(head, backbone)
    assert _trains(head, model)
    assert _infers(head, model, head.size)
    if head.sizes == "any size":
        assert _infers(head, model, ODD)
        return head.sizes
    with pytest.raises((RuntimeError, ValueError)):
        _infers(head, model, ODD)
    if head.sizes != "one size":
        step = int(head.sizes.split()[-1])
        assert _infers(head, model, (3 * step, 5 * step))
    return head.sizes


@pytest.mark.parametrize(("head", "backbone"), CELLS)
def test_head(head, backbone, record_property):
    outcome = _outcome(head, backbone)
    record_property("heads", f"{head.name}/{backbone.name}/{outcome}")
    if not PAGE.is_file():
        pytest.skip("it ran, and the documentation is not here")
    assert read_page()[head.name][BACKBONES.index(backbone)] == outcome, "pytest -m '' -n 0 --write-heads writes it"


def test_the_page_has_every_head_and_reason():
    if not PAGE.is_file():
        pytest.skip("the documentation is not here")
    page = PAGE.read_text(encoding="utf-8")
    assert table(read_page()) in page
