from .backbone import FeatureBackbone as FeatureBackbone
from .backbone import LevelTokens as LevelTokens
from .catalog.card import BackboneCard as BackboneCard
from .catalog.describe import describe_backbone as describe_backbone
from .catalog.figures import Accuracy as Accuracy
from .catalog.figures import Throughput as Throughput
from .catalog.query import list_backbones as list_backbones
from .catalog.uses import Use as Use
from .config import BackboneConfig as BackboneConfig
from .config import FeatureBackboneConfig as FeatureBackboneConfig
from .create import create_backbone as create_backbone
from .create import create_feature_backbone as create_feature_backbone
from .errors import (
    BackboneError as BackboneError,
)
from .errors import (
    ConfigError as ConfigError,
)
from .errors import (
    GatedWeightsError as GatedWeightsError,
)
from .errors import (
    InputError as InputError,
)
from .errors import (
    InputSizeError as InputSizeError,
)
from .errors import (
    OutputError as OutputError,
)
from .errors import (
    UnknownBackboneError as UnknownBackboneError,
)
from .errors import (
    UnsupportedError as UnsupportedError,
)
from .errors import (
    WeightsCorruptedError as WeightsCorruptedError,
)
from .errors import (
    WeightsError as WeightsError,
)
from .errors import (
    WeightsMismatchError as WeightsMismatchError,
)
from .errors import (
    WeightsNotFoundError as WeightsNotFoundError,
)
from .errors import (
    WeightsUnavailableError as WeightsUnavailableError,
)
from .export import export_onnx as export_onnx
from .export import export_program as export_program
from .extract import extract_features as extract_features
from .extract import open_features as open_features
from .extraction.run import ExtractionReport as ExtractionReport
from .extraction.table import FeatureTable as FeatureTable
from .fpn import FeaturePyramid as FeaturePyramid
from .freezing import freeze_norms as freeze_norms
from .freezing import freeze_stages as freeze_stages
from .freezing import unfreeze_norms as unfreeze_norms
from .freezing import unfreeze_stages as unfreeze_stages
from .inference import optimize_for_inference as optimize_for_inference
from .input_spec import InputSpec as InputSpec
from .inspection import count_parameters as count_parameters
from .inspection import get_feature_channels as get_feature_channels
from .inspection import get_feature_info as get_feature_info
from .inspection import get_feature_strides as get_feature_strides
from .inspection import get_input_spec as get_input_spec
from .levels import FeatureLevel as FeatureLevel
from .load import init_non_persistent_buffers as init_non_persistent_buffers
from .load import load_weights as load_weights
from .quantization import quantize as quantize
from .quantization_report import QuantizationReport as QuantizationReport
from .training import get_blocks as get_blocks
from .training import layer_decay_param_groups as layer_decay_param_groups
from .weights.report import WeightsReport as WeightsReport
