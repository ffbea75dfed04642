"""From a config to the source that has its model."""

from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.names import parse_name
from autobackbone.sources import Source
from autobackbone.sources.registry import architectures
from autobackbone.sources.timm import TimmSource


def choose_source(config: BackboneConfig | FeatureBackboneConfig) -> Source:
    """Return the source of the model that a config names.

    Raises
    ------
    UnknownBackboneError
        If the name fits no backbone.
    ConfigError
        If `config` holds an argument that cannot be honoured.
    UnsupportedError
        If the architecture lacks an ability asked for.
    """
    ref = parse_name(config.model_name, architectures())
    if ref.source == "dinov3":
        from autobackbone.sources.dinov3 import DINOv3Source  # transformers takes seconds to import

        return DINOv3Source(ref, config)
    return TimmSource(ref, config)
