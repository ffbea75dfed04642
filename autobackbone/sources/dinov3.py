"""The DINOv3 source: Meta's ViTs and ConvNeXts, as transformers has them.

O. Siméoni et al., "DINOv3", 2025, https://arxiv.org/abs/2508.10104. The sizes are those of the published weights.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel, DINOv3ViTConfig, DINOv3ViTModel

from autobackbone.cache import is_no_json, quarantine
from autobackbone.catalog import Row
from autobackbone.checkpoints import fetch_weights, find_files, read_checkpoint
from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.errors import BackboneError, ConfigError, UnsupportedError, WeightsError
from autobackbone.fast_init import build_from, is_loading
from autobackbone.hub import fetch
from autobackbone.input_spec import InputSpec, repeat_to
from autobackbone.levels import NativeLevel
from autobackbone.matching import Rules
from autobackbone.materialize import watch
from autobackbone.names import DINOV3, DINOV3_REPOS, ModelRef
from autobackbone.sources import NativeModel
from autobackbone.sources.dinov3_names import StateDict, to_transformers
from autobackbone.sources.published import check_published
from autobackbone.sources.unused import make_buffers
from autobackbone.values import MAX_COUNT, as_integer, shown
from autobackbone.weights import WeightsReport, with_new_head

# Short name -> width, heads, width inside the MLP, blocks, whether the MLP is gated, and timm's name.
_VITS = {
    "dinov3_vits16": (384, 6, 1536, 12, False, "vit_small_patch16_dinov3"),
    "dinov3_vits16plus": (384, 6, 1536, 12, True, "vit_small_plus_patch16_dinov3"),
    "dinov3_vitb16": (768, 12, 3072, 12, False, "vit_base_patch16_dinov3"),
    "dinov3_vitl16": (1024, 16, 4096, 24, False, "vit_large_patch16_dinov3"),
    "dinov3_vith16plus": (1280, 20, 5120, 32, True, "vit_huge_plus_patch16_dinov3"),
    "dinov3_vit7b16": (4096, 32, 8192, 40, True, "vit_7b_patch16_dinov3"),
}
_WITHOUT_QV_BIAS = ("dinov3_vit7b16",)
# Short name -> width of the first stage, each next one being twice as wide; blocks of the third stage; timm's name.
_CONVNEXTS = {
    "dinov3_convnext_tiny": (96, 9, "convnext_tiny"),
    "dinov3_convnext_small": (96, 27, "convnext_small"),
    "dinov3_convnext_base": (128, 27, "convnext_base"),
    "dinov3_convnext_large": (192, 27, "convnext_large"),
}
# Mean and standard deviation of the images that the weights were made on: from the web, and from satellites.
_WEB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SATELLITE = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)

_SIZE = (224, 224)
_PROCESSING = ("bilinear", 1.0, "squash")  # interpolation, crop_pct, crop_mode
LICENSE = "dinov3-license"

_HFConfig = DINOv3ViTConfig | DINOv3ConvNextConfig
# Arguments of the HF config that have a field of ours.
_FIELDS_OF = {"num_channels": "in_chans", "image_size": "img_size"}
# Arguments that say where weights come from, and nothing of the architecture.
_LOADING = ("cache_dir",)
# Arguments of the HF config that say what transformers' own backbones return; norm says it here.
_WITHOUT_USE = ("apply_layernorm", "reshape_hidden_states")
# Ways to compute attention that are transformers' own; other names are of code on the Hub.
_ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
_WITH_LAST = (99999,)  # in timm's patterns: belongs to the layer before
_FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# Arguments of the HF config that count something.
_COUNTS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")


def declared_row(name: str) -> Row:
    """Return what is published of a model, as the catalogue holds it: the weights that the name means first."""
    repos = sorted((repo for repo, short in DINOV3_REPOS.items() if short == name), key=lambda r: r != DINOV3[name])
    kind: Any = DINOv3ViTConfig if name in _VITS else DINOv3ConvNextConfig
    tags = {}
    for repo in repos:
        mean, std = _WEB if repo == DINOV3[name] else _SATELLITE
        tags[repo] = [[3, *_SIZE, list(mean), list(std), *_PROCESSING], LICENSE, repo]
    return {"source": "dinov3", "family": kind.model_type, "input": tags[repos[0]][0], "tags": tags}


class DINOv3Source:
    """A DINOv3 reference and a config, resolved.

    Raises
    ------
    ConfigError
        If `config` holds an argument that the HF config does not take, or that cannot be honoured.
    UnsupportedError
        If the architecture does not have what `config` asks for.
    """

    def __init__(self, ref: ModelRef, config: BackboneConfig | FeatureBackboneConfig) -> None:
        self.name = ref.name
        self.repo = ref.tag or DINOV3[ref.name]
        self.revision = ref.revision
        # Of each size there are weights made on images of the web, which the short name means, and of satellites.
        self.is_satellite = self.repo != DINOV3[ref.name]
        self.config = config
        self.is_vit = ref.name in _VITS
        self._norm = False
        self._content: Mapping[str, Any] | None = None
        if isinstance(config, FeatureBackboneConfig):
            self._norm = self.is_vit if config.norm is None else config.norm
            self._check_features(config)
        self._kind: Any = DINOv3ViTConfig if self.is_vit else DINOv3ConvNextConfig
        self._arguments = self._arguments_of(config)
        self.hf_config = self._shortened()

    @property
    def levels(self) -> tuple[NativeLevel, ...]:
        """Every native level, by index: a ViT's blocks, or a ConvNeXt's stages."""
        cfg: Any = self.hf_config
        if self.is_vit:
            width, patch, count = cfg.hidden_size, cfg.patch_size, cfg.num_hidden_layers
            return tuple(_level(i, width, patch, f"model.layer.{i}") for i in range(count))
        return tuple(_level(i, width, 4 * 2**i, f"model.stages.{i}") for i, width in enumerate(cfg.hidden_sizes))

    def build(self, indices: tuple[int, ...]) -> NativeModel:
        """Build the backbone up to the deepest of `indices`, which are ascending.

        Raises
        ------
        WeightsError
            If the weights cannot be had, or do not fit.
        """
        deepest = self.levels[indices[-1]]
        kind = ViTLevels if self.is_vit else ConvNeXtLevels
        module, report = self._build(partial(kind, indices=indices, norm=self._norm), depth=indices[-1] + 1)
        spec = self._input_spec(min_size=1, divisor=deepest.divisor)
        portable = {"extra_kwargs": _portable_arguments(self.config.extra_kwargs)}
        return NativeModel(module, spec, None, report, LICENSE, portable, self._content)

    def build_pooled(self) -> NativeModel:
        """Build the whole backbone, with pooled output or a head.

        Raises
        ------
        WeightsError
            If the weights cannot be had, or do not fit.
        """
        size = self.levels[-1].stride
        kind = PooledViT if self.is_vit else PooledConvNeXt
        drop = self.config.drop_rate
        classes = self.config.num_classes if isinstance(self.config, BackboneConfig) else 0
        known = self._input_spec(min_size=size, divisor=1, is_asked=False)
        create = partial(kind, input_spec=known, num_classes=classes, drop_rate=drop)
        module, report = self._build(create, depth=len(self.levels))
        module.input_spec = self._input_spec(min_size=size, divisor=1)  # after the weights, which say what is wrong
        if module.num_classes != classes:
            before = module.state_dict(keep_vars=True)
            module.reset_classifier(classes)
            report = report and with_new_head(report, module, before)
        return NativeModel(module, module.input_spec, None, report, LICENSE)

    def _rules(self, module: nn.Module, create: Callable[[Any], Any], cut: _HFConfig) -> Rules:
        """Return how checkpoints are matched to `module`, which has the first blocks or stages: those of `cut`."""
        return Rules(
            optional=("head.",),
            known=frozenset(self._names(list(module.state_dict()))),
            converters=(_convert,),
            build=partial(_create, create, cut),
        )

    def _names(self, names: Sequence[str]) -> Iterator[str]:
        """Yield the names of the whole model's tensors, from those of one that was cut: blocks and stages are alike."""
        depths = range(len(self.levels))
        for name in names:
            block = re.fullmatch(r"(model\.layer\.)0(\..*)", name)
            stage = re.fullmatch(r"(model\.stages\.)0(\.(?:(layers\.)0\.)?(.*))", name)
            if block is not None:
                yield from (f"{block[1]}{i}{block[2]}" for i in depths)
            elif stage is not None and stage[3]:
                whole: Any = self.hf_config
                yield from (f"{stage[1]}{i}.layers.{j}.{stage[4]}" for i in depths for j in range(whole.depths[i]))
            elif stage is not None:
                yield from (f"{stage[1]}{i}{stage[2]}" for i in depths)
        norm = "norm" if self.is_vit else "layer_norm"
        yield from (*names, f"{norm}.weight", f"{norm}.bias")

    def _check_features(self, config: FeatureBackboneConfig) -> None:
        if config.output_stride != 32:
            msg = f"output_stride={config.output_stride}: {self.name!r} cannot be dilated; leave output_stride=32."
            raise UnsupportedError(msg)
        if config.norm and not self.is_vit:
            msg = f"norm=True: {self.name!r} has no final norm for its maps; leave norm=None."
            raise UnsupportedError(msg)
        if config.drop_rate:
            msg = (
                f"drop_rate={config.drop_rate}: there is no dropout in the features of {self.name!r}; leave "
                "drop_rate=0, or set extra_kwargs={'attention_dropout': ...} for a ViT."
            )
            raise ConfigError(msg)

    def _arguments_of(self, config: BackboneConfig | FeatureBackboneConfig) -> dict[str, Any]:
        """Return the arguments of the HF config."""
        known = _argument_names(self._kind)
        ours = {f.name for f in fields(config)}
        arguments = _published_sizes(self.name)
        for name, value in config.extra_kwargs.items():
            field = _FIELDS_OF.get(name, name)
            own = getattr(config, field, None)
            if field in ours and value != (list(own) if isinstance(own, tuple) else own):
                contradicted = f"{field}={getattr(config, field)!r}"
                msg = f"extra_kwargs[{name!r}]={value!r} contradicts {contradicted}; set the field {field}."
                raise ConfigError(msg)
            if name in known:
                arguments[name] = value
            elif field not in ours and name not in _LOADING:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else "leave it out."
                msg = f"extra_kwargs[{name!r}]={value!r}: {self._kind.__name__} takes no such argument; {hint}"
                raise ConfigError(msg)
        if not isinstance(arguments.get("patch_size", 16), int):
            msg = f"extra_kwargs['patch_size']={arguments['patch_size']!r} is no integer; patches are square here."
            raise ConfigError(msg)
        for name in _COUNTS:
            if name in config.extra_kwargs and as_integer(config.extra_kwargs[name], 1, MAX_COUNT) is None:
                msg = f"extra_kwargs[{name!r}] must be a positive integer, got {shown(config.extra_kwargs[name])}."
                raise ConfigError(msg)
        if self.is_vit and arguments["hidden_size"] % (4 * arguments["num_attention_heads"]):
            msg = (
                f"extra_kwargs: hidden_size={arguments['hidden_size']} is no multiple of 4 times "
                f"num_attention_heads={arguments['num_attention_heads']}, which its position embedding needs."
            )
            raise ConfigError(msg)
        return arguments | {"num_channels": config.in_chans, "drop_path_rate": config.drop_path_rate}

    def _shortened(self, depth: int | None = None) -> _HFConfig:
        """Return the HF config of the first blocks or stages, or of all."""
        arguments = dict(self._arguments)
        if depth is not None and self.is_vit:
            arguments["num_hidden_layers"] = depth
        elif depth is not None:
            whole: Any = self.hf_config
            blocks = whole.depths[:depth]
            # Rates grow from the first block to the last; those of the blocks that there are stay what they are.
            share = (sum(blocks) - 1) / max(sum(whole.depths) - 1, 1)
            arguments |= {"depths": blocks, "hidden_sizes": whole.hidden_sizes[:depth]}
            arguments["drop_path_rate"] *= share
        try:
            return self._kind(**arguments)  # type: ignore[no-any-return]
        except Exception as err:  # strict dataclasses have errors of their own
            faults = " ".join(str(err).split())
            msg = f"{self._kind.__name__} does not take extra_kwargs={self.config.extra_kwargs}: {faults}"
            raise ConfigError(msg) from err

    def _build(self, create: Any, depth: int) -> tuple[Any, WeightsReport | None]:
        """Build the first blocks or stages, and load them."""
        cut = self._shortened(depth)

        def build() -> Any:
            try:
                module = _create(create, cut)
            except BackboneError:
                raise
            except _FAILURES as err:
                faults = " ".join(str(err).split())
                msg = f"transformers cannot build {self.name!r} with {shown(self.config.extra_kwargs)}: {faults}"
                raise ConfigError(msg) from err
            module.checkpoint_rules = self._rules(module, create, cut)
            watch(module)
            return module

        if not is_loading(self.config):
            return build(), None

        def whole() -> tuple[Any, Any]:
            module = build()
            return module, module  # all of it has transformers' names

        source, content = self._checkpoint()
        return build_from(content, source, whole)

    def _checkpoint(self) -> tuple[str, Mapping[str, Any]]:
        """Return what the weights are asked for by, and what is in them."""
        cache_dir = self.config.extra_kwargs.get("cache_dir")
        if self.config.weights is not None:
            source = self.config.weights
            self._content = read_checkpoint(find_files(source, cache_dir=cache_dir), source)
            return source, self._content
        files = fetch_weights(self.repo, revision=self.revision, cache_dir=cache_dir, remedy=self._remedy())
        return self.repo, read_checkpoint(files, self.repo)

    def _remedy(self) -> str:
        tag = "sat493m" if self.is_satellite else "lvd1689m"
        name = f"{_VITS[self.name][-1]}.{tag}" if self.is_vit else f"{_CONVNEXTS[self.name][-1]}.dinov3_{tag}"
        return f"The same weights are published without a gate as {name!r}, of timm."

    def _input_spec(self, *, min_size: int, divisor: int, is_asked: bool = True) -> InputSpec:
        """Return what is published of the images, the repository being asked for it where weights come from there."""
        mean, std = _SATELLITE if self.is_satellite else _WEB
        size = _SIZE
        if is_asked and is_loading(self.config) and self.config.weights is None:
            mean, std, size = self._published_input(mean, std, size)
        channels = self.config.in_chans
        interpolation, crop_pct, crop_mode = _PROCESSING
        return InputSpec(
            in_chans=channels,
            size=self.config.img_size or size,
            mean=repeat_to(tuple(mean), channels),
            std=repeat_to(tuple(std), channels),
            interpolation=interpolation,
            crop_pct=crop_pct,
            crop_mode=crop_mode,
            min_size=min_size,
            fixed_size=False,
            divisor=divisor,
        )

    def _published_input(self, *values: Any) -> tuple[Any, ...]:
        """Return mean, standard deviation and size from the repository, where it says them."""
        try:
            cache_dir = self.config.extra_kwargs.get("cache_dir")
            path = fetch(self.repo, ["preprocessor_config.json"], revision=self.revision, cache_dir=cache_dir)
            found = json.loads(path.read_text(encoding="utf-8"))
            size = (int(found["size"]["height"]), int(found["size"]["width"]))
            mean, std = found["image_mean"], found["image_std"]
            checked = check_published({"input_size": (len(mean), *size), "mean": mean, "std": std}, path.name)
            return (checked["mean"], checked["std"], size) if len(mean) == len(std) == 3 else values
        except (WeightsError, OSError, ValueError, KeyError, TypeError) as err:  # optional: what is published is known
            if is_no_json(err):
                quarantine(path)
            return values


def _create(create: Callable[[Any], Any], config: _HFConfig) -> Any:
    """Build transformers' model, and what is made of it."""
    return create(DINOv3ViTModel(config) if isinstance(config, DINOv3ViTConfig) else DINOv3ConvNextModel(config))


class _Network(nn.Module):
    """A network that is run block by block, each recomputed in the backward pass if asked for."""

    grad_checkpointing = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that tell layers by the names of parameters, as timm's models do."""
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that are not to be decayed, as timm's models do."""
        return set()

    def _run(self, block: nn.Module, x: Tensor, **kwargs: Any) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            block = partial(checkpoint, block, use_reentrant=False)  # type: ignore[assignment]
        return block(x, **kwargs)  # type: ignore[no-any-return]


class _ViT(_Network):
    """The parts of transformers' ViT, under its names."""

    def __init__(self, model: Any, *, norm: bool = True) -> None:
        super().__init__()
        self.embeddings = model.embeddings
        make_buffers(self.embeddings, ["mask_token"])  # masks patches in pretraining only
        self.rope_embeddings = model.rope_embeddings
        self.model = model.model
        self.norm = model.norm if norm else nn.Identity()
        self.num_features: int = model.config.hidden_size
        self.patch: int = model.config.patch_size

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002 - timm's signature
        """Return patterns that tell blocks by the names of parameters, as timm's models do."""
        return {"stem": r"^embeddings", "blocks": [(r"^model\.layer\.(\d+)", None), (r"^norm", _WITH_LAST)]}

    def no_weight_decay(self) -> set[str]:
        """Return the names of the tokens, as timm's models do."""
        return {f"embeddings.{name}" for name in ("cls_token", "register_tokens")}

    def tokens(self, x: Tensor, indices: Sequence[int], *, norm: bool = True) -> list[Tensor]:
        """Return the tokens after some blocks: ``(B, 1 + registers + patches, C)``."""
        x = x.to(self.embeddings.patch_embeddings.weight.dtype)
        hidden, position = self.embeddings(x), self.rope_embeddings(x)
        taken = []
        for i, block in enumerate(self.model.layer):
            hidden = self._run(block, hidden, position_embeddings=position)
            if i in indices:
                taken.append(self.norm(hidden) if norm else hidden)
        return taken

    def native_maps(self, x: Tensor) -> list[Tensor]:
        """Map images to the map of every block, without the final norm."""
        return self._maps(x, self.tokens(x, range(len(self.model.layer)), norm=False))

    def _maps(self, x: Tensor, tokens: list[Tensor]) -> list[Tensor]:
        height, width = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        patches = [t[:, -height * width :].transpose(1, 2) for t in tokens]
        return [p.reshape(p.shape[0], -1, height, width).contiguous() for p in patches]


class _ConvNeXt(_Network):
    """The parts of transformers' ConvNeXt, under its names."""

    def __init__(self, model: Any, *, norm: bool = True) -> None:
        super().__init__()
        self.model = model.model
        self.layer_norm = model.layer_norm if norm else nn.Identity()
        self.num_features: int = model.config.hidden_sizes[-1]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that tell stages, or blocks, by the names of parameters, as timm's models do."""
        stem = r"^model\.stages\.0\.downsample_layers"
        if coarse:
            return {"stem": stem, "blocks": [(r"^model\.stages\.(\d+)", None), (r"^layer_norm", _WITH_LAST)]}
        downsampling = (r"^model\.stages\.(\d+)\.downsample_layers", (0,))
        block = (r"^model\.stages\.(\d+)\.layers\.(\d+)", None)
        return {"stem": stem, "blocks": [downsampling, block, (r"^layer_norm", _WITH_LAST)]}

    def maps(self, x: Tensor, indices: Sequence[int]) -> list[Tensor]:
        """Return the maps after some stages: ``(B, C_l, H_l, W_l)``."""
        x = x.to(self.model.stages[0].downsample_layers[0].weight.dtype)
        taken = []
        for i, stage in enumerate(self.model.stages):
            for block in (*stage.downsample_layers, *stage.layers):
                x = self._run(block, x)
            if i in indices:
                taken.append(x)
        return taken

    def native_maps(self, x: Tensor) -> list[Tensor]:
        """Map images to the map of every stage."""
        return self.maps(x, range(len(self.model.stages)))


class ViTLevels(_ViT):
    """A ViT that returns the maps of some of its blocks, shallow to deep."""

    def __init__(self, model: Any, *, indices: Sequence[int], norm: bool) -> None:
        super().__init__(model, norm=norm)
        self.indices = tuple(indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``(B, C, H, W)`` images to one ``(B, C_l, H / patch, W / patch)`` map per index."""
        return self._maps(x, self.tokens(x, self.indices))


class ConvNeXtLevels(_ConvNeXt):
    """A ConvNeXt that returns the maps of some of its stages, shallow to deep."""

    def __init__(self, model: Any, *, indices: Sequence[int], norm: bool) -> None:
        super().__init__(model, norm=norm)
        self.indices = tuple(indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``(B, C, H, W)`` images to one ``(B, C_l, H_l, W_l)`` map per index."""
        return [y.contiguous() for y in self.maps(x, self.indices)]


class _Pooled(_Network):
    """What timm's models have around their features, for transformers' models."""

    num_features: int

    def _add_head(self, input_spec: InputSpec, num_classes: int, drop_rate: float) -> None:
        self.input_spec = input_spec
        self.head_hidden_size = self.num_features
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new linear one with `num_classes` outputs, or by none if that is 0."""
        self.num_classes = num_classes
        if num_classes == 0:
            self.head: nn.Module = nn.Identity()
            return
        like = next(self.parameters())
        head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        self.head = head

    def get_classifier(self) -> nn.Module:
        """Return the head; ``nn.Identity`` if there is none."""
        return self.head

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the features before pooling."""
        raise NotImplementedError

    def pool(self, features: Tensor) -> Tensor:
        """Pool features to ``(B, num_features)``."""
        raise NotImplementedError

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool features, and classify them unless `pre_logits`."""
        pooled = self.head_drop(self.pool(features))
        return pooled if pre_logits else self.head(pooled)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` images to ``(B, num_features)``, or to ``(B, num_classes)`` with a head."""
        return self.forward_head(self.forward_features(x))


class PooledViT(_Pooled, _ViT):
    """A ViT that returns its class token, after the final norm."""

    def __init__(self, model: Any, *, input_spec: InputSpec, num_classes: int, drop_rate: float) -> None:
        super().__init__(model)
        self._add_head(input_spec, num_classes, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the tokens after the final norm: ``(B, 1 + registers + patches, num_features)``."""
        self.input_spec.check(x)
        return self.tokens(x, [len(self.model.layer) - 1])[0]

    def pool(self, features: Tensor) -> Tensor:
        """Return the class token."""
        return features[:, 0]


class PooledConvNeXt(_Pooled, _ConvNeXt):
    """A ConvNeXt that returns the mean of its last map, after the final norm."""

    def __init__(self, model: Any, *, input_spec: InputSpec, num_classes: int, drop_rate: float) -> None:
        super().__init__(model)
        self._add_head(input_spec, num_classes, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map: ``(B, num_features, H / 32, W / 32)``."""
        self.input_spec.check(x)
        return self.maps(x, [len(self.model.stages) - 1])[0]

    def pool(self, features: Tensor) -> Tensor:
        """Return the mean over the map, after the final norm."""
        return self.layer_norm(features.mean((-2, -1)))  # type: ignore[no-any-return]


def _published_sizes(name: str) -> dict[str, Any]:
    """Return the arguments of the HF config that make the published architecture."""
    if name in _CONVNEXTS:
        width, blocks, _ = _CONVNEXTS[name]
        return {"hidden_sizes": [width * 2**i for i in range(4)], "depths": [3, 3, blocks, 3]}
    width, heads, inside, depth, gated, _ = _VITS[name]
    return {
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": inside,
        "num_hidden_layers": depth,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "query_bias": name not in _WITHOUT_QV_BIAS,
        "value_bias": name not in _WITHOUT_QV_BIAS,
        "num_register_tokens": 4,
        "pos_embed_rescale": None,  # a random augmentation in training; the features are to be the same each time
    }


def _argument_names(kind: Any) -> list[str]:
    """Return the arguments of an HF config that are of use here."""
    own = [name for name in kind.__annotations__ if not name.startswith("_") and name not in _WITHOUT_USE]
    return [*own, "attn_implementation"]


def check_saved_arguments(name: str, extra_kwargs: Mapping[str, Any], where: str) -> None:
    """Refuse what a saved config says beyond the arguments of an architecture.

    Raises
    ------
    ConfigError
        If there is such a thing.
    """
    allowed = _argument_names(DINOv3ViTConfig if name in _VITS else DINOv3ConvNextConfig)
    for argument, value in extra_kwargs.items():
        if argument not in allowed or (argument == "attn_implementation" and value not in _ATTENTIONS):
            msg = f"{where} sets {argument!r} to {value!r}, which is no argument of {name!r} that a file may set."
            raise ConfigError(msg)


def _portable_arguments(extra_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is of the architecture, wherever and however it is run."""
    elsewhere = extra_kwargs.get("attn_implementation", "sdpa") not in _ATTENTIONS
    dropped = (*_LOADING, *(["attn_implementation"] if elsewhere else []))
    return {name: value for name, value in extra_kwargs.items() if name not in dropped}


def _level(index: int, channels: int, stride: int, module: str) -> NativeLevel:
    return NativeLevel(index, channels, stride, divisor=stride, bound=False, exact=True, module=module)


def _convert(state: StateDict, own: StateDict) -> StateDict | None:
    """Rename a state dict of another library, and fit its stem to the model's channels."""
    renamed = dict(to_transformers(state, own) or state)
    for stem in ("embeddings.patch_embeddings.weight", "model.stages.0.downsample_layers.0.weight"):
        if stem in own and stem in renamed and renamed[stem].ndim == 4:
            given, wanted = renamed[stem].shape[1], own[stem].shape[1]
            if given == 3:
                renamed[stem] = adapt_input_conv(wanted, renamed[stem], base_chans=given)
    return renamed
