"""Published weights of timm's models: where they are, what of a model is their classifier, and what they must cover."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from autobackbone.errors import WeightsMismatchError, WeightsNotFoundError
from autobackbone.sources.timm.measure import FAILURES
from autobackbone.sources.timm.registry import published_cfg
from autobackbone.weights.files import fetch_weights, find_files, read_checkpoint
from autobackbone.weights.hub import fetch_url
from autobackbone.weights.matching import state_dicts


def find_published(
    cfg: Mapping[str, Any], name: str, cache_dir: str | None
) -> tuple[str, Mapping[str, Any], dict[str, Any]]:
    """Return what to call published weights, what they hold, and what timm's pretrained_cfg says of them.

    Parameters
    ----------
    cfg
        timm's pretrained_cfg.
    name
        Of the model, for messages.
    cache_dir
        Instead of the Hub's own cache.

    Raises
    ------
    WeightsNotFoundError
        If there are none.
    WeightsError
        If they cannot be had.
    """
    if cfg.get("state_dict"):
        return "state_dict", cfg["state_dict"], {"state_dict": cfg["state_dict"]}
    if cfg.get("file"):
        source = str(cfg["file"])
        files = find_files(source)
    elif cfg.get("hf_hub_id"):
        source = cfg["hf_hub_id"]
        repo, _, revision = source.partition("@")
        files = fetch_weights(repo, revision=revision or None, cache_dir=cache_dir, name=cfg.get("hf_hub_filename"))
    elif cfg.get("url"):
        source = cfg["url"]
        files = [fetch_url(source)]
    else:
        msg = f"timm publishes no weights for {name!r}; use pretrained=False, or give a file with weights=."
        raise WeightsNotFoundError(msg)
    content = read_checkpoint(files, source)  # says what is wrong with a damaged file
    return source, content, {"file": str(files[0])} if len(files) == 1 else {"state_dict": dict(content)}


def check_covered(
    architecture: str,
    cfg: Mapping[str, Any],
    empty: Sequence[str],
    tensors: Mapping[str, Tensor],
    source: str,
    content: Mapping[str, Any],
) -> None:
    """Refuse to leave out what is there: a tensor of another kind of number, a stem for other channels.

    Parameters
    ----------
    architecture, cfg
        The model, and timm's pretrained_cfg.
    empty
        Names of its tensors that were not loaded.
    tensors
        Its state dict.
    source, content
        What the weights were asked for by, and what they hold.

    Raises
    ------
    WeightsMismatchError
        If there is such a thing.
    """
    if not empty:
        return
    there = {key: value for _, state in state_dicts(content) for key, value in state.items()}
    stems = tuple(f"{stem}.weight" for stem in _listed(cfg.get("first_conv")))
    for name in empty:
        if name in there or name in stems:
            kind = f"{there[name].dtype} of shape {tuple(there[name].shape)}" if name in there else "of other channels"
            msg = (
                f"The weights in {source!r} are not those of {architecture!r}: {name!r} is {kind}, and "
                f"{tensors[name].dtype} of shape {tuple(tensors[name].shape)} is needed. Nothing was loaded."
            )
            raise WeightsMismatchError(msg)


def head_prefixes(architecture: str, cfg: Mapping[str, Any], network: Any) -> tuple[str, ...]:
    """Return what the names of the classifier's parameters begin with: what timm says, or where it has it.

    What a config from elsewhere calls a classifier, and is another part of the network, is none: it must be loaded.
    """
    declared = _listed(cfg.get("classifier"))
    places = _listed(published_cfg(architecture).get("classifier"))
    names = network.state_dict().keys()
    absent = [head for head in declared if not any(name.startswith(f"{head}.") for name in names)]
    if not declared or not {*declared} <= {*places, *absent}:
        found = _classifiers(network)
        places += found
        declared = declared or found
    inside = tuple(f"{place}." for place in places)
    return tuple(f"{head}." for head in declared if head in absent or f"{head}.".startswith(inside))


def _classifiers(network: Any) -> list[str]:
    """Return the names of the modules that a timm model says are its classifier."""
    try:
        parts = network.get_classifier()
    except FAILURES:  # it has none, or none now
        return []
    parts = parts if isinstance(parts, tuple | list) else (parts,)
    return [name for name, module in network.named_modules() if name and any(module is part for part in parts)]


def _listed(names: Any) -> list[str]:
    """Return the names that timm gives as one, as several, or not at all."""
    return [names] if isinstance(names, str) else list(names or ())
