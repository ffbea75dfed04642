"""The source of a model, chosen by its name."""

from autobackbone.catalog.records import ModelRecord
from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.errors import ConfigError
from autobackbone.names import ModelRef, parse_name
from autobackbone.sources.seam import Plan, Source
from autobackbone.sources.timm.registry import architectures
from autobackbone.sources.timm.source import TimmSource


def make_plan(config: BackboneConfig | FeatureBackboneConfig) -> Plan:
    """Return how the model of a config is built.

    Raises
    ------
    UnknownBackboneError
        If the name fits no backbone.
    ConfigError
        If `config` holds an argument that cannot be honored.
    UnsupportedError
        If the architecture lacks an ability that `config` asks for.
    """
    ref = parse_name(config.model_name, architectures())
    return _source_of(ref).plan(ref, config)


def describe(name: str) -> ModelRecord:
    """Return the record of a model; see `Source.describe`."""
    ref = parse_name(name, architectures())
    return _source_of(ref).describe(ref)


def check_saved(config: BackboneConfig | FeatureBackboneConfig, where: str) -> None:
    """Refuse a saved config that sets more than an architecture and its arguments.

    Parameters
    ----------
    config
        The saved config.
    where
        What to call the file in messages.

    Raises
    ------
    UnknownBackboneError
        If there is no such architecture.
    ConfigError
        If it names a folder or a repository, or sets what a file may not set.
    """
    ref = parse_name(config.model_name, architectures())
    source = _source_of(ref)
    if ref.scheme != source.name:
        msg = f"{where} sets model_name={config.model_name!r}; a saved backbone names an architecture, and no place."
        raise ConfigError(msg)
    source.check_saved(ref, config.extra_kwargs, where)


def _source_of(ref: ModelRef) -> Source:
    if ref.scheme == "dinov3":
        from autobackbone.sources.dinov3.source import DINOv3Source  # transformers takes seconds to import

        return DINOv3Source()
    return TimmSource()
