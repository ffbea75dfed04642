"""A stand-in Hub, made the one that is asked."""

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save
from server import Hub, Repo


@pytest.fixture
def point_at(monkeypatch):
    """Make an address that of the Hub."""

    def point(url: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")

    return point


@pytest.fixture
def hub(monkeypatch, point_at, tmp_path):
    """Start a Hub, and make it the one that is asked."""
    served = Hub()
    point_at(served.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    yield served
    served.close()


@pytest.fixture(scope="session")
def model():
    torch.manual_seed(1)
    return timm.create_model("test_resnet").eval()


@pytest.fixture(scope="session")
def weights(model) -> bytes:
    return save(model.state_dict())


@pytest.fixture
def repo(hub, weights) -> Repo:
    hub.repos["owner/repo"] = Repo({"model.safetensors": weights})
    return hub.repos["owner/repo"]
