"""The form of a backbone for inference: what is joined, folded and laid out anew, on a model or on its twin."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from inspect import signature
from typing import Any, Self

import torch
from torch import Tensor, nn

from autobackbone.errors import ConfigError, UnsupportedError
from autobackbone.folding import Fold, find_folds, fold
from autobackbone.linear import use_convolutions
from autobackbone.quantized_linear import SCHEMES, check_installed, is_scale, quantize_linear
from autobackbone.sources.reparameterize import reparameterize
from autobackbone.unwrapping import path_to
from autobackbone.values import one_of, shown
from autobackbone.weights.hub import first_line
from autobackbone.weights.kinds import DTYPES
from autobackbone.weights.rules import CheckpointRules

_log = logging.getLogger("autobackbone")


@dataclass(frozen=True)
class InferenceForm:
    """How a backbone is laid out for inference.

    Attributes
    ----------
    dtype
        Of its weights and maps, by name.
    channels_last
        Whether its weights and images have their channels last in memory.
    quantization
        The scheme by which its linear layers are quantized, or ``None``.
    """

    dtype: str
    channels_last: bool
    quantization: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the form that a file describes.

        Raises
        ------
        ConfigError
            If it describes none.
        """
        keys = values.keys() - {"quantization"}
        if keys != {"dtype", "channels_last"} or not isinstance(values["channels_last"], bool):
            msg = f"inference={shown(dict(values))}: it has a dtype and channels_last, which is true or false"
            raise ConfigError(msg)
        scheme = values.get("quantization")
        scheme = None if scheme is None else one_of("quantization", scheme, SCHEMES)
        return cls(one_of("dtype", values["dtype"], DTYPES), values["channels_last"], scheme)

    def to_dict(self) -> dict[str, Any]:
        """Return what a file keeps of the form: the inverse of `from_dict`."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of weights and images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def lay_out(self, model: nn.Module) -> None:
        """Give a model its dtype and layout, in place, and the way to compute linear layers that is fastest here."""
        model.requires_grad_(requires_grad=False)
        self.cast(model)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.ndim == 4:
                tensor.data = tensor.data.contiguous(memory_format=self.memory_format)
        if all(parameter.device.type == "cpu" for parameter in model.parameters()):
            use_convolutions(model)

    def cast(self, model: nn.Module) -> None:
        """Give a model its dtype, in place."""
        for module in model.modules():
            tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
            for name, tensor in tensors:
                if tensor.is_floating_point() and not is_scale(module, name):
                    tensor.data = tensor.data.to(DTYPES[self.dtype])


class CompiledBody:
    """A body that is compiled for each shape of images anew.

    torch gives up after some shapes. Those after that are computed without being compiled. Copies of a backbone, and
    saved ones, are not compiled. On GPUs, torch records CUDA graphs, for each thread anew, and replays them. They read
    and write memory of their own. While one is recorded, CUDA forbids most calls of other threads.
    """

    def __init__(self, body: nn.Module) -> None:
        self._body = body
        self._has_graphs = any(parameter.device.type == "cuda" for parameter in body.parameters())
        arguments: dict[str, Any] = {"fullgraph": True, "dynamic": False}
        if self._has_graphs:
            arguments["options"] = {"triton.cudagraphs": True}
        if "isolate_recompiles" in signature(torch.compile).parameters:  # else all backbones together have one limit
            arguments["isolate_recompiles"] = True
        self._compiled = torch.compile(body, **arguments)
        self._done: set[torch.Size] = set()
        self._left_alone: set[torch.Size] = set()
        self._one_at_a_time = threading.Lock()
        self._replayed: torch.cuda.Event | None = None

    def __reduce__(self) -> Any:
        """Leave it out of copies and pickles."""
        return type(None), ()

    def __call__(self, x: Tensor) -> Any:
        """Run the body. If it cannot be compiled for the first images, raise whatever torch does."""
        if x.shape in self._left_alone:
            return self._body(x)
        try:
            output = self._replay(x) if self._has_graphs else self._compiled(x)
        except Exception as err:  # torch's compiler can raise anything
            if not self._done or x.shape in self._done or isinstance(err, torch.OutOfMemoryError):
                raise
            output = self._body(x)  # if the images are to blame, this says so
            _log.warning("Images %s: computed without being compiled (%s)", tuple(x.shape), first_line(err))
            self._left_alone.add(x.shape)
        else:
            self._done.add(x.shape)
        return output

    def _replay(self, x: Tensor) -> list[Tensor]:
        """Return maps that stay as they are when the graph is replayed, in whatever thread and stream it was."""
        with self._one_at_a_time, torch.cuda.device(x.device):
            stream = torch.cuda.current_stream()
            if self._replayed is not None:
                stream.wait_event(self._replayed)
            maps = [y.clone() for y in self._compiled(x)]
            self._replayed = stream.record_event()
        return maps


def restructure(body: nn.Module, network: nn.Module, rules: CheckpointRules, images: Tensor) -> CheckpointRules:
    """Join branches and fold norms of a network, in place. Return how checkpoints are matched to what is left.

    Parameters
    ----------
    body
        What runs the network.
    network
        In it.
    rules
        Those of the network as it is.
    images
        An input of `body`, on the meta device.
    """
    before = {name: value.shape for name, value in network.state_dict().items()}
    reparameterize(network)
    folds = find_folds(body, path_to(body, network), images)
    fold(network, folds)
    if before == {name: value.shape for name, value in network.state_dict().items()}:
        return rules
    assert rules.build is not None, "every backbone knows how it was built"
    return replace(rules, converters=(), build=partial(_build, rules.build, folds), is_folded=True)


def quantized(network: nn.Module, form: InferenceForm, rules: CheckpointRules) -> CheckpointRules:
    """Quantize the linear layers of a network, in place. Return how checkpoints are matched to what is left.

    Parameters
    ----------
    network
        As it is after `restructure`.
    form
        With the scheme.
    rules
        Those of the network as it is.

    Raises
    ------
    UnsupportedError
        If it has no linear layers, or torchao is missing.
    """
    check_installed()
    form.cast(network)
    if quantize_linear(network, _scheme(form)) == 0:
        msg = (
            f"quantization={form.quantization!r}: this {type(network).__name__} has no linear layers, and nothing else "
            'is quantized this way; quantize its convolutions by export_onnx(..., quantize="int8_static").'
        )
        raise UnsupportedError(msg)
    assert rules.build is not None, "every backbone knows how it was built"
    return replace(rules, converters=(), build=partial(_build_quantized, rules.build, form), is_folded=True)


def _build_quantized(build: Callable[[], nn.Module], form: InferenceForm) -> nn.Module:
    network = build()
    quantize_linear(network, _scheme(form))
    return network


def _scheme(form: InferenceForm) -> str:
    assert form.quantization is not None, "the caller asks"
    return form.quantization


def _build(build: Callable[[], nn.Module], folds: list[Fold]) -> nn.Module:
    network = build()
    network.eval()
    reparameterize(network)
    fold(network, folds)
    return network
