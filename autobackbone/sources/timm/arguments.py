"""Arguments of timm's architectures: which ones there are, which a file may set, and what timm says of wrong ones."""

import dataclasses
import functools
import inspect
import math
import re
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import timm
import torch

from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.errors import BackboneError, ConfigError, UnsupportedError, WeightsMismatchError
from autobackbone.sources.meta import FAILURES, meta_device
from autobackbone.sources.timm.registry import registered_by_user
from autobackbone.values import shown

# Arguments that have a field of their own.
FIELDS = {f.name for kind in (BackboneConfig, FeatureBackboneConfig) for f in fields(kind)}
# Where and how a model is built and run: for the caller to say, and nothing of the architecture.
TRANSIENT = ("cache_dir", "device", "dtype", "exportable", "no_jit", "scriptable")
# Arguments of architectures that timm's builders take out before a constructor sees them.
_BUILDERS = ("bn_eps", "bn_momentum", "bn_tf", "norm_eps", "use_naflex")


def check_file_arguments(architecture: str, arguments: Mapping[str, Any], where: str) -> None:
    """Refuse what a file says beyond the arguments of an architecture, and values that are not plain.

    timm takes much more, which says what files are read, where downloads go, on which device a model is built, and
    what is returned instead of a model. All of that is for the user to say. So this is a list of what is allowed:
    what the constructor of the architecture takes, as its signature says.

    Parameters
    ----------
    architecture
        Of timm's registry.
    arguments
        For ``timm.create_model``, as a file has them.
    where
        What to call the file in messages.

    Raises
    ------
    ConfigError
        If one is not allowed.
    """
    if not arguments:
        return
    allowed = _constructor_arguments(architecture, registered_by_user().get(architecture))
    if arguments.get("use_naflex"):
        allowed = allowed | _constructor_arguments(
            architecture, registered_by_user().get(architecture), use_naflex=True
        )
    for name, value in arguments.items():
        if name not in allowed:
            msg = (
                f"{where} sets {name!r}, which is no argument of {architecture!r}; a file may set nothing else. If you "
                f"trust it, create {architecture!r} with weights= that place and extra_kwargs= what you want of it."
            )
            raise ConfigError(msg)
        if not is_plain(value) or not _nested_names(value).isdisjoint(TRANSIENT):
            msg = f"{where} sets {name!r} to {value!r}; it may hold finite numbers, text, flags, and lists of them."
            raise ConfigError(msg)


def is_plain(value: Any) -> bool:
    """Whether a value is a finite number, text, a flag, ``None``, or a list or mapping of such."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and is_plain(item) for name, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _nested_names(value: Any) -> set[str]:
    """Return the names in the mappings within a value."""
    if isinstance(value, Mapping):
        return set(value).union(*map(_nested_names, value.values()))
    return set().union(*map(_nested_names, value)) if isinstance(value, list | tuple) else set()


def check_none_arguments(architecture: str, arguments: Mapping[str, Any]) -> None:
    """Refuse an argument that is ``None`` and that an architecture does not take: timm leaves them out unseen.

    Whether one is taken is tried, with a value that means nothing. Python refuses a name before anything is built.

    Raises
    ------
    ConfigError
        If there is one.
    """
    for name, value in arguments.items():
        if value is None:
            with translated_errors(architecture, arguments), meta_device():
                try:
                    timm.create_model(architecture, num_classes=0, **{name: object()})
                except FAILURES as err:
                    if unexpected_argument(err) == name:
                        raise


@contextmanager
def translated_errors(architecture: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Turn what timm makes of arguments that it cannot take into this package's errors."""
    try:
        yield
    except BackboneError:
        raise
    except FAILURES as err:
        if "loading state_dict" in str(err):
            faults = textwrap.shorten(str(err), 400, placeholder=" ...")  # it lists every tensor
            msg = f"The weights are not those of {architecture!r}, and were not loaded: {faults}"
            raise WeightsMismatchError(msg) from err
        name = unexpected_argument(err)
        if "output_stride" in arguments and (name == "output_stride" or isinstance(err, AssertionError)):
            stride = arguments["output_stride"]
            msg = f"output_stride={stride}: {architecture!r} cannot be dilated; leave output_stride=32."
            raise UnsupportedError(msg) from err
        if name is not None and name in arguments:
            where = f"{name}={arguments[name]!r}" if name in FIELDS else f"extra_kwargs[{name!r}]={arguments[name]!r}"
            msg = f"{where}: {architecture!r} takes no such argument; leave it out."
            raise ConfigError(msg) from err
        text = shown({k: v for k, v in arguments.items() if k != "num_classes"})
        reason = f"{type(err).__name__}: {' '.join(str(err).split())}".removesuffix(": ")
        msg = f"timm cannot build {architecture!r} with {text}: {reason}"
        usual = torch.get_default_dtype()
        if usual != torch.float32:
            msg += f"; the default dtype is {usual}, with which it may not work: create it in float32, then convert it"
        raise ConfigError(msg) from err


def unexpected_argument(err: BaseException | None) -> str | None:
    """Return the name of the argument that an error says is not taken, if it says so."""
    match = re.search(r"unexpected keyword argument(?:\(s\))?:? \[?'(\w+)'", str(err))
    return match and match[1]


@functools.lru_cache(maxsize=64)
def _constructor_arguments(
    architecture: str, builder: Callable[..., Any] | None, *, use_naflex: bool = False
) -> frozenset[str]:
    """Return the names that the constructor of an architecture takes, and the builder that the user registered."""
    with meta_device():
        model = timm.create_model(architecture, num_classes=0, **({"use_naflex": True} if use_naflex else {}))
    names = set(_BUILDERS)
    if builder is not None:
        names.update(inspect.signature(builder).parameters)
    for kind in type(model).__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
        for parameter in parameters:
            names.add(parameter.name)
            names.update(_config_fields(parameter.annotation))
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
            break  # nothing is passed on
    return frozenset(names - _RESERVED)


def _config_fields(annotation: Any) -> Iterator[str]:
    """Yield the fields of a dataclass that keyword arguments are laid over, with a prefix for those nested in it.

    timm has such configs for what has more arguments than a constructor should; ``conv_norm_eps`` of CoAtNet is
    ``norm_eps`` of its ``conv_cfg``.
    """
    kinds = [kind for kind in (annotation, *typing.get_args(annotation)) if dataclasses.is_dataclass(kind)]
    for kind in kinds:
        for field in fields(kind):
            yield field.name
            yield from (f"{field.name.removesuffix('_cfg')}_{name}" for name in _config_fields(field.type))


# What is never of an architecture, even where its constructor takes it: timm's own arguments, which say what is loaded,
# from where, and how.
_RESERVED = {
    "self",
    "args",
    "kwargs",
    *TRANSIENT,
    *inspect.signature(timm.create_model).parameters,
    *inspect.signature(timm.models.build_model_with_cfg).parameters,
    "features_only",
    "out_indices",
    "feature_cls",
}
