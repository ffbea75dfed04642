"""The contract under torch.compile and torch.export."""

import pytest
import torch
from torch.export import Dim

from autobackbone import create_feature_backbone

NAMES = [
    "test_resnet",
    "test_convnext",
    "test_efficientnet",
    "test_vit",
    "densenet121",
    "swin_tiny_patch4_window7_224",
    "vit_small_patch14_dinov2",
    "test_mambaout",
    "pit_ti_224",
    "dinov3_vits16",
]


@pytest.mark.parametrize("name", NAMES)
def test_compiles_in_one_graph(name):
    backbone = _small(name)
    x = torch.randn(1, 3, *_size(backbone))
    torch.compiler.reset()  # the limit on recompilations counts those of other backbones
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for y, e in zip(compiled(x), backbone(x), strict=True):
            torch.testing.assert_close(y, e, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_exports(name):
    backbone = _small(name)
    x = torch.randn(1, 3, *_size(backbone))
    program = torch.export.export(backbone, (x,))
    with torch.no_grad():
        for y, e in zip(program.module()(x), backbone(x), strict=True):
            torch.testing.assert_close(y, e, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "dinov3_vits16"])
def test_compiles_and_exports_for_any_size(name):
    backbone = _small(name)
    torch.compiler.reset()
    compiled = torch.compile(backbone, fullgraph=True, dynamic=True, backend="eager")
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = torch.export.export(backbone, (torch.randn(2, 3, 97, 130),), dynamic_shapes=(free,)).module()
    for size in ((97, 130), (128, 96)):
        x = torch.randn(3, 3, *size)
        with torch.no_grad():
            for y, z, e in zip(compiled(x), program(x), backbone(x), strict=True):
                torch.testing.assert_close(y, e, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(z, e, rtol=1e-4, atol=1e-4)


def _small(name):
    arguments = {"extra_kwargs": {"num_hidden_layers": 2}} if name.startswith("dinov3") else {}
    return create_feature_backbone(name, pretrained=False, **arguments).eval()


def _size(backbone) -> tuple[int, int]:
    return backbone.input_spec.size if backbone.input_spec.fixed_size else (97, 130)
