"""The two configs: inert, validated values and their round trips through dicts, JSON and YAML."""

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
    """A backbone with pooled output: ``(B, C, H, W)`` images to ``(B, num_features)`` or ``(B, num_classes)``.

    Parameters
    ----------
    model_name
        A timm name (``"resnet50"``, ``"resnet50.a1_in1k"``), ``"timm/..."``, a DINOv3 name (``"dinov3_vits16"``,
        ``"facebook/dinov3-..."``), ``"hf-hub:owner/repo[@revision]"`` or ``"local-dir:path"``.
    pretrained
        Take the published weights.
    num_classes
        0 for pooled features; ``n`` to end in a linear head with ``n`` outputs.
    drop_rate
        Dropout before the head, in [0, 1).
    drop_path_rate
        Stochastic depth, in [0, 1).
    in_chans
        Channels of the input images.
    img_size
        ``(height, width)`` in pixels for architectures that are built for a size; an ``int`` is a square.
    weights
        A checkpoint to take instead of the published weights: a file, a folder, ``"hf-hub:owner/repo[@revision]"`` or
        an ``https://`` address. `load_weights` says what is found in it.
    extra_kwargs
        Further arguments for ``timm.create_model``, or for the config of transformers; ``cache_dir`` is where
        downloads go.

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
    """A backbone with multi-scale output: ``(B, C, H, W)`` images to a list of feature maps.

    Parameters
    ----------
    model_name
        A timm name (``"resnet50"``, ``"resnet50.a1_in1k"``), ``"timm/..."``, a DINOv3 name (``"dinov3_vits16"``,
        ``"facebook/dinov3-..."``), ``"hf-hub:owner/repo[@revision]"`` or ``"local-dir:path"``.
    pretrained
        Take the published weights.
    out_indices
        Native levels in the order wanted, counted from 0 as timm counts them; negative ones count from the end.
    out_strides
        Strides in pixels in the order wanted, such as ``(4, 8, 16, 32)``; excludes `out_indices`. With neither,
        the strides are 8, 16 and 32, as far as `output_stride` lets them.
    drop_rate
        Dropout, in [0, 1).
    drop_path_rate
        Stochastic depth, in [0, 1).
    in_chans
        Channels of the input images.
    img_size
        ``(height, width)`` in pixels that the backbone is built for; an ``int`` is a square. Architectures that are
        bound to one size then take this one; the others still take any. DINOv3 is built for no size: positions are
        rotary.
    output_stride
        32, or 8 or 16 for dilated convolutions, where the architecture can.
    pyramid
        How a stride that the architecture does not have is made: ``"resample"`` from the nearest native level
        (single-stride models: from the block at 1/4, 1/2, 3/4 or 4/4 of the depth); by ``"simple"``, ViTDet's simple
        feature pyramid, which is trained and makes every level of a single-stride model; or ``"none"``, which refuses.
    pyramid_channels
        Channels of the maps that ``pyramid="simple"`` makes; ``None`` is 256.
    norm
        The final norm on the maps of architectures that have one; ``None`` is the library's convention: timm's is
        without, transformers' DINOv3 ViTs with.
    weights
        A checkpoint to take instead of the published weights: a file, a folder, ``"hf-hub:owner/repo[@revision]"`` or
        an ``https://`` address. `load_weights` says what is found in it.
    extra_kwargs
        Further arguments for ``timm.create_model``, or for the config of transformers; ``cache_dir`` is where
        downloads go.

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
