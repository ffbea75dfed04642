"""Published weights of timm's models: where they are, what they must cover, and which part is their classifier."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from autobackbone.errors import WeightsMismatchError, WeightsNotFoundError
from autobackbone.sources.meta import FAILURES
from autobackbone.sources.timm.registry import published_cfg
from autobackbone.weights.building import Built, SkipInit, build_loaded
from autobackbone.weights.files import fetch_weights, read_checkpoint, resolve_files
from autobackbone.weights.hub import fetch_url
from autobackbone.weights.matching import state_dicts
from autobackbone.weights.report import WeightsReport
from autobackbone.weights.rules import COUNTER


def load_published(
    build: Callable[[Mapping[str, Any]], Built],
    architecture: str,
    cfg: Mapping[str, Any],
    name: str,
    cache_dir: str | None,
) -> tuple[Built, WeightsReport]:
    """Build a timm model with published weights, which timm loads.

    Parameters
    ----------
    build
        Builds the model, given where the weights are in the terms of timm's pretrained_cfg.
    architecture, cfg
        The name in timm's registry, and timm's pretrained_cfg.
    name
        Of the model, for messages.
    cache_dir
        Instead of the Hub's own cache.

    Raises
    ------
    WeightsError
        If the weights cannot be had, or do not fit.
    """
    origin, content, weights = _resolve_published(cfg, name, cache_dir)
    not_loaded: list[str] = []

    def create(loading: AbstractContextManager[Any]) -> Built:
        with loading:
            built = build(weights)
        if isinstance(loading, SkipInit):
            tensors = built.network.state_dict(keep_vars=True)
            not_loaded.extend(name for name, tensor in tensors.items() if not loading.is_loaded(tensor))
            _check_covered(architecture, cfg, not_loaded, tensors, origin, content)
        return built

    built = build_loaded(create)
    sizes = {name: tensor.numel() for name, tensor in built.network.state_dict().items()}
    missing = tuple(name for name in not_loaded if not name.endswith(COUNTER))
    total = sum(sizes.values())
    loaded = total - sum(sizes[name] for name in not_loaded)
    return built, WeightsReport(origin=origin, loaded=loaded, total=total, missing=missing)


def _resolve_published(
    cfg: Mapping[str, Any], name: str, cache_dir: str | None
) -> tuple[str, Mapping[str, Any], dict[str, Any]]:
    """Return the origin of published weights, their content, and where they are in the terms of timm's pretrained_cfg.

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
        origin = str(cfg["file"])
        files = resolve_files(origin)
    elif cfg.get("hf_hub_id"):
        origin = cfg["hf_hub_id"]
        repo, _, revision = origin.partition("@")
        files = fetch_weights(repo, revision=revision or None, cache_dir=cache_dir, name=cfg.get("hf_hub_filename"))
    elif cfg.get("url"):
        origin = cfg["url"]
        files = [fetch_url(origin)]
    else:
        msg = f"timm publishes no weights for {name!r}; use pretrained=False, or give a file with weights=."
        raise WeightsNotFoundError(msg)
    content = read_checkpoint(files, origin)  # says what is wrong with a damaged file
    return origin, content, {"file": str(files[0])} if len(files) == 1 else {"state_dict": dict(content)}


def _check_covered(
    architecture: str,
    cfg: Mapping[str, Any],
    not_loaded: Sequence[str],
    tensors: Mapping[str, Tensor],
    origin: str,
    content: Mapping[str, Any],
) -> None:
    """Refuse weights that timm left out: a tensor of another kind of number, a stem for other channels.

    Raises
    ------
    WeightsMismatchError
        If there is such a tensor.
    """
    if not not_loaded:
        return
    published = {key: value for _, state in state_dicts(content) for key, value in state.items()}
    stems = tuple(f"{stem}.weight" for stem in _listed(cfg.get("first_conv")))
    for name in not_loaded:
        if name in published or name in stems:
            kind = "of other channels"
            if name in published:
                kind = f"{published[name].dtype} of shape {tuple(published[name].shape)}"
            msg = (
                f"The weights in {origin!r} are not those of {architecture!r}: {name!r} is {kind}, and "
                f"{tensors[name].dtype} of shape {tuple(tensors[name].shape)} is needed. Nothing was loaded."
            )
            raise WeightsMismatchError(msg)


def head_prefixes(architecture: str, classifier: Any, network: Any, names: Collection[str]) -> tuple[str, ...]:
    """Return the prefixes of the names of a network's classifier.

    A config from elsewhere may call another part of the network its classifier. That part is none: it must be loaded.

    Parameters
    ----------
    architecture
        In timm's registry, which also says where its classifier is.
    classifier
        What timm, or the config, calls the classifier: a name, several, or ``None``.
    network
        The network.
    names
        Of the tensors in its state dict.
    """
    declared = _listed(classifier)
    places = _listed(published_cfg(architecture).get("classifier"))
    absent = [head for head in declared if not any(name.startswith(f"{head}.") for name in names)]
    if not declared or not {*declared} <= {*places, *absent}:
        classifiers = _classifiers(network)
        places += classifiers
        declared = declared or classifiers
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
