"""Saved backbones: their description in ``config.json``, checks before saving, and upload to the Hub."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from torch import Tensor, nn

from autobackbone.config import FeatureBackboneConfig
from autobackbone.errors import (
    ConfigError,
    WeightsCorruptedError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from autobackbone.inference_form import InferenceForm
from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureLevel
from autobackbone.names import repo_of, split_repo
from autobackbone.sources.choose import check_saved
from autobackbone.sources.published import check_published
from autobackbone.values import shown
from autobackbone.weights.cache import is_no_json, quarantine
from autobackbone.weights.files import resolve_files
from autobackbone.weights.hub import fetch, translated_errors
from autobackbone.weights.kinds import is_sharded
from autobackbone.weights.rules import COUNTER
from autobackbone.weights.saved_files import CONFIG_FILE, description_for, id_of

# Fields of an InputSpec that describe preprocessing. The libraries may change these values later.
_IMAGES = ("size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
_DOUBLE = (torch.float64, torch.complex128)
_LIBRARIES = ("autobackbone", "timm", "transformers", "torch")


@dataclass(frozen=True)
class Saved:
    """The description of a saved backbone.

    Attributes
    ----------
    config
        Its config, without weights.
    images
        Fields of `InputSpec` that describe the preprocessing of its images.
    where
        What messages call the file.
    fpn
        Arguments of an FPN on top of it; ``None`` if there is no FPN.
    inference
        Its form, if it is optimized for inference.
    """

    config: FeatureBackboneConfig
    images: dict[str, Any]
    where: str
    fpn: dict[str, Any] | None = None
    inference: InferenceForm | None = None


def describe(
    config: FeatureBackboneConfig,
    levels: tuple[FeatureLevel, ...],
    input_spec: InputSpec,
    fpn: Mapping[str, Any] | None = None,
    inference: InferenceForm | None = None,
) -> dict[str, Any]:
    """Return the content of ``config.json`` for a backbone, and for an FPN on top of it if there is one.

    Raises
    ------
    ConfigError
        If the config holds something that JSON cannot represent.
    """
    values = {
        "backbone": config.to_dict(),
        "input": input_spec.to_dict(),
        "levels": [{"name": lv.name, "channels": lv.channels, "stride": lv.stride} for lv in levels],
    } | ({} if fpn is None else {"fpn": dict(fpn)})
    if inference is not None:
        values["inference"] = inference.to_dict()
    try:
        text = json.dumps(values, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as err:
        msg = f"extra_kwargs={config.extra_kwargs!r} cannot be written as JSON: {err}."
        raise ConfigError(msg) from err
    versions = {name: _version(name) for name in _LIBRARIES}
    return {"id": hashlib.sha256(text.encode()).hexdigest()[:32], **json.loads(text), "versions": versions}


def understand(values: Any, where: str) -> Saved:
    """Parse the content of a ``config.json``: the inverse of `describe`.

    Raises
    ------
    WeightsCorruptedError
        If it is not the config of a saved backbone.
    ConfigError
        If it sets more than a saved config may.
    UnknownBackboneError
        If there is no such architecture.
    """
    try:
        config = FeatureBackboneConfig.from_dict(values["backbone"])
        images = {name: value for name, value in values["input"].items() if name in _IMAGES}
        size = images.pop("size", None)
        images = check_published(images | ({} if size is None else {"input_size": (config.in_chans, *size)}), "input")
        if size is not None:
            images["size"] = images.pop("input_size")[1:]
        for name in images.keys() & {"mean", "std"}:
            if len(images[name]) != config.in_chans:
                msg = f"input[{name!r}] must have {config.in_chans} entries, got {images[name]!r}"
                raise ConfigError(msg)
        fpn = None if values.get("fpn") is None else dict(values["fpn"])
        inference = None if values.get("inference") is None else InferenceForm.from_dict(values["inference"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        msg = f"{where} is not that of a saved backbone: {type(err).__name__}: {err}"
        raise WeightsCorruptedError(msg) from err
    check_saved(config, where)
    return Saved(config.replace(pretrained=False, weights=None), images, where, fpn, inference)


def check_state(state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Refuse weights that would not load again completely and unchanged.

    Parameters
    ----------
    state
        The state dict to save.
    expected
        The state dict of a backbone created from the config.

    Raises
    ------
    WeightsMismatchError
        If the tensors are not the expected ones, or a value is not a tensor.
    WeightsError
        If there are no weights, or only a shard of them.
    """
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    if any(tensor.is_meta for tensor in tensors):
        msg = "A backbone on the meta device has no weights to save; create it on another device."
        raise WeightsError(msg)
    if any(map(is_sharded, tensors)):
        msg = (
            "The weights are sharded over processes: take the full state dict, torch.distributed.checkpoint.state_dict."
            "get_model_state_dict with full_state_dict=True, load it into a plain backbone, and save that."
        )
        raise WeightsError(msg)
    more = [name for name in state if name not in expected]
    less = [name for name in expected if name not in state and not name.endswith(COUNTER)]
    other = [name for name, value in state.items() if name in expected and not _is_like(value, expected[name])]
    faults = [
        f"{len(names)} {what} (first {names[0]!r})"
        for names, what in ((more, "more"), (less, "fewer"), (other, "of another shape or kind"))
        if names
    ]
    if faults:
        msg = (
            f"The weights are not those of the backbone that its config makes, and would not be loaded again: of "
            f"{len(expected)} tensors there are {', '.join(faults)}. Nothing was saved. Merge adapters, remove "
            "parametrizations, make double precision single by float(), and quantize or compile parts after loading; "
            "or save state_dict() yourself."
        )
        raise WeightsMismatchError(msg)


def read_config(
    folder_or_repo: str, *, revision: str | None = None, cache_dir: str | Path | None = None, with_weights: bool = True
) -> tuple[Saved, str]:
    """Return the description of a saved backbone, and the value of ``weights=`` for its weights.

    Parameters
    ----------
    folder_or_repo
        A folder, or ``owner/repo`` on the Hub.
    revision
        Revision of the repository; ``None`` for its default branch.
    cache_dir
        Cache folder to use instead of the Hub's default one.
    with_weights
        Return the config that the weights were saved with.

    Raises
    ------
    WeightsNotFoundError
        If there is no such folder or repository.
    WeightsCorruptedError
        If it holds no config of a saved backbone, or the weights were not saved with it.
    ConfigError
        If `folder_or_repo` is a folder and `revision` is not ``None``, or if the config sets more than it may.
    """
    folder = Path(folder_or_repo)
    try:
        is_folder = folder.is_dir()
    except OSError:  # a name that no folder can have
        is_folder = False
    if is_folder:
        if revision is not None:
            msg = f"revision={shown(revision)}: {folder_or_repo!r} is a folder, and has none; leave it out."
            raise ConfigError(msg)
        path, weights = folder / CONFIG_FILE, folder_or_repo
    else:
        text = repo_of(folder_or_repo) or folder_or_repo
        parts = split_repo(text if revision is None else f"{text}@{revision}")
        if parts is None:
            place = str(Path.cwd())
            msg = f"{folder_or_repo!r} is neither a folder, from {place!r}, nor a repository 'owner/repo' of the Hub."
            raise WeightsNotFoundError(msg)
        path = fetch(parts[0], [CONFIG_FILE], revision=parts[1], cache_dir=cache_dir)
        weights = f"hf-hub:{parts[0]}@{path.parent.name}"  # at the same commit
    where = f"The {CONFIG_FILE} of {folder_or_repo!r}"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        msg = f"The folder {folder_or_repo!r} holds no {CONFIG_FILE}: no backbone was saved to it."
        raise WeightsNotFoundError(msg) from err
    except (OSError, ValueError, RecursionError) as err:
        msg = f"{where} is not that of a saved backbone: {type(err).__name__}: {err}"
        msg += f".{quarantine(path)}" if is_no_json(err) else ""
        raise WeightsCorruptedError(msg) from err
    is_cut_off = isinstance(values, dict) and "next" in values  # a save was interrupted; the weights tell at which step
    saved = None if is_cut_off and with_weights else understand(values, where)
    if with_weights:
        saved_id = id_of(resolve_files(weights, cache_dir=cache_dir)[0])
        description = description_for(values, saved_id)
        if description is None:
            msg = (
                f"The {CONFIG_FILE} and the weights of {folder_or_repo!r} were not saved together: the ids are "
                f"{values.get('id')!r} and {saved_id!r}. Save the backbone again, or copy both files."
            )
            raise WeightsCorruptedError(msg)
        saved = saved or understand(description, where)
    assert saved is not None
    return saved, weights


def push(
    save: Callable[[Path, str], None],
    repo: str,
    *,
    private: bool | None,
    token: str | None,
    revision: str | None,
    message: str,
) -> str:
    """Upload the folder that `save` writes to a repository on the Hub; return the address of the repository.

    `save` gets the folder and a title. The repository is created if it does not exist.

    Raises
    ------
    WeightsNotFoundError
        If `repo` is not the name of a repository.
    WeightsError
        If the upload is not allowed, or the Hub is out of reach.
    """
    value: Any = repo
    if not isinstance(value, str) or split_repo(repo) is None or "@" in repo:
        msg = f"{shown(repo)} is no Hub repository; write 'owner/repo'."
        raise WeightsNotFoundError(msg)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), repo)
        return _upload(folder, repo, private=private, token=token, revision=revision, message=message)


def _upload(
    folder: str, repo: str, *, private: bool | None, token: str | None, revision: str | None, message: str
) -> str:
    api = huggingface_hub.HfApi(token=token, library_name="autobackbone")
    with translated_errors(f"Uploading to {repo!r}", "A token that may write is needed."):
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message, revision=revision)
    return str(commit.repo_url)


def _is_like(value: Any, expected: Tensor) -> bool:
    """Whether a value is a plain tensor with the expected shape and kind of number, and would load unchanged.

    Weights are loaded in torch's default dtype. It can represent smaller dtypes exactly, but not double precision.
    """
    if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided or value.is_quantized:
        return False
    kinds = [(t.is_floating_point(), t.is_complex()) for t in (value, expected)]
    return value.shape == expected.shape and kinds[0] == kinds[1] and value.dtype not in _DOUBLE


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
