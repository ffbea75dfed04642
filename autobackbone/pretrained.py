"""Saving to folders and to the Hub, and loading from there."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import nn

from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureLevel
from autobackbone.values import path_of
from autobackbone.weights.report import WeightsReport
from autobackbone.weights.rules import CheckpointRules
from autobackbone.weights.saving import Saved, push, read_config


class Pretrained:
    """A module with levels that is saved with its config, and created and loaded again from that."""

    levels: tuple[FeatureLevel, ...]

    @property
    def input_spec(self) -> InputSpec:
        """What it takes as input."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        **overrides: Any,
    ) -> Self:
        """Load what `save_pretrained` or `push_to_hub` saved.

        Parameters
        ----------
        folder_or_repo
            A folder, or ``owner/repo`` on the Hub.
        revision
            Branch, tag or commit of the repository; ``None`` for its default.
        cache_dir
            Instead of the Hub's own cache.
        **overrides
            Fields of `FeatureBackboneConfig` that take precedence: of a backbone, other levels too, if they need no
            deeper block; of a pyramid, everything but its strides. What they do not change stays as it was saved, the
            normalization of images included.

        Returns
        -------
        FeatureBackbone or FeaturePyramid
            In training mode, on the default device, in the default dtype. What was saved optimized for inference comes
            back so: in evaluation mode, in its own dtype.

        Raises
        ------
        WeightsNotFoundError
            If there is no such folder or repository.
        WeightsCorruptedError
            If it holds nothing of this kind, a damaged one, or files of two.
        WeightsMismatchError
            If the overrides ask for what was not saved.
        ConfigError
            If an override cannot be honored, or the saved config sets more than an architecture and its arguments.
        """
        place = None if cache_dir is None else path_of(cache_dir, "cache_dir")
        where = path_of(folder_or_repo, "folder_or_repo")
        has_own_weights = "weights" not in overrides
        saved, weights = read_config(where, revision=revision, cache_dir=place, with_weights=has_own_weights)
        return cls.from_saved(saved, {"weights": weights, **overrides}, place)

    @classmethod
    def from_saved(cls, saved: Saved, overrides: Mapping[str, Any], cache_dir: str | None = None) -> Self:
        """Create what was saved, with the weights that the overrides name."""
        raise NotImplementedError

    @property
    def weights_report(self) -> WeightsReport | None:
        """What was loaded last; ``None`` if nothing was."""
        raise NotImplementedError

    @weights_report.setter
    def weights_report(self, report: WeightsReport | None) -> None:
        raise NotImplementedError

    @property
    def checkpoint_target(self) -> tuple[nn.Module, CheckpointRules]:
        """The module that checkpoints are loaded into, and how they are matched to it."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Save config, weights and a model card to a folder, made if need be.

        The weights are a safetensors file of ``state_dict()``. The folder is replaced as one: if the process is killed
        while it saves, the folder loads either as before or as saved. So a module can be saved to the folder that it
        came from. Other files in the folder stay.

        Only what can be loaded again, equal, is saved. To find out, the module is created once more from its config,
        without storage, and the names, shapes and kinds of its tensors are compared. Not saved are the state of
        freezing, and modules that were replaced by others with the same tensors.

        Raises
        ------
        ConfigError
            If ``config.extra_kwargs`` holds something that JSON cannot, or that a file may not set.
        WeightsMismatchError
            If there are other tensors than those of the config: of adapters, parametrizations, quantized layers.
        WeightsError
            If there are no weights, or only a shard of them, or a file cannot be written.
        """
        path = Path(path_of(folder, "folder"))
        self.write_pretrained(path, path.resolve().name)

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Upload backbone",
    ) -> str:
        """Save to a repository on the Hub, made if need be.

        Parameters
        ----------
        repo
            ``owner/repo``.
        private
            Whether a repository that is made is private; ``None`` for the owner's default.
        token
            One that may write; by default the one that ``hf auth login`` stored.
        revision
            Branch to commit to, made if need be; ``None`` for the default one.
        commit_message
            Of the commit.

        Returns
        -------
        str
            The address of the repository.

        Raises
        ------
        WeightsError
            If that is not allowed, or the Hub is out of reach.
        """
        return push(
            self.write_pretrained, repo, private=private, token=token, revision=revision, message=commit_message
        )

    def write_pretrained(self, folder: Path, title: str) -> None:
        """Write it to a folder, under a title: all of it, or nothing."""
        raise NotImplementedError
