"""Whatever a server does at any step of a download: an error of this package, soon, and a good file afterwards."""

import json
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from filelock import FileLock
from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock
from safetensors.torch import save
from server import COMMIT, FAULTS, Repo

from autobackbone import WeightsError, WeightsUnavailableError, create_feature_backbone
from autobackbone.weights import transfer
from autobackbone.weights.files import read_checkpoint, resolve_files
from autobackbone.weights.saving import read_config

SHARDS = ("model-1.safetensors", "model-2.safetensors")
INDEX = "model.safetensors.index.json"
AGES = 60  # seconds: more than any of this takes on a busy machine, and less than waiting for ever


@pytest.fixture(scope="module")
def state():
    return {f"layer.{i}.weight": torch.rand(40, 50) for i in range(4)}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("saved")
    create_feature_backbone("test_resnet", pretrained=False).save_pretrained(folder)
    return (folder / "config.json").read_bytes()


def _single(state) -> Repo:
    return Repo({"model.safetensors": save(state)})


def _untagged(state) -> Repo:
    return Repo({"model.safetensors": save(state)}, has_digests=False)


def _sharded(state) -> Repo:
    names = sorted(state)
    parts = dict(zip(SHARDS, (names[:2], names[2:]), strict=True))
    index = json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}})
    files = {file: save({name: state[name] for name in part}) for file, part in parts.items()}
    return Repo(files | {INDEX: index.encode() + b" " * 6000})


def _load(source: str):
    return read_checkpoint(resolve_files(source), source)


def _is_equal(content, state) -> bool:
    return content.keys() == state.keys() and all(torch.equal(content[name], state[name]) for name in state)


# The request that goes wrong, and the repository that it is about.
STEPS = {
    "metadata of weights": ("HEAD", "model.safetensors", _single),
    "weights": ("GET", "model.safetensors", _single),
    "weights whose tag is no digest": ("GET", "model.safetensors", _untagged),
    "metadata of the index": ("HEAD", INDEX, _sharded),
    "the index": ("GET", INDEX, _sharded),
    "metadata of a shard": ("HEAD", SHARDS[1], _sharded),
    "a shard": ("GET", SHARDS[1], _sharded),
    "metadata of a config": ("HEAD", "config.json", None),
    "a config": ("GET", "config.json", None),
    "an address": ("GET", "model.safetensors", _untagged),
}


def _is_harmless(fault: str, method: str, step: str) -> bool:
    """Whether a fault is in what is not there or not looked at: a body, a second tag, what only a Hub says."""
    if method == "HEAD":
        return fault in ("cut at once", "cut in the middle", "bytes turned over")
    return fault == "a false tag" or (step == "an address" and fault == "another commit")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_a_step(hub, state, config, monkeypatch, fault, step):
    method, file, make = STEPS[step]
    hub.repos["owner/repo"] = Repo({"config.json": config + b" " * 6000}) if make is None else make(state)
    address = f"{hub.url}/owner/repo/resolve/main/model.safetensors"

    def attempt() -> bool:
        if make is None:
            return read_config("owner/repo", with_weights=False)[0].config.model_name == "test_resnet"
        return _is_equal(_load(address if step == "an address" else "hf-hub:owner/repo"), state)

    hub.faults[method, file] = fault
    start = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "PATIENCE", 0.4)
        try:
            outcome: bool | WeightsError = attempt()
        except WeightsError as err:
            outcome = err
    assert time.monotonic() - start < AGES
    assert isinstance(outcome, WeightsError) or (outcome and _is_harmless(fault, method, step))
    hub.faults.clear()
    assert attempt()


def test_huggingface_hub_finds_what_was_laid_into_its_cache(hub, state, tmp_path, monkeypatch):
    """A canary: the layout of its cache is documented, where it puts its locks is not."""
    hub.repos["owner/repo"] = _sharded(state)
    _load("hf-hub:owner/repo")
    (repo,) = huggingface_hub.scan_cache_dir(tmp_path / "cache").repos
    (revision,) = repo.revisions
    assert (repo.repo_id, repo.refs.keys(), revision.commit_hash) == ("owner/repo", {"main"}, COMMIT)
    assert {file.file_name for file in revision.files} == {INDEX, *SHARDS}
    assert all(file.blob_path.parent.name == "blobs" for file in revision.files)
    hub.requests.clear()
    for name in (INDEX, *SHARDS):
        path = huggingface_hub.hf_hub_download("owner/repo", name, cache_dir=tmp_path / "cache")
        assert Path(path).read_bytes() == hub.repos["owner/repo"].files[name]
    assert not [request for request in hub.requests if request.startswith("GET /owner")]

    repo = hub.repos["owner/other"] = _single(state)
    locks = []

    def lock(path, *args, **kwargs):
        locks.append(str(path))
        return WeakFileLock(path, *args, **kwargs)

    monkeypatch.setattr("huggingface_hub.file_download.WeakFileLock", lock)
    huggingface_hub.hf_hub_download("owner/other", "model.safetensors", cache_dir=tmp_path / "cache")
    assert locks == [_lock(repo, tmp_path, "models--owner--other").lock_file]


def test_a_branch_that_moves(hub, state):
    hub.repos["owner/repo"] = _single(state)
    _load("hf-hub:owner/repo")
    moved = {name: tensor + 1 for name, tensor in state.items()}
    hub.repos["owner/repo"] = Repo(_single(moved).files, commit="f" * 40)
    assert _is_equal(_load("hf-hub:owner/repo"), moved)
    hub.repos.clear()
    assert _is_equal(_load("hf-hub:owner/repo"), moved)
    assert _is_equal(_load(f"hf-hub:owner/repo@{COMMIT}"), state)


def test_patience():
    assert transfer.PATIENCE == 15


def test_slow_but_steady_goes_on(hub, state, monkeypatch):
    monkeypatch.setattr(transfer, "PATIENCE", 2.0)  # the file takes three seconds
    hub.repos["owner/repo"] = _single(state)
    hub.faults["GET", "model.safetensors"] = "slow but steady"
    assert _is_equal(_load("hf-hub:owner/repo"), state)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_server_that_asks_to_wait_is_not_waited_for(hub, state, method):
    hub.repos["owner/repo"] = _single(state)
    hub.faults[method, "model.safetensors"] = "429, come back in an hour"
    with pytest.raises(WeightsUnavailableError, match=r"429 Too Many Requests.*; the server asks to wait 3600 s\."):
        _load("hf-hub:owner/repo")


def test_a_download_that_was_given_up_writes_nothing_later(hub, state, monkeypatch, tmp_path):
    hub.repos["owner/repo"] = _single(state)
    hub.faults["GET", "model.safetensors"] = "a few bytes, then silence"
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "PATIENCE", 0.4)
        with pytest.raises(WeightsUnavailableError, match="timed out"):
            _load("hf-hub:owner/repo")
    hub.closing.set()  # the server's answer comes to its end
    for thread in threading.enumerate():
        if thread.name == "autobackbone-transfer":
            assert thread.daemon
            thread.join(AGES)
            assert not thread.is_alive()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_what_is_cached_will_do_when_the_hub_fails(hub, state, monkeypatch):
    hub.repos["owner/repo"] = _single(state)
    _load("hf-hub:owner/repo")
    monkeypatch.setattr(transfer, "PATIENCE", 0.4)
    for fault in ("silence", "header lines for ever", "401", "500", "a redirect to itself", "no headers of a Hub"):
        hub.faults["HEAD", "model.safetensors"] = fault
        assert _is_equal(_load("hf-hub:owner/repo"), state)


def _lock(repo, tmp_path, place: str = "models--owner--repo") -> FileLock:
    """Return the lock of whoever downloads the weights of a repository."""
    path = tmp_path / "cache" / ".locks" / place / f"{repo.etag('model.safetensors')}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def test_another_process_that_hangs_is_not_waited_for(hub, state, monkeypatch, tmp_path):
    repo = hub.repos["owner/repo"] = _single(state)
    with _lock(repo, tmp_path), monkeypatch.context() as patch:
        patch.setattr(transfer, "PATIENCE", 0.4)
        with pytest.raises(WeightsUnavailableError, match=r"another process is at it, .* lets go of '.*\.lock'"):
            _load("hf-hub:owner/repo")
    assert _is_equal(_load("hf-hub:owner/repo"), state)


def test_another_process_that_gets_somewhere_is_waited_for(hub, state, monkeypatch, tmp_path):
    repo = hub.repos["owner/repo"] = _single(state)
    content = repo.files["model.safetensors"]
    blob = tmp_path / "cache" / "models--owner--repo" / "blobs" / repo.etag("model.safetensors")
    blob.parent.mkdir(parents=True)
    part = blob.with_name(f"{blob.name}.0.incomplete")
    is_asked = threading.Event()

    def download() -> None:
        with _lock(repo, tmp_path), part.open("wb", buffering=0) as file:
            is_asked.set()
            for start in range(0, len(content), 1000):  # twice as long as a server would be waited for
                file.write(content[start : start + 1000])
                time.sleep(4 * 1000 / len(content))
            part.rename(blob)

    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    assert is_asked.wait(AGES)
    monkeypatch.setattr(transfer, "PATIENCE", 2.0)
    assert _is_equal(_load("hf-hub:owner/repo"), state)
    thread.join(AGES)
    assert [request for request in hub.requests if request.startswith("GET /owner")] == []


def _refuse(*_args: object, **_options: object) -> None:
    raise OSError(1, "a right that this user does not have")


@pytest.mark.parametrize("by_choice", [True, False])
def test_without_links_there_is_one_copy(hub, state, monkeypatch, tmp_path, by_choice):
    hub.repos["owner/repo"] = _single(state)
    if by_choice:
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True, raising=False)
    else:
        monkeypatch.setattr(Path, "symlink_to", _refuse)
    assert _is_equal(_load("hf-hub:owner/repo"), state)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 1000]
    assert [path.name for path in files] == ["model.safetensors"]
    files[0].write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"model\.safetensors\.damaged'; the next call fetches it again"):
        _load("hf-hub:owner/repo")
    assert _is_equal(_load("hf-hub:owner/repo"), state)
