"""DINOv3's ConvNeXt: transformers' modules, run block by block."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

from autobackbone.levels import NativeLevel
from autobackbone.sources.dinov3.network import WITH_LAST, Network, Pooled, Variant, parts_of
from autobackbone.sources.dinov3.published import CONVNEXTS


class _ConvNeXt(Network):
    """The parts of transformers' ConvNeXt, under its names."""

    def __init__(self, model: Any, *, norm: bool = True) -> None:
        super().__init__()
        self.model: Any = parts_of(model.model)
        self.layer_norm = model.layer_norm if norm else nn.Identity()
        self.num_features: int = model.config.hidden_sizes[-1]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that map parameter names to stages, or to blocks, as timm's models do."""
        stem = r"^model\.stages\.0\.downsample_layers"
        if coarse:
            return {"stem": stem, "blocks": [(r"^model\.stages\.(\d+)", None), (r"^layer_norm", WITH_LAST)]}
        downsampling = (r"^model\.stages\.(\d+)\.downsample_layers", (0,))
        block = (r"^model\.stages\.(\d+)\.layers\.(\d+)", None)
        return {"stem": stem, "blocks": [downsampling, block, (r"^layer_norm", WITH_LAST)]}

    def maps(self, x: Tensor, indices: Sequence[int]) -> list[Tensor]:
        """Return the maps after some stages: ``(B, C_l, H_l, W_l)``."""
        x = x.to(self.model.stages[0].downsample_layers[0].weight.dtype)
        maps = []
        for i, stage in enumerate(self.model.stages):
            for block in (*stage.downsample_layers, *stage.layers):
                x = self.run(block, x)
            if i in indices:
                maps.append(x)
        return maps

    def native_maps(self, x: Tensor) -> list[Tensor]:
        """Map images to the map of every stage."""
        return self.maps(x, range(len(self.model.stages)))


class ConvNeXtLevels(_ConvNeXt):
    """A ConvNeXt that returns the maps of some of its stages, shallow to deep."""

    def __init__(self, model: Any, *, indices: Sequence[int], norm: bool) -> None:
        super().__init__(model, norm=norm)
        self.indices = tuple(indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``(B, C, H, W)`` images to one ``(B, C_l, H_l, W_l)`` map per index."""
        return [y.contiguous() for y in self.maps(x, self.indices)]


class PooledConvNeXt(Pooled, _ConvNeXt):
    """A ConvNeXt that returns the mean of its last map, after the final norm."""

    def __init__(self, model: Any, *, num_classes: int, drop_rate: float) -> None:
        super().__init__(model)
        self.add_head(num_classes, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map: ``(B, num_features, H / 32, W / 32)``."""
        self.autobackbone.input_spec.check(x)
        return self.maps(x, [len(self.model.stages) - 1])[0]

    def pool(self, features: Tensor) -> Tensor:
        """Return the mean over the map, after the final norm."""
        return self.layer_norm(features.mean((-2, -1)))  # type: ignore[no-any-return]


def _create(config: DINOv3ConvNextConfig) -> Any:
    return DINOv3ConvNextModel(config)


def _published_arguments(name: str) -> dict[str, Any]:
    size = CONVNEXTS[name]
    return {"hidden_sizes": [size.width * 2**i for i in range(4)], "depths": [3, 3, size.depth, 3]}


def _native_levels(config: Any) -> tuple[NativeLevel, ...]:
    """Return a level for each stage."""
    strides = (4 * 2**i for i in range(len(config.hidden_sizes)))
    return tuple(
        NativeLevel(i, channels, stride, stride, fixed_size=False, exact=True, module=f"model.stages.{i}")
        for i, (channels, stride) in enumerate(zip(config.hidden_sizes, strides, strict=True))
    )


def _shallow_arguments(arguments: dict[str, Any], full_config: Any, depth: int) -> dict[str, Any]:
    blocks = full_config.depths[:depth]
    # Rates grow from the first block to the last; those of the blocks that there are stay what they are.
    share = (sum(blocks) - 1) / max(sum(full_config.depths) - 1, 1)
    shallow = {"depths": blocks, "hidden_sizes": full_config.hidden_sizes[:depth]}
    return arguments | shallow | {"drop_path_rate": arguments["drop_path_rate"] * share}


def _tensor_names(names: Sequence[str], full_config: Any) -> Iterator[str]:
    """Yield the tensor names of the full network, whose stages and blocks are alike."""
    for name in names:
        stage = re.fullmatch(r"(model\.stages\.)0(\.(?:(layers\.)0\.)?(.*))", name)
        if stage is not None and stage[3]:
            yield from (
                f"{stage[1]}{i}.layers.{j}.{stage[4]}" for i, n in enumerate(full_config.depths) for j in range(n)
            )
        elif stage is not None:
            yield from (f"{stage[1]}{i}{stage[2]}" for i in range(len(full_config.depths)))
    yield from (*names, "layer_norm.weight", "layer_norm.bias")


CONVNEXT = Variant(
    config_class=DINOv3ConvNextConfig,
    create=_create,
    levels_network=ConvNeXtLevels,
    pooled_network=PooledConvNeXt,
    has_final_norm=False,
    published_arguments=_published_arguments,
    native_levels=_native_levels,
    prefix_tokens=lambda _: {},
    shallow_arguments=_shallow_arguments,
    tensor_names=_tensor_names,
)
