"""The Hub, as a stand-in on loopback: what works, and how each failure is told."""

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save
from server import COMMIT, Repo
from transformers import UperNetConfig, UperNetForSemanticSegmentation

from autobackbone import (
    FeatureBackbone,
    FeaturePyramid,
    GatedWeightsError,
    WeightsCorruptedError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
    WeightsUnavailableError,
    create_backbone,
    create_feature_backbone,
)
from autobackbone.integrations.transformers import backbone_config, head_config
from autobackbone.weights import transfer

TOKEN = "hf_of_nobody"  # noqa: S105
PATIENCE = 15  # seconds within which a failure is to be told


def _create(**fields):
    return create_feature_backbone("test_resnet", **({"weights": "hf-hub:owner/repo"} | fields))


def _is_loaded(backbone, model) -> bool:
    return torch.equal(backbone.body.model.conv1[0].weight, model.conv1[0].weight)


def test_weights_from_a_repository(hub, model, repo):
    assert repo.status == 200
    backbone = _create()
    assert _is_loaded(backbone, model)
    assert backbone.weights_report.origin == "hf-hub:owner/repo"
    assert hub.requests.count("GET /owner/repo/resolve/main/model.safetensors") == 1
    assert _is_loaded(_create(weights=f"hf-hub:owner/repo@{COMMIT}"), model)


def test_weights_of_an_encoder_of_segmentation_models(hub, weights, model):
    encoders = pytest.importorskip("segmentation_models_pytorch.encoders")
    import autobackbone.integrations.segmentation_models_pytorch  # which registers it

    files = Repo({"model.safetensors": weights, "config.json": b"{}"})
    card = autobackbone.describe_backbone("test_resnet")
    hub.repos[card.hub_id] = files
    for name in ("imagenet", card.pretrained_tags[0].removeprefix("test_resnet.")):
        encoder = encoders.get_encoder("ab-test_resnet", weights=name)
        assert _is_loaded(encoder.backbone, model)
        assert encoder.backbone.weights_report.coverage == 1
    with pytest.raises(KeyError, match="Wrong pretrained weights `other`"):
        encoders.get_encoder("ab-test_resnet", weights="other")


def test_published_weights_of_timm(hub, weights, model):
    tag = timm.get_pretrained_cfg("test_resnet").hf_hub_id
    hub.repos[tag] = Repo({"model.safetensors": weights})
    assert _is_loaded(create_feature_backbone("test_resnet"), model)
    backbone = create_backbone("test_resnet", num_classes=3)
    assert torch.equal(backbone.conv1[0].weight, model.conv1[0].weight)
    assert backbone.autobackbone.weights_report.origin == tag
    assert backbone.autobackbone.weights_report.missing == ("fc.weight", "fc.bias")


def test_a_pickle_is_taken_where_there_is_no_safetensors_file(hub, model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "w")
    hub.repos["owner/repo"] = Repo({"pytorch_model.bin": (tmp_path / "w").read_bytes()})
    assert _is_loaded(_create(), model)


def test_shards(hub, model):
    state = model.state_dict()
    names = sorted(state)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    files = {file: save({name: state[name] for name in part}) for file, part in parts.items()}
    hub.repos["owner/repo"] = Repo(files | {"model.safetensors.index.json": str(index).replace("'", '"').encode()})
    assert _is_loaded(_create(), model)


def test_a_timm_config_on_the_hub(hub, model, tmp_path):
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    hub.repos["owner/net"] = Repo({p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()})
    backbone = create_feature_backbone("hf-hub:owner/net")
    assert _is_loaded(backbone, model)
    backbone.save_pretrained(tmp_path / "saved")
    hub.repos.clear()
    again = type(backbone).from_pretrained(tmp_path / "saved")  # asks for nothing
    assert _is_loaded(again, model)
    assert again.input_spec == backbone.input_spec


# --- failures, each its own error, soon ---

FAILURES = {
    "gated": (Repo(status=403, error="GatedRepo"), GatedWeightsError, "run 'hf auth login'. Else: 'hf download'"),
    "gated, without a token": (Repo(status=401, error="GatedRepo"), GatedWeightsError, "Accept the license"),
    "no repository": (None, WeightsNotFoundError, "the Hub has no such repository"),
    "no file": (Repo({"other.txt": b""}), WeightsNotFoundError, "the Hub has no such file"),
    "out of order": (Repo(status=500), WeightsUnavailableError, "Check the network"),
    "overloaded": (Repo(status=503), WeightsUnavailableError, "503"),
    "too many requests": (Repo(status=429), WeightsUnavailableError, "429"),
    "silent": (Repo(head_delay=30), WeightsUnavailableError, "timed out"),
    "forbidden": (Repo(status=403), WeightsUnavailableError, "403"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_of_the_hub(hub, name, monkeypatch):
    monkeypatch.setattr(transfer, "PATIENCE", 3.0)
    repo, error, remedy = FAILURES[name]
    if repo is not None:
        hub.repos["owner/repo"] = repo
    start = time.monotonic()
    with pytest.raises(WeightsError) as err:
        _create()
    assert time.monotonic() - start < PATIENCE
    assert type(err.value) is error
    assert "'owner/repo'" in str(err.value)
    assert remedy in str(err.value)
    assert err.value.__cause__ is not None


def test_a_missing_revision(repo, hub):
    with pytest.raises(WeightsNotFoundError, match=r"of 'owner/repo@v9' failed: the Hub has no such revision"):
        _create(weights="hf-hub:owner/repo@v9")
    assert repo
    assert hub


def test_gated_dinov3_names_the_open_weights(hub):
    hub.repos["facebook/dinov3-vits16-pretrain-lvd1689m"] = Repo(status=403, error="GatedRepo")
    with pytest.raises(GatedWeightsError, match=r"without a gate as 'vit_small_patch16_dinov3.lvd1689m', of timm"):
        create_feature_backbone("dinov3_vits16")
    hub.repos["facebook/dinov3-vitl16-pretrain-sat493m"] = Repo(status=403, error="GatedRepo")
    with pytest.raises(GatedWeightsError, match=r"vit_large_patch16_dinov3.sat493m"):
        create_feature_backbone("facebook/dinov3-vitl16-pretrain-sat493m")
    hub.requests.clear()
    with pytest.raises(GatedWeightsError):
        create_backbone("dinov3_vits16")
    assert len(hub.requests) == 1  # nothing else is waited for
    hub.repos["facebook/dinov3-convnext-tiny-pretrain-lvd1689m"] = Repo(status=403, error="GatedRepo")
    with pytest.raises(GatedWeightsError, match=r"convnext_tiny.dinov3_lvd1689m"):
        create_backbone("dinov3_convnext_tiny")


def test_no_server(monkeypatch, point_at, tmp_path):
    point_at("http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    start = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match=r"'hf download' fills the cache"):
        create_feature_backbone("resnet50")
    assert time.monotonic() - start < PATIENCE


def test_offline_nothing_is_asked(repo, hub, model, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailableError, match=r"failed: HF_HUB_OFFLINE is set"):
        _create()
    assert hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    _create()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert _is_loaded(_create(), model)
    assert hub.requests == []
    assert repo


def test_what_is_cached_needs_no_server(hub, model, point_at, tmp_path):
    torch.save(model.state_dict(), tmp_path / "w")  # not the first name that is looked for
    hub.repos["owner/repo"] = Repo({"pytorch_model.bin": (tmp_path / "w").read_bytes()})
    _create()
    point_at("http://127.0.0.1:9")
    start = time.monotonic()
    assert _is_loaded(_create(), model)
    assert time.monotonic() - start < PATIENCE


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(repo, hub, model, ranges):
    repo.cut_at, repo.cut_once, repo.ranges = 5000, True, ranges
    try:
        backbone = _create()
    except WeightsUnavailableError:  # older versions of huggingface_hub leave it to the caller to try again
        backbone = _create()
    assert _is_loaded(backbone, model)
    assert hub.requests.count("GET /owner/repo/resolve/main/model.safetensors") == 2


@pytest.mark.parametrize(("cut_at", "ranges"), [(0, True), (5000, True), (200_000, False)])
def test_a_download_that_is_always_cut_off(repo, model, cut_at, ranges, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # so that each attempt gets somewhere
    repo.cut_at, repo.ranges = cut_at, ranges
    start = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match=r"failed: .*Check the network"):
        _create()
    assert time.monotonic() - start < PATIENCE
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    repo.cut_at = None
    assert _is_loaded(_create(), model)


def test_a_damaged_file(repo, weights):
    repo.files["model.safetensors"] = weights[:-1000]
    with pytest.raises(WeightsCorruptedError, match=r"'hf-hub:owner/repo' is damaged or cut off"):
        _create()


def test_weights_of_something_else(repo):
    repo.files["model.safetensors"] = save({"fc.weight": torch.ones(2, 2)})
    with pytest.raises(WeightsMismatchError, match="hf-hub:owner/repo"):
        _create()


def test_a_full_disk(repo, monkeypatch):
    opened = Path.open

    def full(path, *args, **kwargs):
        return opened(Path("/dev/full") if path.suffix == ".incomplete" else path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(WeightsError, match="the disk is full; free some space, or set HF_HOME"):
        _create()
    assert repo


# --- several processes ---

_CHILD = """
import sys, torch
from autobackbone import create_feature_backbone
backbone = create_feature_backbone("test_resnet", weights="hf-hub:owner/repo")
print(float(backbone.body.model.conv1[0].weight.detach().double().sum()))
"""


def _start(hub, tmp_path, stderr=subprocess.PIPE, **variables):
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache")} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": stderr, "text": True}
    return subprocess.Popen([sys.executable, "-c", _CHILD], env=environment, **pipes)


def test_two_processes_at_once(repo, hub, model, tmp_path):
    children = [_start(hub, tmp_path) for _ in range(2)]
    answers = [child.communicate(timeout=900) for child in children]
    assert [child.returncode for child in children] == [0, 0], answers
    expected = float(model.conv1[0].weight.detach().double().sum())
    assert [float(out) for out, _ in answers] == [expected, expected]
    assert [err for _, err in answers] == ["", ""]  # no progress bar where there is no terminal
    assert repo


@pytest.mark.parametrize("disabled", ["0", "1"])
def test_a_progress_bar_on_a_terminal(repo, hub, tmp_path, disabled):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    child = _start(hub, tmp_path, stderr=theirs, HF_HUB_DISABLE_PROGRESS_BARS=disabled)
    child.communicate(timeout=900)
    shown = os.read(ours, 10_000) if select.select([ours], [], [], 0)[0] else b""
    os.close(ours)
    os.close(theirs)
    assert child.returncode == 0
    assert (b"model.safetensors: 100%" in shown) == (disabled == "0")
    assert repo.status == 200


def test_a_killed_download_is_never_loaded_half(repo, hub, model, weights, tmp_path):
    repo.files["model.safetensors"] = _Slow(weights)
    child = _start(hub, tmp_path)
    while not any("GET" in request for request in hub.requests):
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    repo.files["model.safetensors"] = weights
    assert _is_loaded(_create(), model)


class _Slow(bytes):
    """Content of which the second half takes its time."""

    __slots__ = ()

    def __getitem__(self, item):
        if isinstance(item, slice) and len(self) > 10:
            time.sleep(3)
        return super().__getitem__(item)


# --- addresses ---


def test_an_address(repo, hub, model):
    url = f"{hub.url}/owner/repo/resolve/main/model.safetensors"
    assert _is_loaded(_create(weights=url), model)
    hub.requests.clear()
    assert _is_loaded(_create(weights=url), model)
    assert hub.requests == []
    assert repo


def test_addresses_that_lead_to_no_weights(repo, hub, monkeypatch):
    url = f"{hub.url}/owner/repo/resolve/main/model.safetensors"
    with pytest.raises(WeightsNotFoundError, match=r"the server has no such file \(404\)"):
        _create(weights=f"{hub.url}/owner/repo/resolve/main/absent.pth")
    repo.content_type = "text/html; charset=utf-8"
    with pytest.raises(WeightsCorruptedError, match="leads to a web page, not to a file"):
        _create(weights=url)
    repo.content_type, repo.cut_at = "application/octet-stream", 5000
    with pytest.raises(WeightsUnavailableError, match=r"failed: .*Check the network"):
        _create(weights=url)
    repo.status, repo.cut_at = 500, None
    with pytest.raises(WeightsUnavailableError, match="500"):
        _create(weights=url)
    repo.status = 403
    with pytest.raises(GatedWeightsError, match="does not give it to everyone"):
        _create(weights=url)
    repo.status = 200
    good, repo.files["model.safetensors"] = repo.files["model.safetensors"], b"garbage"
    with pytest.raises(WeightsCorruptedError):
        _create(weights=url)
    repo.files["model.safetensors"] = good
    assert _create(weights=url).weights_report.coverage == 1  # the damaged file is not kept
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    url = f"{url}?again"
    huggingface_hub.close_session()
    with pytest.raises(WeightsUnavailableError, match="Check the network"):
        _create(weights=url)
    huggingface_hub.close_session()
    with pytest.raises(WeightsUnavailableError, match="Check the network"):
        _create(weights="http://127.0.0.1:9/weights.pth")


# --- uploads ---


def test_a_backbone_goes_to_the_hub_and_comes_back(hub, tmp_path):
    backbone = create_feature_backbone("test_resnet", pretrained=False, out_strides=(4, 64)).eval()
    address = backbone.push_to_hub("me/mine", token=TOKEN, private=True)
    assert address == f"{hub.url}/me/mine"
    assert set(hub.repos["me/mine"].files) == {"config.json", "model.safetensors", "README.md"}
    again = FeatureBackbone.from_pretrained("me/mine").eval()
    x = torch.rand(1, 3, 70, 90)
    assert all(torch.equal(a, b) for a, b in zip(again(x), backbone(x), strict=True))
    assert again.config.weights == f"hf-hub:me/mine@{COMMIT}"
    assert FeatureBackbone.from_pretrained("hf-hub:me/mine", revision="main").strides == (4, 64)
    pinned = FeatureBackbone.from_pretrained("me/mine", revision=COMMIT, cache_dir=tmp_path / "other")
    assert pinned.weights_report.origin == f"hf-hub:me/mine@{COMMIT}"
    assert list((tmp_path / "other").rglob("model.safetensors"))
    assert 'from_pretrained("me/mine")' in hub.repos["me/mine"].files["README.md"].decode()
    backbone.push_to_hub("me/mine", token=TOKEN, revision="trial")
    assert "trial" in hub.repos["me/mine"].revisions


def test_a_whole_model_of_transformers_goes_to_the_hub_and_comes_back(hub):
    config = head_config(
        UperNetConfig,
        backbone_config("test_resnet", pretrained=False, out_strides=(4, 8, 16, 32)),
        hidden_size=16,
        auxiliary_channels=16,
        num_labels=3,
    )
    model = UperNetForSemanticSegmentation(config).eval()
    model.push_to_hub("me/mine", token=TOKEN)
    assert {"config.json", "model.safetensors"} <= set(hub.repos["me/mine"].files)
    again = UperNetForSemanticSegmentation.from_pretrained("me/mine").eval()
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert again.backbone.backbone.strides == (4, 8, 16, 32)


def test_a_pyramid_goes_to_the_hub_and_comes_back(hub):
    pyramid = FeaturePyramid(create_feature_backbone("test_resnet", pretrained=False), 8, "p6p7")
    assert pyramid.push_to_hub("me/mine", token=TOKEN) == f"{hub.url}/me/mine"
    again = FeaturePyramid.from_pretrained("me/mine")
    assert again.weights_report.coverage == 1
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), pyramid.parameters(), strict=True))
    assert FeatureBackbone.from_pretrained("me/mine").levels == pyramid.backbone.levels


def test_uploads_that_fail(hub, point_at):
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    with pytest.raises(WeightsError, match=r"Uploading to 'me/mine' failed: .*token that may write"):
        backbone.push_to_hub("me/mine")
    with pytest.raises(WeightsNotFoundError, match="'mine' is no Hub repository; write 'owner/repo'"):
        backbone.push_to_hub("mine")
    assert hub.repos == {}
    point_at("http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match=r"Uploading to 'me/mine' failed"):
        backbone.push_to_hub("me/mine", token=TOKEN)
    assert time.monotonic() - start < PATIENCE
