from .backbone import FeatureBackbone as FeatureBackbone
from .catalog import list_backbones as list_backbones
from .config import BackboneConfig as BackboneConfig, FeatureBackboneConfig as FeatureBackboneConfig
from .create import (
    count_parameters as count_parameters,
    create_backbone as create_backbone,
    create_feature_backbone as create_feature_backbone,
    get_feature_channels as get_feature_channels,
    get_feature_info as get_feature_info,
    get_feature_strides as get_feature_strides,
    get_input_spec as get_input_spec,
)
from .errors import (
    BackboneError as BackboneError,
    ConfigError as ConfigError,
    GatedWeightsError as GatedWeightsError,
    InputError as InputError,
    InputSizeError as InputSizeError,
    UnknownBackboneError as UnknownBackboneError,
    UnsupportedError as UnsupportedError,
    WeightsCorruptedError as WeightsCorruptedError,
    WeightsError as WeightsError,
    WeightsMismatchError as WeightsMismatchError,
    WeightsNotFoundError as WeightsNotFoundError,
    WeightsUnavailableError as WeightsUnavailableError,
)
from .input_spec import InputSpec as InputSpec
from .levels import FeatureLevel as FeatureLevel
