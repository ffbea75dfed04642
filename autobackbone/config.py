"""The two configs: validated, inert values that round-trip through dicts, JSON and YAML."""

from dataclasses import dataclass, field
from typing import Any

from autobackbone.config_base import Config
from autobackbone.errors import ConfigError
from autobackbone.values import MAX_CHANNELS, MAX_COUNT, as_integer, as_integers, as_text

PYRAMIDS = ("resample", "simple", "none")
PYRAMID_CHANNELS = 256
MAX_STRIDE = 1024
MAX_CLASSES = 2**31 - 1
OUTPUT_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class BackboneConfig(Config):
    """Settings of a backbone with pooled output.

    The backbone maps ``(B, C, H, W)`` images to ``(B, num_features)``, or to ``(B, num_classes)`` if it has a head.

    Parameters
    ----------
    model_name
        A timm name (``"resnet50"``, ``"resnet50.a1_in1k"``), ``"timm/..."``, a DINOv3 name (``"dinov3_vits16"``,
        ``"facebook/dinov3-..."``), ``"hf-hub:owner/repo[@revision]"`` or ``"local-dir:path"``.
    pretrained
        Load the published weights.
    num_classes
        0 for pooled features; ``n`` for a linear head with ``n`` outputs.
    drop_rate
        Dropout rate before the head, in [0, 1).
    drop_path_rate
        Stochastic depth rate, in [0, 1).
    in_chans
        Channels of the input images.
    img_size
        ``(height, width)`` in pixels to build the architecture for, if it is built for a size. An ``int`` means a
        square.
    weights
        A checkpoint to load instead of the published weights: a file, a folder, ``"hf-hub:owner/repo[@revision]"`` or
        an ``https://`` address. `load_weights` describes what it may contain.
    extra_kwargs
        Further arguments for ``timm.create_model`` or the transformers config. ``cache_dir`` is the folder for
        downloads.

    Raises
    ------
    ConfigError
        If a value is not valid for its field.
    """

    model_name: str = "resnet50"
    pretrained: bool = True
    num_classes: int = 0
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    in_chans: int = 3
    img_size: tuple[int, int] | None = None
    weights: str | None = None
    extra_kwargs: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        self._validate_common()
        self._keep("num_classes", as_integer(self.num_classes, 0), "an integer of at least 0")
        self._check(self.num_classes <= MAX_CLASSES, "num_classes", f"at most {MAX_CLASSES}")


@dataclass(frozen=True)
class FeatureBackboneConfig(Config):
    """Settings of a backbone that maps ``(B, C, H, W)`` images to a list of feature maps.

    Parameters
    ----------
    model_name
        A timm name (``"resnet50"``, ``"resnet50.a1_in1k"``), ``"timm/..."``, a DINOv3 name (``"dinov3_vits16"``,
        ``"facebook/dinov3-..."``), ``"hf-hub:owner/repo[@revision]"`` or ``"local-dir:path"``.
    pretrained
        Load the published weights.
    out_indices
        Native levels to return, in this order. They count from 0, as in timm; negative indices count from the end.
    out_strides
        Strides to return, in pixels and in this order, such as ``(4, 8, 16, 32)``. Excludes `out_indices`. With
        neither, the strides are 8, 16 and 32, up to `output_stride`.
    drop_rate
        Dropout rate, in [0, 1).
    drop_path_rate
        Stochastic depth rate, in [0, 1).
    in_chans
        Channels of the input images.
    img_size
        ``(height, width)`` in pixels to build the backbone for; an ``int`` means a square. Fixed-size architectures
        then accept only this size, all others still accept any size. DINOv3 is not built for a size, since its
        positions are rotary.
    output_stride
        32, or 8 or 16 to dilate the convolutions of architectures that can be dilated.
    pyramid
        How to make strides that the architecture lacks. ``"resample"`` resamples the nearest native level; for
        single-stride models, it resamples the block at 1/4, 1/2, 3/4 or 4/4 of the depth. ``"simple"`` is ViTDet's
        simple feature pyramid: it is trained, and it makes every level of a single-stride model. ``"none"`` raises
        an error.
    pyramid_channels
        Channels of the maps from ``pyramid="simple"``; ``None`` means 256.
    norm
        Whether to apply the architecture's final norm, if it has one, to the maps. ``None`` follows the library:
        timm does not apply it, transformers applies it in its DINOv3 ViTs.
    weights
        A checkpoint to load instead of the published weights: a file, a folder, ``"hf-hub:owner/repo[@revision]"`` or
        an ``https://`` address. `load_weights` describes what it may contain.
    extra_kwargs
        Further arguments for ``timm.create_model`` or the transformers config. ``cache_dir`` is the folder for
        downloads.

    Raises
    ------
    ConfigError
        If a value is not valid for its field.
    """

    model_name: str = "resnet50"
    pretrained: bool = True
    out_indices: tuple[int, ...] | None = None
    out_strides: tuple[int, ...] | None = None
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    in_chans: int = 3
    img_size: tuple[int, int] | None = None
    output_stride: int = 32
    pyramid: str = "resample"
    pyramid_channels: int | None = None
    norm: bool | None = None
    weights: str | None = None
    extra_kwargs: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        self._validate_common()
        for name, low, high, what in (
            ("out_indices", -MAX_COUNT, MAX_COUNT, "a sequence of integers"),
            ("out_strides", 1, MAX_STRIDE, f"a sequence of integers from 1 to {MAX_STRIDE}"),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            items = as_integers(value)
            self._keep(name, items if items and low <= min(items) and max(items) <= high else None, what)
            self._check(len(set(getattr(self, name))) == len(getattr(self, name)), name, "without duplicates")
        if self.out_indices is not None and self.out_strides is not None:
            msg = (
                f"out_indices={self.out_indices} and out_strides={self.out_strides} exclude each other; "
                "give one of them."
            )
            raise ConfigError(msg)
        stride = as_integer(self.output_stride)
        self._keep("output_stride", stride if stride in OUTPUT_STRIDES else None, "one of 8, 16, 32")
        pyramid = as_text(self.pyramid)
        self._keep("pyramid", pyramid if pyramid in PYRAMIDS else None, "one of 'resample', 'simple', 'none'")
        if self.pyramid_channels is not None:
            self._keep_count("pyramid_channels", ", or None", MAX_CHANNELS)
            if self.pyramid != "simple" or self.out_indices is not None:
                other = f"pyramid={self.pyramid!r}" if self.pyramid != "simple" else "out_indices"
                msg = (
                    f"pyramid_channels={self.pyramid_channels} is for pyramid='simple', not for {other}; leave it out."
                )
                raise ConfigError(msg)
        self._check(self.norm is None or isinstance(self.norm, bool), "norm", "True, False or None")
