"""From a table of features back to what made it: the features of another image, made in the same way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from autobackbone.backbone import FeatureBackbone
from autobackbone.config import BackboneConfig, FeatureBackboneConfig
from autobackbone.create import create_backbone, create_feature_backbone
from autobackbone.errors import ConfigError, InputError, UnsupportedError, WeightsMismatchError
from autobackbone.extraction.columns import Column
from autobackbone.extraction.images import DatasetImages, ImageRef, is_remote
from autobackbone.extraction.lanes import Job
from autobackbone.extraction.parts import Layout
from autobackbone.extraction.pipeline import Chunk, compute_parts
from autobackbone.extraction.preparation import Preparation
from autobackbone.extraction.recipe import Recipe, hash_of_weights
from autobackbone.inference_form import InferenceForm
from autobackbone.inspection import get_input_spec
from autobackbone.sources.choose import check_saved
from autobackbone.values import shown
from autobackbone.weights.kinds import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

RANDOM_SEED = 0  # before a backbone with random weights is created
_OF_IMAGES = ("interpolation", "crop_pct", "crop_mode")
_OF_PIXELS = ("mean", "std")


def remake(metadata: Mapping[str, Any], *, weights: str | None = None) -> Callable[[bytes | Any], dict[str, Tensor]]:
    """Make the backbone of a table again, and what was done to images and features.

    Parameters
    ----------
    metadata
        Of the table.
    weights
        The weights file that the table was made with; ``None`` for where its weights came from. If they came from
        nowhere, they are random, after ``torch.manual_seed(0)``.

    Returns
    -------
    callable
        Takes an encoded or PIL image, and returns the ``(*shape)`` feature of each column. It raises `InputError` if
        the image cannot be read.

    Raises
    ------
    UnsupportedError
        If images were prepared by a function, or as tensors.
    ConfigError
        If the metadata sets more than an architecture and its arguments, or names weights on the web.
    WeightsError
        If the weights cannot be had, or are not those of the table.
    """
    transform = metadata["transform"]
    if "custom" in transform:
        msg = (
            f"The images of the table were prepared by {transform['custom']}, which is not kept in the table; name an "
            "image of the table by its id."
        )
        raise UnsupportedError(msg)
    backbone = _backbone(metadata, weights).eval()
    if isinstance(backbone, FeatureBackbone) and metadata.get("inference") is not None:
        backbone.to_inference(InferenceForm.from_dict(metadata["inference"]))
    dtype = getattr(torch, metadata["compute_dtype"])
    if next(backbone.parameters()).dtype != dtype:  # else scales of quantized weights would lose precision
        backbone = backbone.to(dtype)
    if hash_of_weights(backbone) != metadata["weights"]["sha256"]:
        raise WeightsMismatchError(_other_weights(metadata, weights))
    preparation = _preparation(backbone, transform)
    columns = tuple(_column(about, backbone) for about in metadata["columns"])
    layout = Layout(columns, preparation.input_size, DTYPES[metadata["dtype"]], Recipe(dict(metadata)))

    def features(content: Any) -> dict[str, Tensor]:
        images = DatasetImages([ImageRef("query")], [content])
        job = Job(backbone, images, preparation, columns, layout, batch_size=1, workers=1)
        (part,) = compute_parts(job, [Chunk(0, images.refs)])
        if part.failures:
            msg = f"The image has no features: {part.failures[0]}."
            raise InputError(msg)
        return part.features(0)

    return features


def _backbone(metadata: Mapping[str, Any], weights: str | None) -> nn.Module:
    kind = FeatureBackboneConfig if metadata["kind"] == "features" else BackboneConfig
    config = kind.from_dict(metadata["config"])
    _check_trust(config, weights)
    if weights is not None:
        config = config.replace(pretrained=False, weights=weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        if isinstance(config, FeatureBackboneConfig):
            return create_feature_backbone(config)
        return create_backbone(config)


def _check_trust(config: BackboneConfig | FeatureBackboneConfig, weights: str | None) -> None:
    """Refuse what a table must not decide, as others may have made it: arguments of no architecture, web addresses."""
    places = ("hf-hub:", "local-dir:")
    if not config.model_name.startswith(places):
        check_saved(config, "The metadata of the table")
    elif config.extra_kwargs:
        msg = f"The metadata of the table sets extra_kwargs={shown(config.extra_kwargs)} for {config.model_name!r}; "
        raise ConfigError(msg + "name an image of the table by its id.")
    if weights is None and config.weights is not None and (is_remote(config.weights) or "hf-hub:" in config.weights):
        msg = (
            f"The weights of the table are from {shown(config.weights)}. A table does not choose what is downloaded; "
            "if you trust the place, name it (--weights)."
        )
        raise ConfigError(msg)


def _other_weights(metadata: Mapping[str, Any], weights: str | None) -> str:
    """Return the message about weights that are not those of the table."""
    name = metadata["config"]["model_name"]
    origin = metadata["weights"]["origin"]
    if weights is not None:
        return f"{shown(weights)} does not hold the weights of {name} that the table was made with; give that file."
    if not metadata["weights"]["loaded"]:
        return (
            f"The weights of {name} in the table were not loaded from anywhere, and are not those that seed "
            f"{RANDOM_SEED} gives here; give the file with them (--weights), or name an image of the table by its id."
        )
    return (
        f"The weights of {name} that are here now are not those of the table, which came from {shown(origin)}; give "
        "the file with them (--weights), or name an image of the table by its id."
    )


def _preparation(backbone: nn.Module, transform: Mapping[str, Any]) -> Preparation:
    """Return what is done to images: as the table says, where weights of a file say something else, too."""
    spec = get_input_spec(backbone)
    kept = {name: transform[name] for name in _OF_IMAGES if name in transform}
    kept |= {name: tuple(transform[name]) for name in _OF_PIXELS}
    size = transform.get("size")
    return Preparation(
        replace(spec, **kept),
        transform["resize"],
        spec.size if size is None else (size[0], size[1]),
        transform.get("scaled_decoding", True),
        None,
    )


def _column(about: Mapping[str, Any], backbone: nn.Module) -> Column:
    if not isinstance(backbone, FeatureBackbone):
        return Column(about["name"], about["channels"])
    position = [level.name for level in backbone.levels].index(about["level"])
    return Column(about["name"], about["channels"], about["level"], position, about["stride"], about["reduction"])
