"""Finding backbones inside larger models, wrapped or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from autobackbone.backbone import FeatureBackbone
from autobackbone.errors import ConfigError
from autobackbone.sources.anatomy import layers, stages
from autobackbone.sources.seam import Attachment, attachment_of
from autobackbone.unwrapping import WRAPPED, is_flattened, path_to, submodule
from autobackbone.values import shown


def all_backbones(model: nn.Module) -> dict[str, nn.Module]:
    """Return the backbones of this package in a model, by their full names."""
    return {full: module for full, module in model.named_modules() if attachment_of(module) is not None}


def backbone_names(model: nn.Module) -> list[str]:
    """Return the names of the backbones in a model, without the parts that wrappers add."""
    return list(map(_short, all_backbones(model)))


def find_backbones(model: nn.Module, name: str | Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Return the requested backbones of this package in a model, by their full names.

    Parameters
    ----------
    model
        A backbone of either kind, or a model with some in it, compiled or wrapped.
    name
        Name of a backbone, or of a module with one backbone in it, or a list of such names. ``None`` if the model has
        one backbone.

    Raises
    ------
    ConfigError
        If there are none, if there are several and `name` is ``None``, or if a name is not that of a backbone.
    """
    value: Any = model
    if not isinstance(value, nn.Module):
        msg = f"A backbone or a model with one in it is needed, got {type(value).__name__}."
        raise ConfigError(msg)
    backbones = all_backbones(value)
    if not backbones:
        kind = type(value).__name__
        msg = f"{kind} has 0 backbones of this package in it; give a model with one."
        raise ConfigError(msg)
    if name is None:
        if len(backbones) > 1:
            short = [_short(full) for full in backbones]
            msg = (
                f"{type(value).__name__} has {len(backbones)} backbones of this package in it "
                f"({', '.join(map(repr, short))}); say which is meant, as in name={short[0]!r}."
            )
            raise ConfigError(msg)
        return backbones
    names: Any = [name] if isinstance(name, str) else name
    if not isinstance(names, list | tuple) or not names or not all(isinstance(each, str) for each in names):
        msg = f"name must be the name of a backbone in the model, or a list of names, got {shown(name)}."
        raise ConfigError(msg)
    return {full: backbones[full] for full in dict.fromkeys(_full_name(each, list(backbones)) for each in names)}


@dataclass(frozen=True)
class Place:
    """The place of a backbone in a model.

    Attributes
    ----------
    owner
        The backbone.
    attachment
        What the package keeps of it.
    prefix
        Prefix of the names of its body in the model.
    body
        What its source built.
    inner
        Prefix of the library's own names in the body.
    network
        The library's own network, which has these names.
    """

    owner: nn.Module
    attachment: Attachment
    prefix: str
    body: nn.Module
    inner: str
    network: nn.Module

    @classmethod
    def find(cls, model: nn.Module, name: str | Sequence[str] | None = None) -> list["Place"]:
        """Return the places of the backbones that `find_backbones` finds.

        Raises
        ------
        ConfigError
            As `find_backbones`, and if FSDP has joined the parameters.
        """
        places = find_backbones(model, name)
        if is_flattened(model):
            msg = (
                "The model is in a FullyShardedDataParallel, which joins parameters and renames them; do this before "
                "wrapping it, or shard it by fully_shard()."
            )
            raise ConfigError(msg)
        return [cls._of(full, owner) for full, owner in places.items()]

    @classmethod
    def _of(cls, name: str, owner: nn.Module) -> "Place":
        prefix = f"{name}." if name else ""
        attachment = attachment_of(owner)
        assert attachment is not None, "find_backbones finds nothing else"
        body, network = owner, submodule(owner, attachment.network_path)
        if isinstance(owner, FeatureBackbone):
            prefix, body = f"{prefix}body.", owner.body
        path = path_to(body, network)  # with the wrappers that may be around the body
        return cls(owner, attachment, prefix, body, f"{path}." if path else "", network)

    @cached_property
    def traced(self) -> tuple[dict[str, int], list[str]]:
        """The native level of each parameter of the body, and the names of its modules in the order of their calls."""
        spec = self.attachment.input_spec
        size = self.owner.padded_size(*spec.size) if isinstance(self.owner, FeatureBackbone) else spec.size
        return stages(self.body, self.attachment.native_maps, (2, spec.in_chans, *size))

    def layers(self) -> tuple[dict[str, int], int]:
        """Return the layer of each parameter of the body, and that of a head."""
        declared = layers(self.network)
        if declared is not None:
            return {self.inner + name: layer for name, layer in declared[0].items()}, declared[1]
        level_of, _ = self.traced
        return level_of, max(level_of.values()) + 1

    def exempt(self) -> set[str]:
        """Return patterns of the names of parameters that the library excludes from weight decay."""
        return {self.inner + name for name in getattr(self.network, "no_weight_decay", set)()}


def _short(name: str) -> str:
    """Return a module's name without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in WRAPPED)


def _full_name(name: str, full_names: list[str]) -> str:
    short = _short(name)
    matches = [full for full in full_names if not short or f"{_short(full)}.".startswith(f"{short}.")]
    if len(matches) != 1:
        choices = ", ".join(repr(_short(full)) for full in full_names)
        fault = "names none" if not matches else f"names {len(matches)}"
        msg = f"name={shown(name)} {fault} of the backbones in the model, which are {choices}."
        raise ConfigError(msg)
    return matches[0]
