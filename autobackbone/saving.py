"""Saved backbones: a folder, or a repository on the Hub, with config, weights and model card."""

import json
import os
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import ModelCardData
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from autobackbone.cache import is_no_json, quarantine
from autobackbone.config import FeatureBackboneConfig
from autobackbone.errors import ConfigError, WeightsCorruptedError, WeightsError, WeightsNotFoundError
from autobackbone.hub import explained, fetch, first_line
from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureLevel
from autobackbone.names import split_repo

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
# What of an InputSpec says how images are made, which the libraries may come to see otherwise.
_IMAGES = ("size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
# Licences that the Hub knows by their own names.
_HUB_LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "openrail")
_LIBRARIES = ("autobackbone", "timm", "transformers", "torch")

_CARD = """---
{data}
---

# {title}

A feature backbone made with [autobackbone](https://pypi.org/project/autobackbone/) from `{model_name}`. Level *l* of a
`(B, {in_chans}, H, W)` batch of images is `(B, channels, ceil(H / stride), ceil(W / stride))`.

| level | stride | channels | module |
|---|---|---|---|
{levels}

Images: mean {mean}, standard deviation {std} of values in [0, 1]; made for {size}.

Licence of the weights that it was made from: {license}.

```python
from autobackbone import FeatureBackbone

backbone = FeatureBackbone.from_pretrained("{title}")
features = backbone(backbone.input_spec.normalize(images))
```
"""


def write(
    folder: Path,
    config: FeatureBackboneConfig,
    state: Mapping[str, Tensor],
    levels: tuple[FeatureLevel, ...],
    input_spec: InputSpec,
    license_name: str | None,
    title: str,
) -> None:
    """Write a backbone to a folder; each file is there whole or not at all.

    Raises
    ------
    ConfigError
        If the config holds something that JSON cannot.
    WeightsError
        If there are no weights, or only a shard of them, or a file cannot be written.
    """
    values = {
        "backbone": config.to_dict(),
        "input": input_spec.to_dict(),
        "levels": [{"name": lv.name, "channels": lv.channels, "stride": lv.stride} for lv in levels],
        "versions": {name: _version(name) for name in _LIBRARIES},
    }
    if any(tensor.is_meta for tensor in state.values()):
        msg = "A backbone on the meta device has no weights to save; create it on another device."
        raise WeightsError(msg)
    if any(hasattr(tensor, "full_tensor") for tensor in state.values()):  # a DTensor, whose import takes long
        msg = (
            "The weights are sharded over processes: take the full state dict, torch.distributed.checkpoint.state_dict."
            "get_model_state_dict with full_state_dict=True, load it into a plain backbone, and save that."
        )
        raise WeightsError(msg)
    try:
        text = json.dumps(values, indent=2) + "\n"
    except TypeError as err:
        msg = f"extra_kwargs={config.extra_kwargs!r} cannot be written as JSON: {err}."
        raise ConfigError(msg) from err
    card = _card(config, levels, input_spec, license_name, title)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as partial:
            made = Path(partial)
            save_file(_apart(state), made / WEIGHTS_FILE, {"format": "pt"})
            (made / CONFIG_FILE).write_text(text, encoding="utf-8")
            (made / CARD_FILE).write_text(card, encoding="utf-8")
            for name in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
                (made / name).replace(folder / name)
    except (OSError, SafetensorError) as err:
        msg = f"The backbone could not be saved to {os.fspath(folder)!r}: {first_line(err)}."
        raise WeightsError(msg) from err


def read_config(
    source: str, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> tuple[FeatureBackboneConfig, dict[str, Any], str]:
    """Return the config of a saved backbone, how its images are made, and what ``weights=`` takes for its weights.

    Parameters
    ----------
    source
        A folder, or ``owner/repo`` on the Hub.
    revision
        Of the repository; ``None`` for its default.
    cache_dir
        Instead of the Hub's own cache.

    Raises
    ------
    WeightsNotFoundError
        If there is no such folder or repository.
    WeightsCorruptedError
        If it holds no config of a saved backbone.
    ConfigError
        If a revision of a folder is asked for.
    """
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            msg = f"revision={revision!r}: {source!r} is a folder, and has none; leave it out."
            raise ConfigError(msg)
        path, weights = folder / CONFIG_FILE, source
    else:
        text = source.removeprefix("hf-hub:")
        found = split_repo(text if revision is None else f"{text}@{revision}")
        if found is None:
            msg = f"{source!r} is neither a folder, from {str(Path.cwd())!r}, nor a repository 'owner/repo' of the Hub."
            raise WeightsNotFoundError(msg)
        path = fetch(found[0], [CONFIG_FILE], revision=found[1], cache_dir=cache_dir)
        weights = f"hf-hub:{found[0]}@{path.parent.name}"  # of the same commit
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        images = {k: tuple(v) if isinstance(v, list) else v for k, v in values["input"].items() if k in _IMAGES}
        return FeatureBackboneConfig.from_dict(values["backbone"]), images, weights
    except FileNotFoundError as err:
        msg = f"The folder {source!r} holds no {CONFIG_FILE}: no backbone was saved to it."
        raise WeightsNotFoundError(msg) from err
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        msg = f"The {CONFIG_FILE} of {source!r} is not that of a saved backbone: {type(err).__name__}: {err}"
        msg += f".{quarantine(path)}" if is_no_json(err) else ""
        raise WeightsCorruptedError(msg) from err


def push(
    folder: Path, repo: str, *, private: bool | None, token: str | None, revision: str | None, message: str
) -> str:
    """Upload a folder to a repository on the Hub, made if need be; return its address.

    Raises
    ------
    WeightsError
        If that is not allowed, or the Hub is out of reach.
    """
    if split_repo(repo) is None or "@" in repo:
        msg = f"{repo!r} is no Hub repository; write 'owner/repo'."
        raise WeightsNotFoundError(msg)
    api = huggingface_hub.HfApi(token=token, library_name="autobackbone")
    with explained(f"Uploading to {repo!r}", "A token that may write is needed."):
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message, revision=revision)
    return str(commit.repo_url)


def _card(
    config: FeatureBackboneConfig,
    levels: tuple[FeatureLevel, ...],
    input_spec: InputSpec,
    license_name: str | None,
    title: str,
) -> str:
    known = license_name in _HUB_LICENSES
    data = ModelCardData(
        library_name="autobackbone",
        license=license_name if known or license_name is None else "other",
        license_name=None if known else license_name,
        tags=["autobackbone", "feature-extraction", "backbone"],
    )
    rows = (f"| {lv.name} | {lv.stride} | {lv.channels} | `{lv.module}` |" for lv in levels)
    return _CARD.format(
        data=data.to_yaml(),
        title=title,
        model_name=config.model_name,
        in_chans=input_spec.in_chans,
        levels="\n".join(rows),
        mean=input_spec.mean,
        std=input_spec.std,
        size=f"{input_spec.size[0]}x{input_spec.size[1]} pixels",
        license=license_name or "not known",
    )


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that share no memory, which safetensors does not take."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        whole = tensor.detach().contiguous()
        address = whole.untyped_storage().data_ptr()
        apart[name] = whole.clone() if address in seen else whole
        seen.add(address)
    return apart


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
