"""Weights: files that the tests make, whole, damaged, and of something else."""

import json
from unittest.mock import Mock

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from autobackbone import (
    BackboneError,
    GatedWeightsError,
    WeightsCorruptedError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
    WeightsUnavailableError,
    create_backbone,
    create_feature_backbone,
)
from autobackbone.weights import explained


@pytest.fixture
def model():
    torch.manual_seed(1)
    return timm.create_model("test_resnet").eval()


@pytest.fixture(params=["safetensors", "pth", "pt", "bin"])
def checkpoint(request, tmp_path, model):
    path = tmp_path / f"weights.{request.param}"
    (save_file if request.param == "safetensors" else torch.save)(model.state_dict(), path)
    return path


def test_features_are_those_of_raw_timm(model, checkpoint):
    backbone = create_feature_backbone("test_resnet", weights=checkpoint, out_indices=(1, 4)).eval()
    x = torch.rand(1, 3, 97, 130)
    expected = model.forward_intermediates(x, indices=[1, 4], intermediates_only=True)
    assert all(torch.equal(y, e) for y, e in zip(backbone(x), expected, strict=True))


def test_pooled_features_are_those_of_raw_timm(model, checkpoint):
    backbone = create_backbone("test_resnet", weights=str(checkpoint)).eval()
    x = torch.rand(1, 3, 97, 130)
    assert torch.equal(backbone(x), model.forward_head(model.forward_features(x), pre_logits=True))


def test_a_shallow_request_takes_a_whole_checkpoint(model, checkpoint):
    backbone = create_feature_backbone("test_resnet", weights=checkpoint, out_indices=(1,))
    assert torch.equal(backbone.body.model.conv1[0].weight, model.conv1[0].weight)


def test_files_that_cannot_be_read(tmp_path, model):
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    torch.save(model.state_dict(), tmp_path / "whole.pth")
    for name in ("safetensors", "pth"):
        cut = tmp_path / f"cut.{name}"
        cut.write_bytes((tmp_path / f"whole.{name}").read_bytes()[:5000])
        with pytest.raises(WeightsCorruptedError, match=rf"cut.{name}' could not be read: it is cut off, damaged"):
            create_feature_backbone("test_resnet", weights=cut)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsCorruptedError, match="holds list and no tensors by name"):
        create_feature_backbone("test_resnet", weights=tmp_path / "list.pt")
    torch.save(model, tmp_path / "module.pt")
    with pytest.raises(WeightsCorruptedError, match="could not be read"):
        create_feature_backbone("test_resnet", weights=tmp_path / "module.pt")


def test_pickles_cannot_run_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"a": Attack()}, tmp_path / "attack.pth")
    with pytest.raises(WeightsCorruptedError):
        create_feature_backbone("test_resnet", weights=tmp_path / "attack.pth")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"absent.pth': there is no such file; check the path, from"):
        create_feature_backbone("test_resnet", weights=tmp_path / "absent.pth")
    with pytest.raises(WeightsNotFoundError, match=r"weights.zip' is not a file of a known kind; it must end in"):
        create_feature_backbone("test_resnet", weights=tmp_path / "weights.zip")


def test_a_checkpoint_of_something_else(tmp_path, model):
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    with pytest.raises(WeightsMismatchError) as err:
        create_feature_backbone("resnet18", weights=path)
    assert "missing (first" in str(err.value)
    assert "of another shape or kind (first 'bn1.weight': (32,) for (64,))" in str(err.value)
    assert "Nothing was loaded; check the model name" in str(err.value)
    state = model.state_dict() | {"surplus": torch.zeros(1)}
    save_file(state, path)
    with pytest.raises(WeightsMismatchError, match=r"1 unexpected \(first 'surplus'\)"):
        create_feature_backbone("test_resnet", weights=path)
    del state["surplus"], state["layer1.0.conv1.weight"]
    save_file(state, path)
    with pytest.raises(WeightsMismatchError, match=r"1 missing \(first 'layer1.0.conv1.weight'\)"):
        create_feature_backbone("test_resnet", weights=path)


def test_odd_checkpoints(tmp_path, model):
    state = model.state_dict()
    odd = {
        "bytes.pth": b"hello",
        "numbered.pth": {0: torch.zeros(1)},
        "nested.pth": {"state_dict": state},
        "sparse.pth": {"a": torch.zeros(2, 2).to_sparse()},
        "meta.pth": {"a": torch.zeros(1, device="meta")},
    }
    for name, content in odd.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            torch.save(content, tmp_path / name)
        with pytest.raises(WeightsCorruptedError, match=name):
            create_feature_backbone("test_resnet", weights=tmp_path / name)
    torch.save({k: v.long() for k, v in state.items()}, tmp_path / "integers.pth")
    with pytest.raises(WeightsMismatchError, match="of another shape or kind"):
        create_feature_backbone("test_resnet", weights=tmp_path / "integers.pth")
    with pytest.raises(WeightsNotFoundError, match="there is no such file"):
        create_feature_backbone("test_resnet", weights="n" * 300 + ".pth")


def test_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailableError) as err:
        create_feature_backbone("resnet18", extra_kwargs={"cache_dir": tmp_path})
    assert "weights of 'resnet18' are not in the local cache and the Hub could not be reached" in str(err.value)
    assert "pretrained=False" in str(err.value)
    with pytest.raises(WeightsUnavailableError, match="hf-hub:owner/repo"):
        create_feature_backbone("hf-hub:owner/repo", extra_kwargs={"cache_dir": tmp_path})


def test_no_published_weights():
    with pytest.raises(WeightsNotFoundError, match="timm publishes no weights for 'halonet_h1'"):
        create_feature_backbone("halonet_h1")


def _response(kind):
    return kind("a message", response=Mock(headers={}))


@pytest.mark.parametrize(
    ("cause", "error", "remedy"),
    [
        (_response(huggingface_hub.errors.GatedRepoError), GatedWeightsError, "run 'hf auth login'"),
        (_response(huggingface_hub.errors.RepositoryNotFoundError), WeightsNotFoundError, "check the name"),
        (_response(huggingface_hub.errors.RevisionNotFoundError), WeightsNotFoundError, "check the name"),
        (_response(huggingface_hub.errors.HfHubHTTPError), WeightsUnavailableError, "Check the network"),
        (ConnectionResetError("reset"), WeightsUnavailableError, "pretrained=False"),
        (OSError(28, "No space left on device"), WeightsError, "No space left on device"),
    ],
)
def test_every_failure_of_the_hub_is_its_own_error(cause, error, remedy):
    with pytest.raises(BackboneError) as err, explained("owner/repo"):
        raise cause
    assert type(err.value) is error
    assert "'owner/repo'" in str(err.value)
    assert remedy in str(err.value)
    assert err.value.__cause__ is cause


def test_a_folder_with_a_timm_config(tmp_path):
    model = timm.create_model("test_resnet", num_classes=5)
    timm.models.save_for_hf(model, tmp_path, model_config={"num_classes": 5}, safe_serialization=True)
    backbone = create_feature_backbone(f"local-dir:{tmp_path}", out_indices=(0, 2)).eval()
    x = torch.rand(1, 3, 64, 64)
    expected = model.eval().forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    assert all(torch.equal(y, e) for y, e in zip(backbone(x), expected, strict=True))
    assert create_backbone(f"local-dir:{tmp_path}").eval()(x).shape == (1, model.num_features)
    assert torch.equal(create_backbone(f"local-dir:{tmp_path}", num_classes=5).eval()(x), model(x))
    with pytest.raises(WeightsNotFoundError, match="holds no timm config"):
        create_feature_backbone(f"local-dir:{tmp_path / 'absent'}")


def test_a_folder_with_weights_of_something_else(tmp_path):
    """Published weights are loaded whole or not at all: timm alone would leave what is missing random."""
    model = timm.create_model("test_resnet", num_classes=5)
    timm.models.save_for_hf(model, tmp_path, model_config={"num_classes": 5}, safe_serialization=True)
    state = model.state_dict()
    for wrong in (
        {f"model.{k}": v for k, v in state.items()},
        {"junk": torch.zeros(1)},
        {k: v for k, v in state.items() if k != "layer1.0.conv1.weight"},
    ):
        save_file(wrong, tmp_path / "model.safetensors")
        for create in (create_feature_backbone, create_backbone):
            with pytest.raises(WeightsMismatchError, match="are not those of 'test_resnet', and were not loaded"):
                create(f"local-dir:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsCorruptedError, match="are damaged"):
        create_feature_backbone(f"local-dir:{tmp_path}")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsNotFoundError, match="There are no weights beside the config"):
        create_feature_backbone(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "null",
        "not json",
        "{}",
        '{"architecture": "test_resnet", "pretrained_cfg": {"mean": null}}',
        '{"architecture": "test_resnet", "pretrained_cfg": {"input_size": 3}}',
    ],
)
def test_a_folder_with_a_config_of_something_else(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsNotFoundError, match="holds no timm config that can be read"):
        create_feature_backbone(f"local-dir:{tmp_path}")


def test_a_folder_with_saved_arguments(tmp_path):
    config = {"architecture": "test_vit", "pretrained_cfg": {}, "model_args": {"img_size": 192, "in_chans": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = create_feature_backbone(f"local-dir:{tmp_path}", pretrained=False, in_chans=1)
    assert backbone.input_spec.size == (192, 192)
    assert backbone(torch.rand(1, 1, 60, 60))[0].shape[1] == 64
