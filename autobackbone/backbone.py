"""FeatureBackbone: the contract, for every source."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from autobackbone.assembly import FeatureParts, assemble_features
from autobackbone.batch_statistics import count_batches_once, lone_value_error
from autobackbone.config import FeatureBackboneConfig
from autobackbone.errors import ConfigError, InputError, UnsupportedError
from autobackbone.frozen import Frozen
from autobackbone.inference_form import CompiledBody, InferenceForm, quantized, restructure
from autobackbone.input_spec import InputSpec, mismatch_error
from autobackbone.levels import FeatureInfo, FeatureLevel, NativeLevel, cells, round_up
from autobackbone.pyramid import crop, fit, pad, resample
from autobackbone.saved_features import SavedFeatures
from autobackbone.sources.seam import change_attachment
from autobackbone.unwrapping import submodule
from autobackbone.weights.checkpoint import Checkpoint
from autobackbone.weights.report import WeightsReport
from autobackbone.weights.rules import CheckpointRules

if TYPE_CHECKING:
    from autobackbone.quantization_report import QuantizationReport


class LevelTokens(NamedTuple):
    """A level of a transformer: its map, and the tokens that are no part of it.

    Attributes
    ----------
    map
        ``(B, channels, ceil(H / stride), ceil(W / stride))``, as `FeatureBackbone.forward` gives it.
    prefix
        ``(B, N, C)`` tokens by kind (``"class"``, ``"distillation"``, ``"register"``), in their order. C is the width
        of the transformer.
    """

    map: Tensor
    prefix: dict[str, Tensor]


class FeatureBackbone(SavedFeatures):
    """A backbone that returns feature maps.

    The map of level *l* has the shape ``(B, channels[l], ceil(H / strides[l]), ceil(W / strides[l]))``. Create one with
    `create_feature_backbone`.

    Parameters
    ----------
    parts
        The network, the levels to return, and the config.

    Attributes
    ----------
    native_levels : tuple of NativeLevel
        Every native level of the architecture, by index.
    levels : tuple of FeatureLevel
        Name, native index, channels, stride, module and exactness of each map.
    feature_info : FeatureInfo
        The same under timm's interface.
    config : FeatureBackboneConfig
        With concrete indices or strides.
    inference : InferenceForm or None
        How it was optimized for inference; ``None`` if it was not.
    quantization_report : QuantizationReport or None
        What `quantize` changed; ``None`` if it was not quantized, or was loaded.
    compiled : CompiledBody or None
        The compiled body, if it is optimized and compiled.
    """

    size_divisibility = 0  # detectron2's word for: images need not be padded

    def __init__(self, parts: FeatureParts) -> None:
        super().__init__()
        native = parts.native
        self.body = native.module
        self.pyramid = parts.pyramid
        self.native_levels: tuple[NativeLevel, ...] = parts.native_levels
        self.levels: tuple[FeatureLevel, ...] = parts.levels
        self.feature_info = FeatureInfo(parts.native_levels, parts.levels)
        self.config = parts.config
        path = f"body.{native.attachment.network_path}".rstrip(".")
        self.autobackbone = replace(native.attachment, network_path=path)
        self._frozen = Frozen()  # of the body
        self.inference: InferenceForm | None = None
        self.quantization_report: QuantizationReport | None = None
        self.compiled: CompiledBody | None = None
        self._built_size = native.built_size
        self._portable_fields = native.portable_fields
        indices = sorted({level.index for level in parts.levels})
        # Per level: the position of its map in the body's list, and the native level that it comes from.
        self._outputs = tuple((indices.index(lv.index), parts.native_levels[lv.index], lv) for lv in parts.levels)
        self._simple = tuple(i for i, level in enumerate(parts.levels) if level.method == "simple")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map, in order."""
        return tuple(level.channels for level in self.levels)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each map, in order."""
        return tuple(level.stride for level in self.levels)

    @property
    def out_channels(self) -> int:
        """Channels of the last map."""
        return self.levels[-1].channels

    @property
    def input_spec(self) -> InputSpec:
        """Channels, size and normalization of the images, the minimum size, and whether any size is accepted."""
        return self.autobackbone.input_spec

    @input_spec.setter
    def input_spec(self, spec: InputSpec) -> None:
        change_attachment(self, input_spec=spec)

    @property
    def weights_report(self) -> WeightsReport | None:
        """What was loaded last; ``None`` for random weights."""
        return self.autobackbone.weights_report

    @weights_report.setter
    def weights_report(self, report: WeightsReport | None) -> None:
        change_attachment(self, weights_report=report)

    @property
    def license(self) -> str | None:
        """License of the published weights; ``None`` if it is not known."""
        return self.autobackbone.license

    @license.setter  # noqa: A003 - the name is public
    def license(self, license_name: str | None) -> None:
        change_attachment(self, license=license_name)

    @property
    def network(self) -> nn.Module:
        """The library's own module, under its own names: timm's model, or transformers' modules of DINOv3."""
        return submodule(self, self.autobackbone.network_path)

    @property
    def checkpoint_target(self) -> tuple[nn.Module, CheckpointRules]:
        """The library's own module, and how checkpoints are matched to it."""
        return self.network, self.autobackbone.rules

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the maps.

        Parameters
        ----------
        x
            ``(B, C, H, W)`` images, floating point, normalized as `input_spec` says.

        Returns
        -------
        list of Tensor
            One ``(B, channels[l], ceil(H / strides[l]), ceil(W / strides[l]))`` map per level, in order.

        Raises
        ------
        InputError
            If `x` is not a 4-D floating point tensor with images of the right number of channels, or is one image too
            small for batch norm to train on.
        InputSizeError
            If H or W is below the minimum, or not the one size that the architecture takes.
        """
        return self._at_levels(self._run(self.body, x), x)

    def forward_dict(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the maps by level name; see `forward`."""
        return {level.name: y for level, y in zip(self.levels, self(x), strict=True)}

    def output_shape(self) -> dict[str, FeatureLevel]:
        """Return the levels by name, each with ``channels`` and ``stride``, as detectron2's backbones do."""
        return {level.name: level for level in self.levels}

    @property
    def prefix_tokens(self) -> dict[str, int]:
        """How many tokens a transformer has beside those of its maps, by kind and in order; empty if it has none.

        Kinds are ``"class"``, ``"distillation"`` and ``"register"``.
        """
        return dict(self.body.prefix_tokens)  # type: ignore[arg-type]

    def forward_tokens(self, x: Tensor) -> list[LevelTokens]:
        """Compute the maps of a transformer, and its prefix tokens after the same blocks.

        Where the maps are taken through the final norm, the tokens are, too. Hooks on modules see this pass as they
        see that of `forward`; a backbone compiled for inference runs it without being compiled.

        Parameters
        ----------
        x
            As `forward` takes it.

        Returns
        -------
        list of LevelTokens
            One per level, in order: ``(map, prefix)``.

        Raises
        ------
        UnsupportedError
            If the architecture has no prefix tokens, or its library does not return them.
        InputError
            As of `forward`.
        """
        counts = self.prefix_tokens
        if not counts:
            msg = f"{self.config.model_name!r} has no prefix tokens beside its maps; call it as usual."
            raise UnsupportedError(msg)
        pairs = self._run(self.body.forward_tokens, x)  # type: ignore[arg-type]
        maps = self._at_levels([y for y, _ in pairs], x)
        tokens = [pairs[i][1].split(list(counts.values()), dim=1) for i, _, _ in self._outputs]
        return [LevelTokens(y, dict(zip(counts, t, strict=True))) for y, t in zip(maps, tokens, strict=True)]

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that images are padded to at the bottom and right, in pixels."""
        divisor = self.input_spec.size_divisor
        return self._built_size or (round_up(height, divisor), round_up(width, divisor))

    @property
    def _pads(self) -> bool:
        return self._built_size is not None or self.input_spec.size_divisor > 1

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; what is frozen stays in evaluation mode.

        Raises
        ------
        UnsupportedError
            If it is to be trained and is optimized for inference.
        """
        if mode and self.inference is not None:
            msg = "A backbone that is optimized for inference cannot be trained; train the one that it was made from."
            raise UnsupportedError(msg)
        super().train(mode)
        if mode:
            self._frozen.set_eval(self.body)
        return self

    @torch.inference_mode(mode=False)
    def to_inference(self, form: InferenceForm) -> None:
        """Restructure it for inference, in place and for good; see `optimize_for_inference`.

        Raises
        ------
        UnsupportedError
            If the architecture's own code to join branches fails, it is to be quantized and there is nothing that the
            scheme quantizes, or torchao is missing.
        """
        self.eval()  # what follows looks at a pass
        if self.inference is None:
            spec = self.input_spec
            dtype = next(self.body.parameters()).dtype
            images = torch.empty(1, spec.in_chans, *self.padded_size(*spec.size), dtype=dtype, device="meta")
            change_attachment(self, rules=restructure(self.body, self.network, self.autobackbone.rules, images))
        if form.quantization is not None and (self.inference is None or self.inference.quantization is None):
            change_attachment(self, rules=quantized(self.network, form, self.autobackbone.rules))
        self.inference = form
        form.lay_out(self)
        self.eval()  # new modules too

    def _run(self, run: Callable[[Tensor], Any], x: Tensor) -> list[Any]:
        """Check and pad images, and run the body, or a method of it."""
        self.input_spec.check(x)
        if self._pads:
            x = pad(x, self.padded_size(*x.shape[-2:]))
        try:
            return run(x) if self.inference is None else self._infer(run, x)  # type: ignore[no-any-return]
        except (NotImplementedError, RuntimeError, ValueError) as err:
            error = None if isinstance(err, torch.OutOfMemoryError) else mismatch_error(self.body, x)
            if error is None and isinstance(err, ValueError):
                error = lone_value_error(self.body, x)
            if error is None:
                raise
            raise error from err

    def _infer(self, run: Callable[[Tensor], Any], x: Tensor) -> Any:
        assert self.inference is not None, "the caller asks"
        if x.requires_grad and torch.is_grad_enabled():
            msg = "A backbone that is optimized for inference computes no gradients; use the one that it was made from."
            raise InputError(msg)
        if run is self.body and self.compiled is not None and not torch.compiler.is_compiling():  # nor exporting
            run = self.compiled
        with torch.no_grad():
            return run(x.contiguous(memory_format=self.inference.memory_format))

    @property
    def frozen(self) -> frozenset[str]:
        """Parameters of the body in the stages that are frozen, without what was unfrozen by hand since."""
        return frozenset(
            name for name, p in self.body.named_parameters() if name in self._frozen.stages and not p.requires_grad
        )

    def freeze(self, parameters: Iterable[str], modules: Iterable[str]) -> None:
        """Freeze stages of the body, and unfreeze those that an earlier call froze; see `freeze_stages`.

        Parameters
        ----------
        parameters
            Names of parameters of the body, to require no gradient.
        modules
            Names of modules of the body, to stay in evaluation mode whatever `train` says.
        """
        self._frozen.freeze_stages(self.body, parameters, modules)
        self.train(self.training)

    def freeze_norms(self, parameters: Iterable[str], modules: Iterable[str]) -> None:
        """Freeze norms of the body, and unfreeze those that an earlier call froze; see `autobackbone.freeze_norms`.

        Parameters
        ----------
        parameters
            Names of parameters of the body, to require no gradient.
        modules
            Names of norms of the body, to stay in evaluation mode whatever `train` says.
        """
        self._frozen.freeze_norms(self.body, parameters, modules)
        self.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them.

        Batch norms count each batch once. Call it again after replacing norms, as synchronizing them does.

        Raises
        ------
        UnsupportedError
            If the architecture cannot.
        """
        self.body.set_grad_checkpointing(enable)  # type: ignore[operator]
        count_batches_once(self.body, enable)

    @classmethod
    def from_config(cls, config: FeatureBackboneConfig, checkpoint: Checkpoint | None = None) -> Self:
        """Create a backbone; `create_feature_backbone` lists the errors.

        Parameters
        ----------
        config
            What to create.
        checkpoint
            The weights that the config names, if they are open.
        """
        value: Any = config
        if not isinstance(value, FeatureBackboneConfig):
            msg = f"A FeatureBackboneConfig is needed, got {type(value).__name__}."
            raise ConfigError(msg)
        with torch.inference_mode(mode=False):  # it can be trained, whatever mode the caller is in
            return cls(assemble_features(config, checkpoint))

    def extra_repr(self) -> str:
        """Return the levels, for printing."""
        return ", ".join(f"{level.name}: {level.channels}x1/{level.stride}" for level in self.levels)

    def _at_levels(self, maps: list[Tensor], x: Tensor) -> list[Tensor]:
        """Return the maps of the levels, of those of the body and the images."""
        image = x.shape[-2], x.shape[-1]
        full = self.padded_size(*image)
        result = [self._resize(maps[i], native, level, image, full) for i, native, level in self._outputs]
        if self.pyramid is None:
            return result
        simple = self.pyramid([result[i] for i in self._simple], image)
        for i, y in zip(self._simple, simple, strict=True):
            result[i] = y
        return result

    def _resize(
        self, y: Tensor, native: NativeLevel, level: FeatureLevel, image: tuple[int, int], full: tuple[int, int]
    ) -> Tensor:
        """Return a map at the size of the contract. That of a simple pyramid's level keeps its native stride."""
        if not native.exact:
            y = fit(y, cells(full, native.stride))
        if level.method == "resample":
            return resample(y, native.stride, level.stride, cells(image, level.stride))
        if not self._pads:
            return y
        return crop(y, cells(image, native.stride))
