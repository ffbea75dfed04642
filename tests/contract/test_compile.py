"""The contract under torch.compile and torch.export."""

import pytest
import torch

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


def _small(name):
    return create_feature_backbone(name, pretrained=False).eval()


def _size(backbone) -> tuple[int, int]:
    return backbone.input_spec.size if backbone.input_spec.fixed_size else (97, 130)
