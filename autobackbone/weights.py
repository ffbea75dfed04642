"""Weights: reading checkpoint files, loading them whole or not at all, and what goes wrong with the Hub."""

import os
import pickle
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import errors as hub
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from autobackbone.errors import (
    GatedWeightsError,
    WeightsCorruptedError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
    WeightsUnavailableError,
)

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def read_checkpoint(source: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict from a file.

    Parameters
    ----------
    source
        A ``.safetensors`` file, or a ``.pth``, ``.pt`` or ``.bin`` file that ``torch.save`` made of a state dict.
        Pickles are read with ``weights_only=True``: they cannot run code.

    Returns
    -------
    dict of str to Tensor
        On the CPU.

    Raises
    ------
    WeightsNotFoundError
        If there is no such file, or its kind is not one of those above.
    WeightsCorruptedError
        If the file cannot be read, or holds something else than tensors by name.
    """
    path = Path(source)
    if path.suffix not in SUFFIXES:
        msg = f"weights={os.fspath(source)!r} is not a file of a known kind; it must end in {', '.join(SUFFIXES)}."
        raise WeightsNotFoundError(msg)
    try:
        found = path.is_file()
    except OSError:  # a name that no file can have
        found = False
    if not found:
        msg = f"weights={os.fspath(source)!r}: there is no such file; check the path, from {str(Path.cwd())!r}."
        raise WeightsNotFoundError(msg)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # a damaged pickle can raise anything
        msg = (
            f"The weights file {os.fspath(source)!r} could not be read: it is cut off, damaged, or no state dict of "
            f"tensors ({_first_line(err)}). Fetch or save it again."
        )
        raise WeightsCorruptedError(msg) from err
    if not isinstance(state, Mapping) or not state or not all(_is_entry(k, v) for k, v in state.items()):
        msg = (
            f"The weights file {os.fspath(source)!r} holds {type(state).__name__} and no tensors by name; "
            "save the state_dict() of a timm model."
        )
        raise WeightsCorruptedError(msg)
    return dict(state)


def load_exactly(model: nn.Module, state: Mapping[str, Tensor], source: str, *, ignored: Collection[str] = ()) -> None:
    """Copy a state dict into a model, whole; a model that it does not fit is left as it was.

    Parameters
    ----------
    model
        Takes the tensors.
    state
        Tensors by the names of `model`'s own state dict.
    source
        Where they came from, for messages.
    ignored
        Modules whose tensors may be in `state` and are not in `model`.

    Raises
    ------
    WeightsMismatchError
        If a tensor is missing, unexpected, of another shape, or integers where floating point is needed.
    """
    own = model.state_dict()
    given = {k: v for k, v in state.items() if k in own or not any(k.startswith(f"{name}.") for name in ignored)}
    missing = [k for k in own if k not in given]
    unexpected = [k for k in given if k not in own]
    reshaped = [
        k
        for k in own
        if k in given and (own[k].shape != given[k].shape or own[k].is_floating_point() != given[k].is_floating_point())
    ]
    if missing or unexpected or reshaped:
        faults = [
            f"{len(names)} {fault} (first {names[0]!r}{detail})"
            for names, fault, detail in (
                (missing, "missing", ""),
                (unexpected, "unexpected", ""),
                (
                    reshaped,
                    "of another shape or kind",
                    reshaped and f": {tuple(given[reshaped[0]].shape)} for {tuple(own[reshaped[0]].shape)}",
                ),
            )
            if names
        ]
        msg = (
            f"The weights in {source!r} are not those of this {type(model).__name__}: of its {len(own)} tensors "
            f"and the file's {len(state)}, {'; '.join(faults)}. Nothing was loaded; check the model name, in_chans "
            "and img_size."
        )
        raise WeightsMismatchError(msg)
    model.load_state_dict(given)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what goes wrong while published weights of `name` are fetched into this package's errors."""
    try:
        yield
    except hub.GatedRepoError as err:
        msg = (
            f"The weights of {name!r} are gated: accept the licence on the page of the repository "
            "and run 'hf auth login', or use pretrained=False."
        )
        raise GatedWeightsError(msg) from err
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.RemoteEntryNotFoundError) as err:
        msg = (
            f"The Hub has no weights for {name!r} ({_first_line(err)}); check the name and revision, run "
            "'hf auth login' if the repository is private, or use pretrained=False."
        )
        raise WeightsNotFoundError(msg) from err
    except (
        hub.LocalEntryNotFoundError,
        hub.OfflineModeIsEnabled,
        hub.HfHubHTTPError,
        ConnectionError,
        TimeoutError,
    ) as err:
        msg = (
            f"The weights of {name!r} are not in the local cache and the Hub could not be reached "
            f"({_first_line(_root(err))}). Check the network, give a file with weights=, or use pretrained=False."
        )
        raise WeightsUnavailableError(msg) from err
    except FileNotFoundError as err:
        msg = f"{name!r} holds no weights ({_first_line(err)}); use pretrained=False, or give a file with weights=."
        raise WeightsNotFoundError(msg) from err
    except (SafetensorError, pickle.UnpicklingError, EOFError) as err:
        msg = f"The weights of {name!r} are damaged ({_first_line(err)}); replace them, or delete them from the cache."
        raise WeightsCorruptedError(msg) from err
    except OSError as err:
        msg = f"The weights of {name!r} could not be fetched or stored ({_first_line(err)})."
        raise WeightsError(msg) from err


def _is_entry(name: object, value: object) -> bool:
    """Whether a checkpoint's entry is a plain tensor under a name."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta and not value.is_quantized
    return isinstance(name, str) and plain


def _first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0].rstrip(".")


def _root(err: BaseException) -> BaseException:
    while err.__cause__ is not None:
        err = err.__cause__
    return err
