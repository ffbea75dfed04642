"""timm's registry: its architectures, including those that users register, and what timm declares about them."""

import functools
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from autobackbone.catalog.encoding import tagged_name
from autobackbone.catalog.records import ModelRecord, PublishedInput, PublishedWeights
from autobackbone.sources.published import check_published, known_fields


def timm_version() -> str:
    """Return the version of the installed timm."""
    if "timm" not in sys.modules:
        try:
            return importlib.metadata.version("timm")  # without importing it
        except importlib.metadata.PackageNotFoundError:  # a checkout on the path
            pass
    import timm

    return str(timm.__version__)


def is_released(version: str) -> bool:
    """Whether a version is a release. Facts measured for a development version may soon be wrong."""
    return "dev" not in version


def registered_by_user() -> dict[str, Callable[..., Any]]:
    """Return the builders that the user registered in this process, by name; empty if timm is not imported."""
    if "timm" not in sys.modules:
        return {}
    from timm.models._registry import _model_entrypoints as builders  # timm's list is slow

    return {name: build for name, build in builders.items() if not build.__module__.startswith("timm.models")}


class _Registry(Mapping[str, tuple[str, ...]]):
    """timm's registry: every architecture, with the tags of its published weights."""

    @property
    def _tags(self) -> Mapping[str, tuple[str, ...]]:
        return _tags(tuple(registered_by_user().items()))

    def __contains__(self, name: object) -> bool:
        # Do not list all architectures, which is slow. timm would ignore a tag.
        import timm

        return isinstance(name, str) and "." not in name and timm.is_model(name)

    def __getitem__(self, name: str) -> tuple[str, ...]:
        return self._tags[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tags)

    def __len__(self) -> int:
        return len(self._tags)


@functools.lru_cache(maxsize=1)
def _tags(_mine: tuple[tuple[str, Callable[..., Any]], ...]) -> dict[str, tuple[str, ...]]:
    import timm

    tags: dict[str, list[str]] = {name: [] for name in timm.list_models()}
    for tagged in timm.list_pretrained():
        name, _, tag = tagged.partition(".")
        tags[name].append(tag)
    return {name: tuple(values) for name, values in tags.items()}


def architectures() -> Mapping[str, tuple[str, ...]]:
    """Return every architecture in timm's registry, with the tags of its published weights."""
    return _Registry()


def declared_record(architecture: str) -> ModelRecord:
    """Return the record of what timm declares about an architecture: its module, and its published weights."""
    default = published_cfg(architecture)
    tags = sorted(architectures()[architecture], key=lambda tag: tag != default.get("tag"))
    weights = []
    for tag in tags:
        name = tagged_name(architecture, tag)
        cfg = published_cfg(name)
        weights.append(PublishedWeights(name, tag, input_of(cfg), cfg.get("license"), cfg.get("hf_hub_id")))
    return ModelRecord(architecture, "timm", family(architecture), input_of(default), tuple(weights))


def published_cfg(name: str) -> dict[str, Any]:
    """Return timm's config of published weights, with defaults for absent fields.

    Raises
    ------
    ConfigError
        If a field is not valid: users register architectures with configs of their own.
    """
    import timm

    cfg = timm.get_pretrained_cfg(name)  # None for many architectures that users register
    given = {} if cfg is None else {field: value for field, value in cfg.to_dict().items() if value is not None}
    checked = check_published(known_fields(given), f"timm's config of {name!r}")
    return {**timm.models.PretrainedCfg().to_dict(), **given, **checked}


def family(architecture: str) -> str:
    """Return the timm module that defines an architecture."""
    import timm

    return str(timm.model_entrypoint(architecture).__module__).rpartition(".")[2]


def input_of(cfg: Mapping[str, Any]) -> PublishedInput:
    """Return the input of published weights, from their config."""
    in_chans, height, width = cfg["input_size"]
    return PublishedInput(
        in_chans=in_chans,
        size=(height, width),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        interpolation=cfg["interpolation"],
        crop_pct=cfg["crop_pct"],
        crop_mode=cfg.get("crop_mode") or "center",
    )
