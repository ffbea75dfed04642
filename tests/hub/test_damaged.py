"""Damaged files of a cache: moved aside and fetched again; those of a user: left alone."""

import io
import json
import os
import shutil
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save
from server import COMMIT, Repo

from autobackbone import (
    FeatureBackbone,
    FeatureBackboneConfig,
    WeightsCorruptedError,
    WeightsNotFoundError,
    create_feature_backbone,
    load_weights,
)
from autobackbone.sources.choose import make_plan
from autobackbone.sources.dinov3.published import images_of

INDEX = "model.safetensors.index.json"


def _pickled(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


DAMAGE = {
    "cut off": lambda good: good[:-1000],
    "cut off early": lambda good: good[:100],
    "empty": lambda _: b"",
    "garbage": lambda good: bytes(reversed(good)),
    "a web page": lambda _: b"<!DOCTYPE html><html>Sign in</html>",
    "a damaged pickle": lambda good: _pickled({"a": torch.ones(9)})[:-90] + good[:90],
    "no tensors by name": lambda _: _pickled([torch.ones(3)]),
}


@pytest.fixture
def backbone():
    return create_feature_backbone("test_resnet", pretrained=False)


def _is_loaded(backbone, model) -> bool:
    return torch.equal(backbone.body.model.conv1[0].weight, model.conv1[0].weight)


def _replace(path: Path, content: bytes) -> None:
    path.resolve().write_bytes(content)


def _cached(tmp_path: Path, name: str) -> Path:
    return tmp_path / "cache" / "models--owner--repo" / "snapshots" / COMMIT / name


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("source", ["hf-hub:owner/repo", f"hf-hub:owner/repo@{COMMIT}", "address"])
def test_a_damaged_file_is_fetched_again(hub, repo, model, backbone, tmp_path, damage, source):
    source = f"{hub.url}/owner/repo/resolve/main/model.safetensors" if source == "address" else source
    good = repo.files["model.safetensors"]
    load_weights(backbone, source)
    stored = next(path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == good)
    bad = DAMAGE[damage](good)
    _replace(stored, bad)
    aside = Path(f"{stored.resolve()}.damaged")
    with pytest.raises(WeightsCorruptedError) as err:
        load_weights(backbone, source)
    assert f"It was moved out of the cache, to {str(aside)!r}; the next call fetches it again." in str(err.value)
    assert aside.read_bytes() == bad
    hub.requests.clear()
    assert load_weights(backbone, source).coverage == 1
    assert sum(request.startswith("GET /owner") for request in hub.requests) == 1
    assert _is_loaded(backbone, model)


@pytest.mark.parametrize("name", ["model-1.safetensors", "model-2.safetensors", INDEX])
def test_a_damaged_shard_or_index(hub, model, backbone, tmp_path, name):
    state = model.state_dict()
    names = sorted(state)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    index = json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}}).encode()
    files = {file: save({name: state[name] for name in part}) for file, part in parts.items()}
    hub.repos["owner/repo"] = Repo(files | {INDEX: index})
    load_weights(backbone, "hf-hub:owner/repo")
    _replace(_cached(tmp_path, name), hub.repos["owner/repo"].files[name][:-10])
    with pytest.raises(WeightsCorruptedError, match=r"\.damaged'; the next call fetches it again"):
        load_weights(backbone, "hf-hub:owner/repo")
    hub.requests.clear()
    load_weights(backbone, "hf-hub:owner/repo")
    assert [r for r in hub.requests if r.startswith("GET")] == [f"GET /owner/repo/resolve/{_revision(name)}/{name}"]
    assert _is_loaded(backbone, model)


def _revision(name: str) -> str:
    return "main" if name == INDEX else COMMIT


def test_published_weights(hub, weights, model, tmp_path):
    hub.repos["timm/test_resnet.r160_in1k"] = Repo({"model.safetensors": weights})
    create_feature_backbone("test_resnet")
    _replace(next((tmp_path / "cache").rglob("model.safetensors")), weights[:-100])
    with pytest.raises(WeightsCorruptedError, match=r"\.damaged'; the next call fetches it again"):
        create_feature_backbone("test_resnet")
    assert _is_loaded(create_feature_backbone("test_resnet"), model)


@pytest.mark.parametrize(
    ("load", "error"),
    [
        (FeatureBackbone.from_pretrained, WeightsCorruptedError),
        (lambda repo: create_feature_backbone(f"hf-hub:{repo}", pretrained=False), WeightsNotFoundError),
    ],
    ids=["saved", "timm"],
)
def test_a_damaged_config(repo, backbone, model, tmp_path, load, error):
    folder = tmp_path / "saved"
    if error is WeightsCorruptedError:
        backbone.save_pretrained(folder)
    else:
        timm.models.save_for_hf(model, folder, safe_serialization=True)
    repo.files |= {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    load("owner/repo")
    _replace(_cached(tmp_path, "config.json"), repo.files["config.json"][:50])
    with pytest.raises(error, match=r"\.damaged'; the next call fetches it again"):
        load("owner/repo")
    assert load("owner/repo").strides == (8, 16, 32)


def test_a_damaged_config_of_images(hub, tmp_path):
    plan = make_plan(FeatureBackboneConfig("dinov3_vits16"))
    content = {"size": {"height": 64, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    hub.repos[plan.repo] = Repo({"preprocessor_config.json": json.dumps(content).encode()})
    usual = images_of("dinov3_vits16", plan.repo)
    published = usual._replace(size=(64, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    assert plan._images() == published
    _replace(next((tmp_path / "cache").rglob("preprocessor_config.json")), b"<html>")
    assert plan._images() == usual
    assert plan._images() == published


def test_another_libraries_config_is_left_in_the_cache(hub, tmp_path):
    hub.repos["owner/repo"] = Repo({"config.json": b'{"model_type": "bert"}'})
    with pytest.raises(WeightsNotFoundError, match="holds no timm config that can be read") as err:
        create_feature_backbone("hf-hub:owner/repo")
    assert "moved" not in str(err.value)
    assert _cached(tmp_path, "config.json").is_file()


def test_a_file_of_the_user_is_left_alone(repo, backbone, tmp_path):
    load_weights(backbone, "hf-hub:owner/repo")
    cached = _cached(tmp_path, "model.safetensors")
    _replace(cached, b"damaged")
    folder = shutil.copytree(cached.parent, tmp_path / "folder")
    for source in (cached, folder, folder / "model.safetensors"):
        with pytest.raises(WeightsCorruptedError) as err:
            load_weights(backbone, source)
        assert "moved" not in str(err.value)
    assert cached.read_bytes() == (folder / "model.safetensors").read_bytes() == b"damaged"
    assert repo


def test_objects_in_a_pickle_are_no_damage(hub, backbone, tmp_path):
    hub.repos["owner/repo"] = Repo({"pytorch_model.bin": _pickled({"a": FeatureBackbone})})
    with pytest.raises(WeightsCorruptedError, match="could run any code"):
        load_weights(backbone, "hf-hub:owner/repo")
    assert _cached(tmp_path, "pytorch_model.bin").is_file()


def test_without_a_network_the_only_copy_is_kept(repo, backbone, tmp_path, monkeypatch):
    load_weights(backbone, "hf-hub:owner/repo")
    _replace(_cached(tmp_path, "model.safetensors"), b"damaged")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsCorruptedError, match="It was moved out of the cache") as err:
        load_weights(backbone, "hf-hub:owner/repo")
    assert Path(str(err.value).split("to '")[-1].split("'")[0]).read_bytes() == b"damaged"
    assert repo


def test_a_cache_that_cannot_be_changed(repo, backbone, tmp_path, monkeypatch):
    load_weights(backbone, "hf-hub:owner/repo")
    cached = _cached(tmp_path, "model.safetensors")
    _replace(cached, b"damaged")

    def refuse(*_):
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(WeightsCorruptedError) as err:
        load_weights(backbone, "hf-hub:owner/repo")
    assert f"in the cache as {str(cached)!r}, and could not be moved away (Read-only file system); delete it." in str(
        err.value
    )
    assert repo
