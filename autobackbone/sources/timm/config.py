"""A reference and a config in timm's terms: the architecture, its published weights, and arguments."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import timm
from timm.models._hub import load_model_config_from_path

from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.errors import ConfigError, UnknownBackboneError, WeightsNotFoundError
from autobackbone.names import ModelRef
from autobackbone.sources.meta import FAILURES
from autobackbone.sources.published import check_published, descriptive_fields, known_fields
from autobackbone.sources.timm.arguments import FIELDS, TRANSIENT, check_file_arguments
from autobackbone.sources.timm.registry import architectures, published_cfg
from autobackbone.weights.cache import is_no_json, quarantine
from autobackbone.weights.hub import fetch

# Arguments of timm.create_model that say where weights come from. They do not change the architecture.
_LOADING = ("cache_dir", "pretrained_cfg_overlay")
# Arguments that would make timm return or load something else, and what to do instead.
_LEVELS = "levels are chosen by out_indices or out_strides of FeatureBackboneConfig"
_REFUSED = dict.fromkeys(("features_only", "out_indices", "feature_cls", "feature_cfg"), _LEVELS) | {
    "checkpoint_path": "weights files are given by the field weights",
    "device": "the device is the default one; write 'with torch.device(...):' around the call",
    "pretrained_cfg": "published weights are chosen by a tag in the model name, as in 'resnet50.a1_in1k'",
}
# Arguments in a timm config that have a field of ours. num_classes is not one of them: in the config it is the size of
# the saved head, and the field is the size of the requested one.
_SAVED_FIELDS = ("in_chans", "output_stride", "drop_rate", "drop_path_rate")


def resolve(ref: ModelRef, cache_dir: str | None = None) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the architecture, timm's pretrained_cfg of its weights, and the arguments saved with them.

    The weights of a config on the Hub or in a folder are the ones beside it, even if the config names another place.

    Raises
    ------
    WeightsNotFoundError
        If a reference on the Hub or in a folder has no timm config.
    UnknownBackboneError
        If the config names an architecture that the installed timm does not have.
    ConfigError
        If the config sets more than a file may set.
    """
    if ref.scheme == "timm":
        return ref.name, published_cfg(str(ref)), {}
    folder = Path(ref.name)
    if ref.scheme == "hf-hub":
        folder = fetch(ref.name, ["config.json"], revision=ref.revision, cache_dir=cache_dir).parent
    try:
        cfg, architecture, arguments = load_model_config_from_path(folder)
        cfg = timm.models.PretrainedCfg().to_dict() | check_published(known_fields(cfg), "its pretrained_cfg")
        arguments = dict(arguments or {})
    except (*FAILURES, OSError) as err:
        msg = (
            f"{str(ref)!r} holds no timm config that can be read: a config.json as timm writes it is needed "
            f"({type(err).__name__}: {err}).{quarantine(folder / 'config.json') if is_no_json(err) else ''}"
        )
        raise WeightsNotFoundError(msg) from err
    where = {"file": str(folder), "source": "local-dir"}
    if ref.scheme == "hf-hub":
        where = {"source": "hf-hub", "hf_hub_id": str(ref).removeprefix("hf-hub:")}
    cfg = descriptive_fields(cfg) | where
    if architecture not in architectures():
        msg = f"{str(ref)!r} names the architecture {architecture!r}, which timm {timm.__version__} does not have."
        raise UnknownBackboneError(msg)
    check_file_arguments(architecture, arguments, f"The config.json of {str(ref)!r}")
    return architecture, cfg, arguments


def with_saved(
    ref: ModelRef, config: BackboneConfig | FeatureBackboneConfig, saved: dict[str, Any]
) -> tuple[BackboneConfig | FeatureBackboneConfig, dict[str, Any]]:
    """Return a config with the saved values of fields that it leaves at their defaults, and the other saved arguments.

    A field that a user sets to its default counts as left there, unless ``extra_kwargs`` has it too.

    Raises
    ------
    ConfigError
        If a saved value is not valid for its field.
    """
    defaults = {f.name: f.default for f in fields(config) if f.name in _SAVED_FIELDS}
    chosen = {
        name: saved[name]
        for name, default in defaults.items()
        if saved.get(name) is not None and getattr(config, name) == default and name not in config.extra_kwargs
    }
    try:
        if saved.get("img_size") is not None:
            config.replace(img_size=saved["img_size"])  # only checked: the weights were made for it
        config = config.replace(**chosen)
    except ConfigError as err:
        msg = f"The config.json of {str(ref)!r} cannot be honored: {err}"
        raise ConfigError(msg) from err
    others = {k: v for k, v in saved.items() if v is not None and k not in defaults and k != "num_classes"}
    return config, others


def overlay_of(config: BackboneConfig | FeatureBackboneConfig) -> dict[str, Any]:
    """Return the fields of timm's pretrained_cfg that the config replaces."""
    overlay = config.extra_kwargs.get("pretrained_cfg_overlay")
    return {} if overlay is None else check_published(overlay, "extra_kwargs['pretrained_cfg_overlay']")


def arguments_of(config: BackboneConfig | FeatureBackboneConfig) -> dict[str, Any]:
    """Return the arguments of ``timm.create_model`` that can change the architecture.

    Raises
    ------
    ConfigError
        If one is refused, or contradicts a field.
    """
    names = {f.name for f in fields(config)}
    arguments = {}
    for name, value in config.extra_kwargs.items():
        if name in _REFUSED:
            msg = f"extra_kwargs[{name!r}]: {_REFUSED[name]}."
            raise ConfigError(msg)
        if name in names:
            config.check_argument(name, name)
        elif name not in _LOADING:
            arguments[name] = value
    if isinstance(config, FeatureBackboneConfig) and config.output_stride != 32:
        arguments["output_stride"] = config.output_stride
    return arguments


def portable_arguments(config: BackboneConfig | FeatureBackboneConfig, overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of ``extra_kwargs`` that describes the architecture or its images on any machine."""
    arguments = {k: v for k, v in config.extra_kwargs.items() if k not in (*TRANSIENT, *_LOADING, *FIELDS)}
    described = descriptive_fields(overlay)
    return arguments | ({"pretrained_cfg_overlay": described} if described else {})


def check_saved_arguments(architecture: str, extra_kwargs: Mapping[str, Any], where: str) -> None:
    """Refuse arguments that `portable_arguments` would not have saved.

    Raises
    ------
    ConfigError
        If there is one.
    """
    arguments = dict(extra_kwargs)
    overlay = check_published(arguments.pop("pretrained_cfg_overlay", {}), f"{where}: pretrained_cfg_overlay")
    locating = overlay.keys() - descriptive_fields(overlay).keys()
    if locating:
        msg = f"{where} sets {min(locating)!r} of pretrained_cfg_overlay; where weights are is not for a file to say."
        raise ConfigError(msg)
    check_file_arguments(architecture, arguments, where)
