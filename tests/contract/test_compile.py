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
    "dinov3_vits16",
    *(
        pytest.param(name, marks=pytest.mark.families)  # torch takes long to follow these
        for name in (
            "densenet121",
            "swin_tiny_patch4_window7_224",
            "vit_small_patch14_dinov2",
            "test_mambaout",
            "pit_ti_224",
        )
    ),
]

# Before torch 2.13, the shape of a pooled map is computed with a branch on whether the size before it is odd.
PARITY_MATTERS = torch.__version__ < (2, 13)
pooled = pytest.mark.skipif(PARITY_MATTERS, reason="torch before 2.13 needs a graph per parity of pooled maps' sizes")


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


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", pytest.param("dinov3_vits16", marks=pytest.mark.families)])
def test_compiles_and_exports_for_any_size(name):
    backbone = _small(name)
    torch.compiler.reset()
    compiled = torch.compile(backbone, fullgraph=True, dynamic=True, backend="eager")
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    exported = torch.export.export(backbone, (torch.randn(2, 3, 97, 130),), dynamic_shapes=(free,))
    program = exported.module(check_guards=not PARITY_MATTERS)
    for size in ((97, 130), (128, 96)):
        x = torch.randn(3, 3, *size)
        with torch.no_grad():
            for y, z, e in zip(compiled(x), program(x), backbone(x), strict=True):
                torch.testing.assert_close(y, e, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(z, e, rtol=1e-4, atol=1e-4)


# More than a cell of stride 32 both ways; 224 is what most tables of positions are made for.
SIZES = [(97, 130), (128, 96), (65, 70), (96, 96), (130, 97), (224, 224), (161, 97), (99, 200), (100, 100), (256, 192)]
# The others run in ``nox -s families``: torch takes long to follow them.
FEW_GRAPHS = {"test_resnet": pooled, "test_convnext": (), "test_vit": (), "test_efficientnet": ()}
# Architectures that branch on the size in their own code, each branch being a graph.
BRANCHES = {
    "naflexvit_base_patch16_parfac_gap": "its table of positions is cut for high grids, wide grids, and its own",
}
# Architectures that torch is not done with after minutes, or breaks the graph of at any size.
OUT_OF_REACH = {
    **dict.fromkeys(("davit_tiny", "sam2_hiera_tiny", "samvit_base_patch16_224", "tiny_vit_5m_224"), "windows"),
    **dict.fromkeys(("swin_tiny_patch4_window7_224", "swinv2_tiny_window16_256", "swinv2_cr_tiny_224"), "windows"),
    **dict.fromkeys(("efficientvit_m0", "twins_svt_small"), "windows"),
    **dict.fromkeys(("nasnetalarge", "pnasnet5large"), "cells that pad and crop by the size"),
    "mobilevit_xxs": "blocks that resize maps of no whole number of patches, or not: a graph each, for minutes",
    "sequencer2d_s": "LSTMs",
    "vit_tiny_r_s16_p8_224": "patches of what a ResNet with padding by the size leaves",
}


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=family.name, marks=FEW_GRAPHS.get(family.name, pytest.mark.families))
        for family in FAMILIES + DINOV3_FAMILIES
        if family.name not in OUT_OF_REACH
    ],
)
def test_two_graphs_are_enough_for_any_sizes(family):
    device = "cpu" if family.name in FEW_GRAPHS else "meta"  # graphs are made of shapes: their number needs no values
    with torch.device(device):
        backbone = create_feature_backbone(family.name, pretrained=False, extra_kwargs=family.extra_kwargs).eval()
    if backbone.input_spec.fixed_size:
        pytest.skip("it has a fixed size")
    least = backbone.input_spec.min_size
    more = least if least > 64 else 0  # where maps shrink faster than the stride says
    graphs = []
    compiled = _compiled(backbone, graphs, dynamic=True)
    for height, width in SIZES:
        x = torch.randn(2, 3, height + more, width + more, device=device)
        with torch.no_grad():
            maps = compiled(x)
            expected = backbone(x)
        assert [y.shape for y in maps] == [e.shape for e in expected]
        if device == "cpu":
            for y, e in zip(maps, expected, strict=True):
                torch.testing.assert_close(y, e, rtol=1e-4, atol=1e-4)
    assert (len(graphs) > 2) == (family.name in BRANCHES)


@pytest.mark.parametrize(("dynamic", "most"), [(True, 3), (None, 4)])
@pytest.mark.parametrize("name", [pytest.param("test_resnet", marks=pooled), "test_vit"])
def test_a_square_first_and_automatic_sizes_take_one_more_each(name, dynamic, most):
    """To torch equal sizes are one size; and what it is not told to be variable it takes for constant at first."""
    backbone = _small(name)
    graphs = []
    compiled = _compiled(backbone, graphs, dynamic=dynamic)
    for height, width in [(96, 96), *SIZES]:
        with torch.no_grad():
            compiled(torch.randn(2, 3, height, width))
    assert len(graphs) <= most


@pytest.mark.filterwarnings("ignore:`torch.jit")  # deprecated, in a category that depends on the version
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


def _compiled(backbone, graphs, *, dynamic):
    """Compile a backbone by a compiler that does nothing but list the graphs it is given."""

    def listed(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    return torch.compile(backbone, fullgraph=True, dynamic=dynamic, backend=listed)


def _small(name, **overrides):
    arguments = {"extra_kwargs": {"num_hidden_layers": 2}} if name.startswith("dinov3") else {}
    return create_feature_backbone(name, pretrained=False, **arguments, **overrides).eval()


def _size(backbone) -> tuple[int, int]:
    return backbone.input_spec.size if backbone.input_spec.fixed_size else (97, 130)
