"""Packed modules: the same tensors, shared as before."""

import pickle

import pytest
import torch
from torch import nn

from autobackbone import create_backbone, create_feature_backbone

pytest.importorskip("ray")
pytestmark = pytest.mark.ray


def roundtrip(value):
    """Pack and unpack through read-only memory, as of Ray's object store."""
    from autobackbone.integrations.packing import pack, unpack

    packed = pack(value)
    for array in packed.storages:
        array.flags.writeable = False
    return unpack(packed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("create", [create_backbone, create_feature_backbone])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_backbones(create, name, dtype):
    backbone = create(name, pretrained=False).to(dtype).eval()
    images = torch.rand(2, 3, 160, 160, dtype=dtype)
    with torch.inference_mode():
        expected, actual = backbone(images), roundtrip(backbone)(images)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_ties_and_views_stay():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    numbers = torch.arange(6.0)
    for name, tensor in {"a": numbers[2:], "b": numbers.view(2, 3).T, "none": torch.empty(0)}.items():
        model.register_buffer(name, tensor)
    copy = roundtrip(model)
    assert copy[0].weight is copy[1].weight
    copy.a.add_(1)  # buffers may be written
    assert copy.b.tolist() == [[0, 4], [1, 5], [3, 6]]
    assert copy.none.shape == (0,)
    assert numbers.tolist() == [0, 1, 2, 3, 4, 5]


def test_parameters_are_the_memory_of_the_arrays():
    from autobackbone.integrations.packing import pack, unpack

    packed = pack(nn.Linear(3, 3))
    assert unpack(packed).weight.data_ptr() in [array.ctypes.data for array in packed.storages]


def test_other_tensors_are_pickled_as_they_are():
    sparse = torch.eye(3).to_sparse()
    conjugate = torch.tensor([1 + 2j]).conj()
    restored = roundtrip({"sparse": sparse, "conjugate": conjugate, "meta": torch.empty(2, device="meta")})
    assert restored["sparse"].to_dense().equal(torch.eye(3))
    assert restored["conjugate"].tolist() == [1 - 2j]
    assert restored["meta"].is_meta


def test_packed_values_can_be_pickled():
    from autobackbone.integrations.packing import pack, unpack

    packed = pickle.loads(pickle.dumps(pack([torch.ones(2)]), protocol=5))  # noqa: S301 - ours
    assert unpack(packed)[0].tolist() == [1, 1]
