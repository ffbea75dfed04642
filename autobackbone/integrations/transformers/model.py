"""A backbone as a model of transformers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import BackboneMixin, PreTrainedModel
from transformers.modeling_outputs import BackboneOutput

from autobackbone.errors import ConfigError, InputSizeError, UnsupportedError, WeightsMismatchError
from autobackbone.integrations.transformers.config import AutobackboneConfig
from autobackbone.weights.materialize import init_buffers
from autobackbone.weights.rules import COUNTER

if TYPE_CHECKING:
    from collections.abc import Iterator

_EPS = 1e-5  # of the frozen batch norms of transformers, whatever that of the norm was


class AutobackboneModel(BackboneMixin, PreTrainedModel):
    """A `FeatureBackbone` as transformers' heads take one.

    Parameters
    ----------
    config
        As `backbone_config` makes it.

    Attributes
    ----------
    backbone : FeatureBackbone
        The backbone.
    """

    config_class = AutobackboneConfig
    config: AutobackboneConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["FeatureBackbone"]  # noqa: RUF012 - as every model of transformers has it
    # The libraries choose how attention is computed. A head says it to its backbone too, whatever it is.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: AutobackboneConfig) -> None:
        value: Any = config
        if not isinstance(value, AutobackboneConfig):
            msg = f"An AutobackboneConfig is needed, as backbone_config() makes it, got {type(value).__name__}."
            raise ConfigError(msg)
        super().__init__(config)
        dtype = torch.get_default_dtype()
        with _default_dtype(torch.float32):  # tables are computed in it, as those of a backbone that is cast
            backbone = config.create()
        self.backbone = backbone.to(dtype)
        self._checkpoints = False
        self._is_unfilled = next(backbone.parameters()).is_meta
        self.num_features = list(backbone.channels)
        norms = [(name, m) for name, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)]
        self._norms = [(name, m) for name, m in norms if type(m) is not nn.BatchNorm2d or m.eps != _EPS]
        self._has_norms = False
        self._aliases = _aliases(backbone)
        if self._aliases:
            self.register_state_dict_post_hook(_drop_aliases)
            self.register_load_state_dict_pre_hook(_add_aliases)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Compute the maps.

        Parameters
        ----------
        pixel_values
            ``(B, C, H, W)`` images, normalized as ``backbone.input_spec`` says.
        output_hidden_states
            Return the maps of all levels too, also of those that are not in ``out_features``.
        output_attentions
            Not supported.
        return_dict
            Return a `BackboneOutput`, not a tuple.

        Returns
        -------
        BackboneOutput
            ``feature_maps``, in the layout of the config, and ``hidden_states``, always ``(B, C, H, W)``.

        Raises
        ------
        UnsupportedError
            If attentions are asked for, or anything else that a backbone of this package has not.
        InputError
            If the backbone does not accept the images.
        """
        config = self.config
        if config.output_attentions if output_attentions is None else output_attentions:
            msg = "output_attentions=True: the libraries of these backbones do not return attentions; leave it out."
            raise UnsupportedError(msg)
        for name, value in kwargs.items():
            if value is not None:
                msg = f"{name}=: a backbone of this package takes images and nothing else; leave it out."
                raise UnsupportedError(msg)
        if not self._has_norms:
            self._keep_norms()
        with_all = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        all_maps, first = self._maps(pixel_values)
        shown = [self.stage_names.index(name) for name in self.out_features]
        maps: Any = tuple(self._lay_out(all_maps[i], first[i], pixel_values) for i in shown)
        output = BackboneOutput(feature_maps=maps, hidden_states=all_maps if with_all else None)
        return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def forward_with_filtered_kwargs(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the maps; see `forward`. What cannot be honored is an error, not left out."""
        return self(*args, **kwargs)

    def _maps(self, images: Tensor) -> tuple[Any, list[Tensor | None]]:
        """Return the maps of all levels, and the class tokens that the layout asks for."""
        if self.config.layout != "tokens" or "class" not in self.backbone.prefix_tokens:
            maps = tuple(self.backbone(images))
            return maps, [None] * len(maps)
        levels = self.backbone.forward_tokens(images)
        return tuple(level.map for level in levels), [level.prefix["class"] for level in levels]

    def _lay_out(self, y: Tensor, class_token: Tensor | None, images: Tensor) -> Tensor:
        """Return a map in the layout of the config, the mean in the place of a class token that there is not."""
        if self.config.layout == "maps":
            return y
        sizes, cells = images.shape[-2:], y.shape[-2:]
        stride = self.config.strides[-1]
        if any(size // stride != count for size, count in zip(sizes, cells, strict=True)):
            msg = (
                f"Images of {sizes[0]}x{sizes[1]} give maps of {cells[0]}x{cells[1]}, and the head counts patches "
                f"of {stride} pixels; give sizes that are multiples of {stride}, and levels of this stride alone."
            )
            raise InputSizeError(msg)
        tokens = y.flatten(2).transpose(1, 2)
        if self.config.layout == "patches":
            return tokens
        first = tokens.mean(1, keepdim=True) if class_token is None else class_token
        return torch.cat((first, tokens), dim=1)

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether activations are recomputed in the backward pass."""
        return bool(vars(self).get("_checkpoints", False))

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        if enable == self.gradient_checkpointing:
            return
        if not any(hasattr(module, "gradient_checkpointing") for module in self.backbone.modules()):
            self.backbone.set_grad_checkpointing(enable)
        self._checkpoints = enable  # blocks of transformers' own are set by it, one by one

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; what is frozen stays in evaluation mode."""
        self._keep_norms()
        super().train(mode)
        return self

    def _keep_norms(self) -> None:
        """Keep what else a batch norm does where a head has put a frozen one in its place.

        Heads replace each `torch.nn.BatchNorm2d` and what derives from it by a norm of their own, with an epsilon of
        1e-5. The norms of many backbones have an activation in them, or another epsilon.
        """
        for name, norm in self._norms:
            other = self.backbone.get_submodule(name)
            if other is not norm and not isinstance(other, FrozenNorm) and not list(other.parameters()):
                self.backbone.set_submodule(name, FrozenNorm(other, norm))
        self._has_norms = True

    def _initialize_weights(self, module: nn.Module, *_: Any, **__: Any) -> None:
        """Leave the modules alone, which are initialized or loaded. Called for each of them, last for this one."""
        if module is self:
            self._init_weights(module)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Compute what a model that is loaded has not found in its file. It was built without storage.

        Raises
        ------
        WeightsMismatchError
            If the file has a part of the backbone only.
        """
        if module is not self or not self._is_unfilled or torch.get_default_device().type == "meta":
            return
        init_buffers(self.backbone.network, self.backbone.autobackbone.rules)
        state = self.backbone.state_dict(keep_vars=True)  # under every name
        missing = [name for name, tensor in state.items() if not _is_loaded(tensor)]
        names = [name for name in missing if not name.endswith(COUNTER)]
        if names and any(_is_loaded(tensor) for tensor in state.values()):
            msg = (
                f"The file has no values, or values of another shape, for {len(names)} of the {len(state)} tensors of "
                f"the backbone (first {names[0]!r}), and a backbone is loaded whole or not at all. If the model was "
                "saved with this backbone, transformers has taken these names for those of an older version of the "
                "head: then save model.state_dict(), and load it into a new model."
            )
            raise WeightsMismatchError(msg)
        if missing:
            with torch.device("cpu"), _default_dtype(torch.float32):
                values = self.config.create().state_dict()
            for name in missing:
                target = self.backbone.get_submodule(name.rpartition(".")[0])
                getattr(target, name.rpartition(".")[2]).copy_(values[name])
        self._is_unfilled = False


class FrozenNorm(nn.Module):
    """A batch norm with fixed statistics and weights, and with all else that the norm in its place did.

    Parameters
    ----------
    frozen
        What a head has put in the place of the norm: its buffers are named as those of the norm are.
    norm
        The norm.
    """

    def __init__(self, frozen: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        for name, value in frozen.named_buffers(recurse=False):
            self.register_buffer(name, value)
        self._norm = (norm,)  # in a tuple, it is no module of this one, and its tensors are none

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(B, C, H, W)``."""
        norm = self._norm[0].eval()
        y: Tensor = functional_call(norm, dict(self.named_buffers(recurse=False)), (x,))
        return y


def _aliases(backbone: nn.Module) -> dict[str, str]:
    """Return the names of tensors that have another name too, and the first name of each."""
    first: dict[int, str] = {}
    state = backbone.state_dict(keep_vars=True)
    names = [(name, first.setdefault(id(tensor), name)) for name, tensor in state.items()]
    return {f"backbone.{name}": f"backbone.{other}" for name, other in names if name != other}


# transformers saves a tensor once, and then takes its other names for tensors that a file lacks.


def _drop_aliases(model: AutobackboneModel, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in model._aliases:  # noqa: SLF001 - a hook of the class
        state.pop(f"{prefix}{name}", None)


def _add_aliases(model: AutobackboneModel, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, other in model._aliases.items():  # noqa: SLF001 - a hook of the class
        if f"{prefix}{other}" in state:
            state.setdefault(f"{prefix}{name}", state[f"{prefix}{other}"])


def _is_loaded(tensor: Tensor) -> bool:
    """Whether transformers has given a tensor its values."""
    return tensor.is_meta or getattr(tensor, "_is_hf_initialized", False)  # offloaded ones stay on meta


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
