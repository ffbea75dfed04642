"""Arguments of transformers' configs: which there are, and which a file may set."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.errors import ConfigError
from autobackbone.sources.dinov3.network import Variant
from autobackbone.values import MAX_COUNT, as_integer, did_you_mean, shown

# Arguments of the HF config that have a field of ours.
_FIELDS_OF = {"num_channels": "in_chans", "image_size": "img_size"}
# Arguments that say where weights come from, and nothing of the architecture.
_LOADING = ("cache_dir",)
# Arguments of the HF config that say what transformers' own backbones return; norm says it here.
_WITHOUT_USE = ("apply_layernorm", "reshape_hidden_states")
# Ways to compute attention that are transformers' own; other names are of code on the Hub.
_ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
# Arguments of the HF config that count something.
_COUNTS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")


def hf_arguments(variant: Variant, model: str, config: BackboneConfig | FeatureBackboneConfig) -> dict[str, Any]:
    """Return the arguments of the HF config.

    Raises
    ------
    ConfigError
        If there is one that it does not take, or that contradicts a field.
    """
    names = _argument_names(variant)
    field_names = {f.name for f in fields(config)}
    arguments = variant.published_arguments(model)
    for name, value in config.extra_kwargs.items():
        field = _FIELDS_OF.get(name, name)
        if field in field_names:
            config.check_argument(name, field)
        if name in names:
            arguments[name] = value
        elif field not in field_names and name not in _LOADING:
            hint = did_you_mean(name, names, "leave it out.")
            msg = f"extra_kwargs[{name!r}]={value!r}: {variant.config_class.__name__} takes no such argument; {hint}"
            raise ConfigError(msg)
    if not isinstance(arguments.get("patch_size", 16), int):
        msg = f"extra_kwargs['patch_size']={arguments['patch_size']!r} is no integer; patches are square here."
        raise ConfigError(msg)
    for name in _COUNTS:
        if name in config.extra_kwargs and as_integer(config.extra_kwargs[name], 1, MAX_COUNT) is None:
            msg = f"extra_kwargs[{name!r}] must be a positive integer, got {shown(config.extra_kwargs[name])}."
            raise ConfigError(msg)
    heads = arguments.get("num_attention_heads")
    if heads is not None and arguments["hidden_size"] % (4 * heads):
        msg = (
            f"extra_kwargs: hidden_size={arguments['hidden_size']} is no multiple of 4 times "
            f"num_attention_heads={heads}, which its position embedding needs."
        )
        raise ConfigError(msg)
    return arguments | {"num_channels": config.in_chans, "drop_path_rate": config.drop_path_rate}


def _argument_names(variant: Variant) -> list[str]:
    """Return the arguments of an HF config that are of use here."""
    names = [
        name for name in variant.config_class.__annotations__ if not name.startswith("_") and name not in _WITHOUT_USE
    ]
    return [*names, "attn_implementation"]


def check_saved_arguments(variant: Variant, name: str, extra_kwargs: Mapping[str, Any], where: str) -> None:
    """Refuse what a saved config says beyond the arguments of an architecture.

    Raises
    ------
    ConfigError
        If there is such a thing.
    """
    allowed = _argument_names(variant)
    for argument, value in extra_kwargs.items():
        if argument not in allowed or (argument == "attn_implementation" and value not in _ATTENTIONS):
            msg = f"{where} sets {argument!r} to {value!r}, which is no argument of {name!r} that a file may set."
            raise ConfigError(msg)


def portable_arguments(extra_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is of the architecture, wherever and however it is run."""
    elsewhere = extra_kwargs.get("attn_implementation", "sdpa") not in _ATTENTIONS
    dropped = (*_LOADING, *(["attn_implementation"] if elsewhere else []))
    return {name: value for name, value in extra_kwargs.items() if name not in dropped}
