"""Saving to folders and to the Hub, of whatever can be loaded again from there."""

import os
from pathlib import Path

from autobackbone.values import path_of
from autobackbone.weights.saving import push


class Pretrained:
    """A module that is saved with what it was made with, and made and loaded again from that."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Save config, weights and a model card to a folder, made if need be.

        The weights are a safetensors file of ``state_dict()``. The folder is replaced as one: a process that is killed
        while it saves leaves a folder that loads as what it held or as what was saved. Other files in it stay. So it
        can be saved to the folder that it came from.

        What is saved can be loaded again, equal, or nothing is saved: the module is made once more from its config,
        without storage, and the names, shapes and kinds of its tensors are compared. What is frozen, and modules that
        were replaced by others with the same tensors, are not saved.

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
