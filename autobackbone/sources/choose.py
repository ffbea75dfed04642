"""From a config to the source that has its model."""

from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.errors import ConfigError
from autobackbone.names import parse_name
from autobackbone.sources.seam import Source
from autobackbone.sources.timm.config import check_saved_arguments
from autobackbone.sources.timm.registry import architectures
from autobackbone.sources.timm.source import TimmSource


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
        from autobackbone.sources.dinov3.source import DINOv3Source  # transformers takes seconds to import

        return DINOv3Source(ref, config)
    return TimmSource(ref, config)


def check_saved(config: FeatureBackboneConfig, where: str) -> None:
    """Refuse a saved config that says more than the architecture and its arguments.

    Parameters
    ----------
    config
        As it was read.
    where
        What to call the file in messages.

    Raises
    ------
    UnknownBackboneError
        If there is no such architecture.
    ConfigError
        If it names a folder or another repository, or sets what a file may not.
    """
    ref = parse_name(config.model_name, architectures())
    if ref.source == "dinov3":
        from autobackbone.sources.dinov3 import source as dinov3  # transformers takes seconds to import

        dinov3.check_saved_arguments(ref.name, config.extra_kwargs, where)
    elif ref.source == "timm":
        check_saved_arguments(ref.name, config.extra_kwargs, where)
    else:
        msg = f"{where} sets model_name={config.model_name!r}; a saved backbone names an architecture, and no place."
        raise ConfigError(msg)
