"""Backbones of this package as encoders of segmentation_models_pytorch. Importing it registers them there, by name."""

from collections.abc import Iterator, Mapping
from typing import Any, Self

from segmentation_models_pytorch.encoders import encoders
from torch import Tensor, nn

from autobackbone.catalog.describe import describe_backbone
from autobackbone.catalog.query import list_backbones
from autobackbone.create import create_feature_backbone
from autobackbone.errors import ConfigError
from autobackbone.input_spec import InputSpec
from autobackbone.load import load_checkpoint
from autobackbone.values import as_integer, shown
from autobackbone.weights.checkpoint import Checkpoint

_PREFIX = "ab-"
_DEFAULT = "imagenet"  # the weights that the library's models ask for if they are not told which
_DEEPEST = 5
_DERIVED = ("out_indices", "out_strides", "output_stride", "in_chans", "pretrained", "weights")


class BackboneEncoder(nn.Module):
    """A backbone as an encoder: the image, and a map at each of the strides 2, 4, 8, 16 and 32, up to some depth.

    Architectures without a level at stride 2 give a map without channels there, as the library's own transformers do.
    Other strides that an architecture lacks are made as the config says. Images have any size that the decoder can
    handle, and are normalized as `input_spec` says.

    Parameters
    ----------
    name
        As of `create_feature_backbone`.
    depth
        Number of maps, from 1 to 5.
    output_stride
        32, or 8 or 16 to dilate the last stages.
    **overrides
        Other fields of `FeatureBackboneConfig`.

    Raises
    ------
    ConfigError
        If there is no level at these depths, or a value is none of these.
    UnknownBackboneError
        If there is no such name.
    UnsupportedError
        If the architecture cannot be dilated.
    """

    def __init__(self, name: str, depth: int = _DEEPEST, output_stride: int = 32, **overrides: Any) -> None:
        super().__init__()
        number = as_integer(depth)
        if number is None or not 1 <= number <= _DEEPEST:
            msg = f"depth={shown(depth)}: an encoder has 1 to {_DEEPEST} maps beside the image."
            raise ConfigError(msg)
        given = [field for field in _DERIVED if field in overrides]
        if given:
            msg = f"{given[0]}: an encoder gets that from depth, output_stride, in_channels and weights; leave it out."
            raise ConfigError(msg)
        self.name = name
        native = describe_backbone(name).strides
        strides = [2**i for i in range(1, number + 1)]
        self.has_half = 2 in native
        if not self.has_half:
            strides.pop(0)
        if not strides:
            msg = f"depth={depth}: {name!r} has no level at stride 2; take a depth of 2 or more."
            raise ConfigError(msg)
        levels: dict[str, Any] = {"output_stride": output_stride}
        if set(strides) <= set(native):  # dilated ones, too
            last = {stride: i for i, stride in enumerate(native)}
            levels["out_indices"] = tuple(last[stride] for stride in strides)
        else:
            if max(native) <= output_stride:  # nothing is to be dilated
                strides = [min(stride, output_stride) for stride in strides]
                del levels["output_stride"]
            levels["out_strides"] = tuple(dict.fromkeys(strides))
        self.backbone = create_feature_backbone(name, pretrained=False, **levels, **overrides)
        self._repeated = len(strides) - len(self.backbone.levels)  # of the last map

    @property
    def input_spec(self) -> InputSpec:
        """The images that the backbone takes, and how they are normalized."""
        return self.backbone.input_spec

    @property
    def out_channels(self) -> list[int]:
        """Channels of the image, and of each map."""
        channels = [*self.backbone.channels, *[self.backbone.out_channels] * self._repeated]
        return [self.input_spec.in_chans, *([] if self.has_half else [0]), *channels]

    @property
    def output_stride(self) -> int:
        """Stride of the last map, in pixels."""
        return self.backbone.strides[-1]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``(B, C, H, W)`` images to themselves and ``(B, out_channels[i], ceil(H / 2**i), ceil(W / 2**i))`` maps.

        Raises
        ------
        InputError
            If `x` is none of the images that the backbone takes.
        """
        maps = self.backbone(x)
        maps += maps[-1:] * self._repeated
        if not self.has_half:
            batch, _, height, width = x.shape
            maps.insert(0, x.new_empty(batch, 0, (height + 1) // 2, (width + 1) // 2))
        return [x, *maps]

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Replace the backbone by one for images of `in_channels` channels, the weights adapted if `pretrained`."""
        if in_channels == self.input_spec.in_chans:
            return
        state = self.backbone.network.state_dict()
        self.backbone = create_feature_backbone(self.backbone.config, in_chans=in_channels)
        if pretrained:
            load_checkpoint(self.backbone, Checkpoint(self.name, lambda: state))

    def make_dilated(self, output_stride: int) -> None:
        """Do nothing: it is created dilated."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load its own state dict, or published weights, under the names of the backbone's library.

        Raises
        ------
        WeightsMismatchError
            If published weights do not fit.
        """
        if state_dict.keys() & self.state_dict().keys():
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        load_checkpoint(self.backbone, Checkpoint(self.name, lambda: state_dict), strict=strict)
        return super().load_state_dict(self.state_dict())  # of which nothing is missing now


class _PublishedWeights(Mapping[str, Mapping[str, Any]]):
    """Where the library finds published weights of an architecture: by tag, the default ones also as ``imagenet``."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, tag: str) -> Mapping[str, Any]:
        names = self._names()
        return {"repo_id": describe_backbone(names[tag]).hub_id, "revision": None}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def _names(self) -> dict[str, str]:
        card = describe_backbone(self._name)
        names = [name for name in card.pretrained_tags if describe_backbone(name).hub_id is not None]
        tags = {name.removeprefix(f"{self._name}."): name for name in names}
        return ({_DEFAULT: names[0]} if names else {}) | tags


def register_encoder(encoder_name: str, model_name: str, **overrides: Any) -> None:
    """Register an encoder of segmentation_models_pytorch with a config of its own.

    Every backbone is registered as ``ab-`` and its name. This is for those that are to be created otherwise.

    Parameters
    ----------
    encoder_name
        What models are to call it.
    model_name
        As of `create_feature_backbone`.
    **overrides
        Fields of `FeatureBackboneConfig`, without those that the library's models set: levels, `in_chans`,
        `output_stride`, `pretrained`, and `weights`.

    Raises
    ------
    ConfigError
        If the library has another encoder of this name.
    """
    known = encoders.get(encoder_name)
    if known is not None and known["encoder"] is not BackboneEncoder:
        msg = f"encoder_name={encoder_name!r} is an encoder of the library itself; take another name."
        raise ConfigError(msg)
    encoders[encoder_name] = {
        "encoder": BackboneEncoder,
        "pretrained_settings": _PublishedWeights(model_name),
        "params": {"name": model_name, **overrides},
    }


for _name in list_backbones():
    register_encoder(f"{_PREFIX}{_name}", _name)
