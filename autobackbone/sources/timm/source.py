"""timm as a source: any architecture of its registry, or a timm config on the Hub or in a folder."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autobackbone.catalog.records import ModelRecord
from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.names import ModelRef
from autobackbone.sources.installed import measured
from autobackbone.sources.timm.config import check_saved_arguments
from autobackbone.sources.timm.plan import TimmPlan
from autobackbone.sources.timm.registry import declared_record


class TimmSource:
    """timm."""

    name = "timm"

    def describe(self, ref: ModelRef) -> ModelRecord:
        """Return what timm declares of a model, with its levels and sizes as they were measured."""
        if ref.scheme != self.name:
            return TimmPlan.resolve(ref, FeatureBackboneConfig(str(ref), pretrained=False)).describe()
        return replace(declared_record(ref.name), facts=measured(ref.name))

    def plan(self, ref: ModelRef, config: BackboneConfig | FeatureBackboneConfig) -> TimmPlan:
        """Return how a model is built; `TimmPlan.resolve` lists the errors."""
        return TimmPlan.resolve(ref, config)

    def check_saved(self, ref: ModelRef, extra_kwargs: Mapping[str, Any], where: str) -> None:
        """Refuse arguments of a saved config that are not those of an architecture."""
        check_saved_arguments(ref.name, extra_kwargs, where)
