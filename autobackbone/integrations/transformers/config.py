"""The config of a backbone inside a model of transformers."""

from __future__ import annotations

from copy import copy
from typing import Any, Self, cast

import torch
from transformers import BackboneConfigMixin, PreTrainedConfig

from autobackbone.backbone import FeatureBackbone
from autobackbone.config import FeatureBackboneConfig
from autobackbone.create import create_feature_backbone
from autobackbone.errors import ConfigError
from autobackbone.values import as_integer, did_you_mean, shown
from autobackbone.weights.saving import understand

FORMAT = 1
LAYOUTS = ("maps", "tokens", "patches")
# What transformers itself hands to a config beside the fields of its class.
_OF_TRANSFORMERS = {"attn_implementation", "auto_map", "experts_implementation", "model_type", "name_or_path"}
_OF_TRANSFORMERS |= {"quantization_config", "torch_dtype", "transformers_version"}


class AutobackboneConfig(BackboneConfigMixin, PreTrainedConfig):
    """What a model of transformers knows of a backbone of this package. `backbone_config` makes one.

    It is written to ``config.json`` with the model around it, without the weights that a new backbone is to have: those
    of a saved model are saved with it.

    Parameters
    ----------
    backbone
        Fields of a `FeatureBackboneConfig`, without weights.
    input
        Fields of its `InputSpec`.
    levels
        Name, channels and stride of each level, in order. The names are the ``stage_names`` of transformers.
    versions
        Of the libraries that the config was made with.
    format
        Of this config.
    layout
        ``"maps"`` gives ``(B, C, H, W)``, as most heads read. ``"tokens"`` gives ``(B, 1 + H W, C)`` for DPT and its
        relatives: first the class token, or in its place, if there is none, the mean over the map. ``"patches"`` gives
        ``(B, H W, C)`` for ViTPose. `head_config` chooses it.
    out_features, out_indices
        Which of the levels a head gets, by name or place; by default all.

    Raises
    ------
    ConfigError
        If a field is not one of these, is not valid, or was saved by a newer version.
    """

    model_type = "autobackbone"

    backbone: dict[str, Any] | None = None
    input: dict[str, Any] | None = None
    levels: list[dict[str, Any]] | None = None
    versions: dict[str, Any] | None = None
    format: int = FORMAT
    layout: str = "maps"
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self._source: FeatureBackboneConfig | None = None
        self._check_format()
        features, indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        for name in kwargs:
            if name not in _OF_TRANSFORMERS and not name.startswith("_") and not hasattr(PreTrainedConfig, name):
                fields = ["backbone", "input", "layout", "out_features", "out_indices"]
                hint = did_you_mean(name, fields, f"fields of the backbone go to backbone_config(); {self._saved_by()}")
                msg = f"The config of a backbone has no field {shown(name)}; {hint}"
                raise ConfigError(msg)
        super().__post_init__(**kwargs)
        if self.layout not in LAYOUTS:
            msg = f"layout must be one of {', '.join(map(repr, LAYOUTS))}, got {shown(self.layout)}."
            raise ConfigError(msg)
        self._check_backbone()
        if features is not None or indices is not None:
            features = list(features) if isinstance(features, tuple) else features
            self.set_output_features_output_indices(features, indices)
        elif self.levels:
            self.set_output_features_output_indices(list(self.stage_names), None)

    def _check_format(self) -> None:
        value: Any = self.format
        if not isinstance(value, int) or value > FORMAT:
            msg = (
                f"This config of a backbone has the format {shown(value)}, and this version of autobackbone reads "
                f"{FORMAT}; {self._saved_by()}"
            )
            raise ConfigError(msg)

    def _saved_by(self) -> str:
        version = (self.versions or {}).get("autobackbone")
        by = "" if version is None else f" {version}"
        return f"if a file says so, it was saved by another version of autobackbone{by}: update this one."

    def _check_backbone(self) -> None:
        if self.backbone is None:
            return
        config = self._fields()
        if config.pretrained or config.weights is not None:
            msg = "A config that is saved names no weights; backbone_config() takes pretrained= and weights=."
            raise ConfigError(msg)
        understand(self._saved(), "The config of the backbone")
        levels: Any = self.levels
        is_list = isinstance(levels, list) and levels
        if not is_list or not all(
            isinstance(lv, dict) and {"name", "channels", "stride"} <= lv.keys() for lv in levels
        ):
            msg = f"levels must be a list with name, channels and stride of each, got {shown(levels)}."
            raise ConfigError(msg)

    def _saved(self) -> dict[str, Any]:
        """Return what a saved backbone's config would hold."""
        return {"backbone": {"pretrained": False, **(self.backbone or {})}, "input": self.input or {}}

    def _fields(self) -> FeatureBackboneConfig:
        return FeatureBackboneConfig.from_dict(self._saved()["backbone"])

    @property
    def stage_names(self) -> list[str]:
        """Names of the levels, in order."""
        return [level["name"] for level in self.levels or ()]

    def _of_outputs(self, key: str) -> list[int]:
        values = {level["name"]: level[key] for level in self.levels or ()}
        return [values[name] for name in self.out_features or ()]

    @property
    def channels(self) -> list[int]:
        """Channels of each map that a head gets."""
        return self._of_outputs("channels")

    @property
    def strides(self) -> list[int]:
        """Stride of each map that a head gets, in pixels."""
        return self._of_outputs("stride")

    @property
    def hidden_sizes(self) -> list[int]:
        """Channels of each map that a head gets, as transformers calls them."""
        return self.channels

    @property
    def hidden_size(self) -> int:
        """Channels of each patch. Backbones that give maps have none: the hybrid DPT takes it for that of its ViT."""
        if self.layout == "maps":
            msg = "A backbone that gives maps has hidden_sizes, one for each of them."
            raise AttributeError(msg)
        return self._last("channels")

    @property
    def patch_size(self) -> int | tuple[int, int]:
        """Stride of the last map that a head gets; height and width if they are patches, as ViTPose reads it."""
        stride = self._last("stride")
        return (stride, stride) if self.layout == "patches" else stride

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that the backbone was made for, in pixels."""
        height, width = (self.input or {})["size"]
        return height, width

    @property
    def num_channels(self) -> int:
        """Channels of the images."""
        return self._fields().in_chans

    def _last(self, key: str) -> int:
        values = self._of_outputs(key)
        if not values:
            msg = "This config names no backbone; make one with backbone_config()."
            raise ConfigError(msg)
        return values[-1]

    def verify_out_features_out_indices(self) -> None:
        """Check that what a head is to get is there.

        Raises
        ------
        ConfigError
            If it is not, occurs twice, or is not in the order of the levels.
        """
        levels = ", ".join(f"{i} {name!r}" for i, name in enumerate(self.stage_names))
        remedy = f"The levels of this backbone are {levels}, in this order; ask backbone_config() for others."
        indices: Any = self._out_indices
        count = len(self.stage_names)
        if indices is not None and not all(as_integer(i, -count) is not None and i < count for i in indices):
            msg = f"out_indices must be places of levels, got {shown(indices)}. {remedy}"
            raise ConfigError(msg)
        try:
            super().verify_out_features_out_indices()
        except (ValueError, TypeError) as err:
            msg = f"{err}. {remedy}"
            raise ConfigError(msg) from err

    def with_layout(self, layout: str) -> Self:
        """Return a copy whose backbone gives its maps in another layout."""
        other = copy(self)
        other.layout = layout
        return other

    def create(self) -> FeatureBackbone:
        """Create the backbone, in single precision, on the default device.

        The weights are those that `backbone_config` was told, except on the meta device. They are random if it was told
        none, or if the config is from a file.

        Raises
        ------
        ConfigError
            If the config names no backbone, or this version makes other levels of it.
        WeightsError
            If the weights cannot be had, or do not fit.
        """
        if self.backbone is None:
            msg = "This config names no backbone; make one with backbone_config()."
            raise ConfigError(msg)
        if self._source is not None and torch.get_default_device().type != "meta":
            backbone = FeatureBackbone.from_config(self._source)
        else:
            saved = understand(self._saved(), "The config of the backbone")
            backbone = FeatureBackbone.from_saved(saved, {})
        levels = [{"name": lv.name, "channels": lv.channels, "stride": lv.stride} for lv in backbone.levels]
        if levels != self.levels:
            msg = f"The config says that the levels are {self.levels}, but they are {levels}; {self._saved_by()}"
            raise ConfigError(msg)
        return backbone

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, without weights to load."""
        output = cast("dict[str, Any]", super().to_dict())
        output.pop("_source", None)
        return output


def backbone_config(
    backbone: FeatureBackboneConfig | str,
    *,
    out_features: list[str] | tuple[str, ...] | None = None,
    layout: str = "maps",
    **overrides: Any,
) -> AutobackboneConfig:
    """Return a backbone as the ``backbone_config`` of a head of transformers.

    No weights are loaded yet: the levels are those of the backbone on the meta device. When transformers makes a new
    model from the config, the backbone is created with the weights that are named here. When it loads a saved model,
    they are those of that model.

    Parameters
    ----------
    backbone
        A config, or a model name.
    out_features
        Names of the levels that the head is to get, if not all.
    layout
        As of `AutobackboneConfig`; `head_config` chooses it.
    **overrides
        Fields of `FeatureBackboneConfig` that take precedence.

    Raises
    ------
    UnknownBackboneError
        If the name fits no backbone.
    ConfigError
        If a field, level or argument cannot be honored, or cannot be written as JSON.

    Examples
    --------
    >>> from transformers import RTDetrConfig, RTDetrForObjectDetection
    >>> from autobackbone.integrations.transformers import backbone_config
    >>> config = backbone_config("resnet18", pretrained=False, out_strides=(8, 16, 32))
    >>> config.stage_names, config.channels
    (['c3', 'c4', 'c5'], [128, 256, 512])
    >>> model = RTDetrForObjectDetection(RTDetrConfig(backbone_config=config))
    """
    source = FeatureBackboneConfig().replace(model_name=backbone) if isinstance(backbone, str) else backbone
    with torch.device("meta"):
        twin = create_feature_backbone(source, **overrides)
    source = source.replace(**overrides)
    values, _ = twin.describe()
    more: dict[str, Any] = {} if out_features is None else {"out_features": out_features}
    config = AutobackboneConfig(
        backbone=values["backbone"],
        input=values["input"],
        levels=values["levels"],
        versions=values["versions"],
        layout=layout,
        **more,
    )
    if source.pretrained or source.weights is not None:
        config._source = source  # noqa: SLF001 - it is no field, so that no file can set it
    return config
