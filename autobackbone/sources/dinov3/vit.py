"""DINOv3's ViT: transformers' modules, run block by block."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from autobackbone.levels import NativeLevel
from autobackbone.sources.dinov3.network import WITH_LAST, Network, Pooled, Variant, parts_of
from autobackbone.sources.dinov3.published import VITS
from autobackbone.sources.unused import make_buffers


class _ViT(Network):
    """The parts of transformers' ViT, under its names."""

    def __init__(self, model: Any, *, norm: bool = True) -> None:
        super().__init__()
        self.embeddings = model.embeddings
        make_buffers(self.embeddings, ["mask_token"])  # masks patches in pretraining only
        self.rope_embeddings = model.rope_embeddings
        self.model: Any = parts_of(model.model)
        self.norm = model.norm if norm else nn.Identity()
        self.num_features: int = model.config.hidden_size
        self.patch: int = model.config.patch_size

    @property
    def prefix_tokens(self) -> dict[str, int]:
        """How many tokens of each kind it gives beside its maps, in their order."""
        return _prefix_tokens(self.embeddings.config)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002 - timm's signature
        """Return patterns that map parameter names to blocks, as timm's models do."""
        return {"stem": r"^embeddings", "blocks": [(r"^model\.layer\.(\d+)", None), (r"^norm", WITH_LAST)]}

    def no_weight_decay(self) -> set[str]:
        """Return the names of the tokens, as timm's models do."""
        return {f"embeddings.{name}" for name in ("cls_token", "register_tokens")}

    def tokens(self, x: Tensor, indices: Sequence[int], *, norm: bool = True) -> list[Tensor]:
        """Return the tokens after some blocks: ``(B, 1 + registers + patches, C)``."""
        x = x.to(self.embeddings.patch_embeddings.weight.dtype)
        hidden, position = self.embeddings(x), self._position(x)
        tokens = []
        for i, block in enumerate(self.model.layer):
            hidden = self.run(block, hidden, position_embeddings=position)
            if i in indices:
                tokens.append(self.norm(hidden) if norm else hidden)
        return tokens

    def _position(self, x: Tensor) -> Any:
        """Return the position embedding.

        transformers remembers the coordinates of a size in the process. What a tracer makes without data must not be
        remembered. While torch compiles, transformers remembers nothing.
        """
        if torch.compiler.is_compiling() or not isinstance(x, FakeTensor):
            return self.rope_embeddings(x)
        with unset_fake_temporarily():
            return self.rope_embeddings(torch.empty((), device=x.device, dtype=x.dtype).expand(x.shape))

    def native_maps(self, x: Tensor) -> list[Tensor]:
        """Map images to the map of every block, without the final norm."""
        return self._maps(x, self.tokens(x, range(len(self.model.layer)), norm=False))

    def _maps(self, x: Tensor, tokens: list[Tensor]) -> list[Tensor]:
        height, width = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        patches = [t[:, -height * width :].transpose(1, 2) for t in tokens]
        return [p.reshape(p.shape[0], -1, height, width).contiguous() for p in patches]


class ViTLevels(_ViT):
    """A ViT that returns the maps of some of its blocks, shallow to deep."""

    def __init__(self, model: Any, *, indices: Sequence[int], norm: bool) -> None:
        super().__init__(model, norm=norm)
        self.indices = tuple(indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``(B, C, H, W)`` images to one ``(B, C_l, H / patch, W / patch)`` map per index."""
        return self._maps(x, self.tokens(x, self.indices))

    def forward_tokens(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Map images to the map of each index and its ``(B, N, C_l)`` prefix tokens."""
        tokens, count = self.tokens(x, self.indices), sum(self.prefix_tokens.values())
        return list(zip(self._maps(x, tokens), (t[:, :count] for t in tokens), strict=True))


class PooledViT(Pooled, _ViT):
    """A ViT that returns its class token, after the final norm."""

    def __init__(self, model: Any, *, num_classes: int, drop_rate: float) -> None:
        super().__init__(model)
        self.add_head(num_classes, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the tokens after the final norm: ``(B, 1 + registers + patches, num_features)``."""
        self.autobackbone.input_spec.check(x)
        return self.tokens(x, [len(self.model.layer) - 1])[0]

    def pool(self, features: Tensor) -> Tensor:
        """Return the class token."""
        return features[:, 0]


def _create(config: DINOv3ViTConfig) -> Any:
    return DINOv3ViTModel(config)


def _published_arguments(name: str) -> dict[str, Any]:
    size = VITS[name]
    return {
        "hidden_size": size.width,
        "num_attention_heads": size.heads,
        "intermediate_size": size.mlp_width,
        "num_hidden_layers": size.depth,
        "use_gated_mlp": size.gated,
        "hidden_act": "silu" if size.gated else "gelu",
        "query_bias": size.has_qv_bias,
        "value_bias": size.has_qv_bias,
        "num_register_tokens": 4,
        "pos_embed_rescale": None,  # a random augmentation in training; the features are to be the same each time
    }


def _native_levels(config: Any) -> tuple[NativeLevel, ...]:
    """Return a level for each block."""
    patch, channels = config.patch_size, config.hidden_size
    return tuple(
        NativeLevel(i, channels, patch, patch, fixed_size=False, exact=True, module=f"model.layer.{i}")
        for i in range(config.num_hidden_layers)
    )


def _prefix_tokens(config: Any) -> dict[str, int]:
    registers: int = config.num_register_tokens
    return {"class": 1} | ({"register": registers} if registers else {})


def _shallow_arguments(arguments: dict[str, Any], _full_config: Any, depth: int) -> dict[str, Any]:
    return arguments | {"num_hidden_layers": depth}


def _tensor_names(names: Sequence[str], full_config: Any) -> Iterator[str]:
    """Yield the tensor names of the full network, whose blocks are alike."""
    for name in names:
        block = re.fullmatch(r"(model\.layer\.)0(\..*)", name)
        if block is not None:
            yield from (f"{block[1]}{i}{block[2]}" for i in range(full_config.num_hidden_layers))
    yield from (*names, "norm.weight", "norm.bias")


VIT = Variant(
    config_class=DINOv3ViTConfig,
    create=_create,
    levels_network=ViTLevels,
    pooled_network=PooledViT,
    has_final_norm=True,
    published_arguments=_published_arguments,
    native_levels=_native_levels,
    prefix_tokens=_prefix_tokens,
    shallow_arguments=_shallow_arguments,
    tensor_names=_tensor_names,
)
