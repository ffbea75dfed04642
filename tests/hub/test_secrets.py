"""A password or a signature in an address: sent to the server, and shown nowhere."""

import base64
import logging
import sys
import traceback

import pytest
import torch
from huggingface_hub import close_session, constants
from safetensors.torch import save
from server import FAULTS

from autobackbone import FeatureBackbone, create_feature_backbone, load_weights
from autobackbone.cli import main
from autobackbone.errors import BackboneError
from autobackbone.weights import transfer

PASSWORD, SIGNATURE = "s3cretPassw0rd", "5ignature0123"


def _secret(address: str) -> str:
    return f"{address.replace('://', f'://me:{PASSWORD}@')}?X-Amz-Signature={SIGNATURE}"


@pytest.fixture
def url(hub) -> str:
    return _secret(f"{hub.url}/owner/repo/resolve/main/model.safetensors")


@pytest.fixture
def backbone():
    return create_feature_backbone("test_resnet", pretrained=False)


def _assert_hidden(*texts: object) -> None:
    for text in map(str, texts):
        assert PASSWORD not in text
        assert base64.b64encode(f"me:{PASSWORD}".encode()).decode() not in text
        assert SIGNATURE not in text


def _assert_told(function) -> None:
    with pytest.raises(BackboneError) as err:
        function()
    _assert_hidden(repr(err.value), *traceback.format_exception(err.value))


def test_a_download(hub, repo, backbone, url, caplog):
    caplog.set_level(logging.INFO)
    report = load_weights(backbone, url)
    assert repo
    credentials = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert hub.secrets[-1] == (f"X-Amz-Signature={SIGNATURE}", f"Basic {credentials}")
    assert "HTTP Request: GET http://" in caplog.text
    _assert_hidden(report, report.origin, caplog.text)
    assert logging.getLogger(transfer.httpx.__name__).filters == []


@pytest.mark.parametrize("fault", [name for name in FAULTS if name not in ("a false tag", "another commit")])
def test_each_failure(hub, repo, backbone, url, monkeypatch, caplog, fault):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(transfer, "PATIENCE", 0.4)
    hub.faults["GET", "model.safetensors"] = fault
    _assert_told(lambda: load_weights(backbone, url))
    _assert_hidden(caplog.text)
    assert repo


def test_other_errors(hub, repo, backbone, url, monkeypatch):
    monkeypatch.setattr(transfer, "PATIENCE", 0.4)
    repo.files["model.safetensors"] = save({"fc.weight": torch.ones(2, 2)})
    _assert_told(lambda: load_weights(backbone, url))
    _assert_told(lambda: create_feature_backbone("test_resnet", weights=url))
    for address in (url, _secret("ftp://host/w"), _secret("http://host:port/w"), _secret("http://[host/w")):
        _assert_told(lambda address=address: create_feature_backbone(address))
        _assert_told(lambda address=address: FeatureBackbone.from_pretrained(address))
    for address in (_secret("http://127.0.0.1:9/w"), _secret("http://host:port/w"), _secret("ftp://host/w")):
        _assert_told(lambda address=address: load_weights(backbone, address))
    overlay = {"url": _secret(f"{hub.url}/absent"), "hf_hub_id": None, "unknown": url}
    extra = {"extra_kwargs": {"pretrained_cfg_overlay": overlay}}
    _assert_told(lambda: create_feature_backbone("test_resnet", **extra))
    del overlay["unknown"]
    _assert_told(lambda: create_feature_backbone("test_resnet", **extra))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    _assert_told(lambda: load_weights(backbone, f"{url}&again"))
    close_session()


def test_an_endpoint(hub, backbone, point_at):
    point_at(hub.url.replace("://", f"://me:{PASSWORD}@"))
    _assert_told(lambda: load_weights(backbone, "hf-hub:owner/absent"))
    hub.close()
    _assert_told(lambda: load_weights(backbone, "hf-hub:owner/absent"))


def test_the_command_line(hub, url, capsys, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["autobackbone", "export", "-m", "test_resnet", "--weights", url, "--out", "x.onnx"]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    shown = "".join(capsys.readouterr())
    assert f"{hub.url.replace('://', '://***@')}/owner/repo" in shown
    _assert_hidden(shown)
