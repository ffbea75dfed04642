"""Images that timm's pooled models do not take are refused in this package's words; others are left to timm."""

import copy
import pickle

import pytest
import timm
import torch
from families import FAMILIES, spread
from torch import nn

from autobackbone import InputError, InputSizeError, create_backbone, create_feature_backbone


# Small, and each of another way to take sizes; the others run with the zoo.
def test_a_vit_names_its_patches_and_the_nearest_sizes():
    backbone = create_backbone("test_vit", pretrained=False).eval()
    with pytest.raises(InputSizeError, match=r"multiples of 16, got 97x130; .* 112x144, or crop to 96x128"):
        backbone(torch.rand(1, 3, 97, 130))
    with pytest.raises(InputSizeError, match="multiples of 16"):
        backbone.forward_features(torch.rand(1, 3, 8, 160))
    assert backbone(torch.rand(1, 3, 96, 144)).shape == (1, 64)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(3, 96, 96), "add the batch dimension"),
        (torch.rand(1, 4, 96, 96), "takes 3 channels, got 4"),
        (torch.zeros(1, 3, 96, 96, dtype=torch.uint8), "floating point images"),
        (torch.rand(0, 3, 96, 96), "at least one image"),
        ([1, 2], "takes a tensor"),
    ],
)
def test_wrong_images_are_refused_as_feature_backbones_do(x, message):
    for create in (create_backbone, create_feature_backbone):
        with pytest.raises(InputError, match=message):
            create("test_resnet", pretrained=False)(x)


@pytest.mark.parametrize(
    "family",
    spread(FAMILIES),
)
def test_no_size_is_refused_that_timm_takes_and_no_other_is_left_to_fail(family):
    with torch.device("meta"):
        ours = create_backbone(family.name, pretrained=False, extra_kwargs=family.extra_kwargs).eval()
        arguments = {"num_classes": 0, **family.extra_kwargs}
        spec = ours.autobackbone.input_spec
        if not spec.fixed_size:  # what makes timm take any size
            free = ("dynamic_img_size", "strict_img_size")
            arguments |= {k: v for k, v in ours.autobackbone.rules.build.arguments.items() if k in free}
        theirs = timm.create_model(family.name, **arguments).eval()
    for height, width in ((97, 130), (spec.min_size, spec.min_size), (spec.min_size - 1 or 1, 64), spec.size):
        x = torch.empty(2, 3, height, width, device="meta")
        with torch.no_grad():
            try:
                expected = theirs(x).shape
            except (AssertionError, RuntimeError):
                with pytest.raises(InputSizeError):
                    ours(x)
            else:
                assert ours(x).shape == expected


def test_naflex_takes_patches_too():
    backbone = create_backbone("naflexvit_base_patch16_gap", pretrained=False, extra_kwargs={"depth": 1}).eval()
    rows, columns = torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")
    coord = torch.stack([rows.flatten(), columns.flatten()], dim=-1)[None]
    valid = torch.ones(1, 6, dtype=torch.bool)
    patches = {"patches": torch.rand(1, 6, 768), "patch_coord": coord, "patch_valid": valid}
    with torch.no_grad():
        assert torch.equal(backbone(patches), backbone(patches["patches"], coord, valid))
        with pytest.raises(InputSizeError, match="multiples of 16"):
            backbone(torch.rand(1, 3, 33, 48))


@pytest.mark.parametrize("create", [create_backbone, create_feature_backbone])
def test_one_small_image_in_training_is_told_what_to_do(create):
    backbone = create("test_resnet", pretrained=False).train()
    with pytest.raises(InputError, match="One 32x32 image leaves batch norm one value per channel") as caught:
        backbone(torch.rand(1, 3, 32, 32))
    assert isinstance(caught.value.__cause__, ValueError)
    for x in (torch.rand(2, 3, 32, 32), torch.rand(1, 3, 64, 64)):
        backbone(x)
    for module in backbone.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)  # frozen norms
    backbone(torch.rand(1, 3, 32, 32))


def test_other_errors_are_left_alone():
    backbone = create_feature_backbone("test_resnet", pretrained=False).train()

    def fail(*_):
        msg = "not of batch norm"
        raise ValueError(msg)

    backbone.body.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="not of batch norm") as caught:
        backbone(torch.rand(2, 3, 64, 64))
    assert not isinstance(caught.value, InputError)


def test_a_model_that_was_changed_is_left_to_timm():
    backbone = create_backbone("csatv2", pretrained=False).eval()
    with pytest.raises(InputSizeError, match="multiples of 64"):
        backbone(torch.rand(1, 3, 97, 130))
    backbone.head = nn.Identity()
    with pytest.raises(RuntimeError):
        backbone(torch.rand(1, 3, 97, 130))


@pytest.mark.filterwarnings("ignore")  # of torch.jit, which is deprecated, on timm's own code
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_checks_follow_copies_and_stay_out_of_graphs(name):
    backbone = create_backbone(name, pretrained=False).eval()
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        expected = backbone(x)
        for copied in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):  # noqa: S301 - our own
            with pytest.raises(InputError):
                copied(x[:, :2])
            assert torch.equal(copied(x), expected)
        torch.compiler.reset()
        compiled = torch.compile(backbone, fullgraph=True, backend="eager")
        assert torch.equal(compiled(x), expected)
        for graph in (
            torch.export.export(backbone, (x,)).module(),
            torch.jit.trace(backbone, x),
            torch.jit.script(backbone),
        ):
            assert torch.equal(graph(x), expected)
