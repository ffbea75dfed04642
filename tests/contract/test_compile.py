"""The contract under torch.compile, torch.export and torch.jit.trace."""

import warnings

import pytest
import torch
from families import DINOV3_FAMILIES, FAMILIES
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


# Beyond the square size that a graph is first made for: torch takes equal sizes for one size, hence a second graph.
SIZES = [(96, 96), (97, 130), (128, 96), (65, 70), (130, 97), (224, 224), (161, 97), (99, 200), (100, 100), (256, 192)]
# The others run with the zoo: torch takes long to follow them.
FEW_GRAPHS = ("test_resnet", "test_convnext", "test_vit", "test_efficientnet")
# What makes a graph for every few sizes, or takes torch longer than anybody waits, by the architecture's own code.
GRAPH_PER_SIZE = {
    "cpubone_nano": "attention branches on whether rows and columns are odd",
    "davit_tiny": "window attention: torch does not come to an end",
    "efficientvit_m0": "attention in windows cut by size, with a cache by device",
    "sam2_hiera_tiny": "window attention: torch does not come to an end",
}


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=family.name, marks=() if family.name in FEW_GRAPHS else pytest.mark.zoo)
        for family in FAMILIES + DINOV3_FAMILIES
        if family.name not in GRAPH_PER_SIZE
    ],
)
def test_two_graphs_are_enough_for_any_sizes(family):
    backbone = create_feature_backbone(family.name, pretrained=False, extra_kwargs=family.extra_kwargs).eval()
    if backbone.input_spec.fixed_size:
        pytest.skip("bound to one size")
    least = max(backbone.input_spec.min_size, 65)
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(backbone, fullgraph=True, dynamic=True, backend=count)
    for height, width in SIZES:
        x = torch.randn(2, 3, max(height, least), max(width, least))
        with torch.no_grad():
            for y, e in zip(compiled(x), backbone(x), strict=True):
                torch.testing.assert_close(y, e, rtol=1e-4, atol=1e-4)
    assert len(graphs) <= 2


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_automatic_sizes_take_few_graphs(name):
    backbone = _small(name)
    graphs = []
    torch.compiler.reset()
    compiled = torch.compile(backbone, fullgraph=True, backend=lambda g, _: graphs.append(g) or g.forward)
    for height, width in SIZES:
        with torch.no_grad():
            compiled(torch.randn(2, 3, height, width))
    assert len(graphs) <= 4  # the first size for itself, then what changes, the square ones apart


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # deprecated
@pytest.mark.filterwarnings("ignore:.*`is_gradient_checkpointing` is deprecated:FutureWarning")  # jit reads it
@pytest.mark.parametrize("name", [*NAMES, "test_vit simple"])
def test_traces(name):
    """For more sizes than the one traced: nothing of ours binds a trace, and no warning is of ours."""
    name, _, pyramid = name.partition(" ")
    backbone = _small(name, pyramid=pyramid or "resample")
    size = _size(backbone)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", torch.jit.TracerWarning)
        traced = torch.jit.trace(backbone, torch.randn(1, 3, *size), check_trace=False)
    assert [w.filename for w in caught if "autobackbone" in w.filename] == []
    sizes = {size} if backbone.input_spec.fixed_size else {size, (128, 96), (64, 65)}
    for height, width in sizes:
        x = torch.randn(2, 3, height, width)
        with torch.no_grad():
            for y, e in zip(traced(x), backbone(x), strict=True):
                assert torch.equal(y, e)


def _small(name, **overrides):
    arguments = {"extra_kwargs": {"num_hidden_layers": 2}} if name.startswith("dinov3") else {}
    return create_feature_backbone(name, pretrained=False, **arguments, **overrides).eval()


def _size(backbone) -> tuple[int, int]:
    return backbone.input_spec.size if backbone.input_spec.fixed_size else (97, 130)
