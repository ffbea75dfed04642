"""The recipe of a table of features: backbone, weights, images and versions, as the metadata of its files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autobackbone.backbone import FeatureBackbone
from autobackbone.errors import ConfigError
from autobackbone.sources.seam import attachment_of
from autobackbone.unwrapping import unwrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autobackbone.config import BackboneConfig, FeatureBackboneConfig
    from autobackbone.extraction.columns import Column
    from autobackbone.extraction.preparation import Preparation

KEY = b"autobackbone"  # of the schema's metadata
FORMAT = 1
_LIBRARIES = ("autobackbone", "timm", "torch", "transformers", "pillow")
_LOADING = ("pretrained", "weights")  # fields of a config that say where weights come from; their hash says which


@dataclass(frozen=True)
class Recipe:
    """How features were made: enough to make them again.

    Attributes
    ----------
    values
        Plain values, as they stand in the metadata of every file.
    """

    values: dict[str, Any]

    @classmethod
    def of(
        cls,
        backbone: nn.Module,
        columns: Sequence[Column],
        preparation: Preparation,
        dtype: str,
    ) -> Recipe:
        """Describe a run.

        Parameters
        ----------
        backbone
            Of either kind.
        columns
            What is kept.
        preparation
            What is done to images.
        dtype
            In which features are kept.
        """
        inner = unwrap(backbone)
        attachment = attachment_of(inner)
        assert attachment is not None, "the backbone was checked"
        report = attachment.weights_report
        like = next(backbone.parameters())
        inference = inner.inference if isinstance(inner, FeatureBackbone) else None
        return cls(
            {
                "format": FORMAT,
                "kind": "features" if isinstance(inner, FeatureBackbone) else "pooled",
                "config": config_of(inner).to_dict(),
                "weights": {
                    "loaded": report is not None,  # else they are random, or trained in this process
                    "origin": None if report is None else report.origin,
                    "sha256": hash_of_weights(inner),
                },
                "license": attachment.license,
                "inference": None if inference is None else inference.to_dict(),
                "compute_dtype": str(like.dtype).removeprefix("torch."),
                "dtype": dtype,
                "columns": [column.describe() for column in columns],
                "transform": preparation.describe(),
                "versions": {name: _version(name) for name in _LIBRARIES},
            }
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of features."""
        return tuple(column["name"] for column in self.values["columns"])

    @classmethod
    def from_metadata(cls, metadata: dict[bytes, bytes] | None) -> Recipe | None:
        """Read the metadata of a file; ``None`` if the file is none of this package's."""
        try:
            values = json.loads((metadata or {})[KEY])
        except (KeyError, ValueError):
            return None
        return cls(values) if isinstance(values, dict) and "columns" in values else None

    def to_metadata(self) -> dict[bytes, bytes]:
        """Return the metadata of a file."""
        return {KEY: json.dumps(self.values).encode()}

    def difference(self, other: Recipe) -> str | None:
        """Return in which respect another recipe gives other features; ``None`` if it gives the same.

        Where weights came from and the versions of libraries do not count: the hash of the weights does.
        """
        for name in ("format", "kind", "columns", "transform", "dtype", "compute_dtype"):
            if self.values.get(name) != other.values.get(name):
                return f"{name} {_shown(self.values.get(name))} instead of {_shown(other.values.get(name))}"
        ours, theirs = self.values["config"], other.values["config"]
        for name in sorted({*ours, *theirs} - {*_LOADING}):
            if ours.get(name) != theirs.get(name):
                return f"{name}={ours.get(name)!r} instead of {theirs.get(name)!r}"
        if self.values["weights"]["sha256"] != other.values["weights"]["sha256"]:
            return "other weights"
        return None


def config_of(backbone: Any) -> BackboneConfig | FeatureBackboneConfig:
    """Return the config of a backbone of either kind.

    Raises
    ------
    ConfigError
        If it was not made by this package.
    """
    if isinstance(backbone, FeatureBackbone):
        return backbone.config
    attachment = attachment_of(backbone) if isinstance(backbone, nn.Module) else None
    if attachment is None or attachment.config is None:
        msg = f"A backbone of create_backbone() or create_feature_backbone() is needed, got {type(backbone).__name__}."
        raise ConfigError(msg)
    return attachment.config


def hash_of_weights(backbone: nn.Module) -> str:
    """Return the SHA-256 of names, types, shapes and values of a state dict."""
    digest = sha256()
    for name, value in sorted(backbone.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def weights_note(values: dict[str, Any]) -> str:
    """Return what to say where features are shown whose weights were not loaded; nothing if they were."""
    return "" if values["weights"]["loaded"] else "RANDOM WEIGHTS, or trained where the features were extracted"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else f"{text[:200]} ..."
