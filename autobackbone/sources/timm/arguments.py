"""Arguments of timm's architectures: which exist, which a file may set, and timm's errors about wrong ones."""

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
# Where and how a model is built and run. Only the caller decides that; it does not change the architecture.
TRANSIENT = ("cache_dir", "device", "dtype", "exportable", "no_jit", "scriptable")
# Arguments that timm's builders consume before a constructor sees them.
_BUILDERS = ("bn_eps", "bn_momentum", "bn_tf", "norm_eps", "use_naflex")


def check_file_arguments(architecture: str, arguments: Mapping[str, Any], where: str) -> None:
    """Refuse arguments in a file that are not those of an architecture, and values that are not plain.

    timm accepts many more: which files to read, where to put downloads, on which device to build, what to return. Only
    the user may decide that. So the allowed arguments are those in the signature of the architecture's constructor.

    Parameters
    ----------
    architecture
        Its name in timm's registry.
    arguments
        Arguments of ``timm.create_model`` in a file.
    where
        What messages call the file.

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
    """Refuse arguments that are ``None`` and that an architecture does not accept. timm drops them without an error.

    Each one is tried with a meaningless value: Python refuses an unknown name before anything is built.

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
    """Turn timm's errors about arguments into this package's errors."""
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
    """Return the name of an unexpected argument that an error is about; ``None`` if it is about something else."""
    match = re.search(r"unexpected keyword argument(?:\(s\))?:? \[?'(\w+)'", str(err))
    return match and match[1]


@functools.lru_cache(maxsize=64)
def _constructor_arguments(
    architecture: str, builder: Callable[..., Any] | None, *, use_naflex: bool = False
) -> frozenset[str]:
    """Return the names of arguments that the constructor of an architecture accepts, or a builder of the user's."""
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
