"""The Hub's cache: find files, add files, and move damaged files out of it."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
from filelock import FileLock, Timeout
from huggingface_hub import constants, errors
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]  # lazily

from autobackbone.weights.transfer import Patience, answer_timeout, transfer


class CachedPath(type(Path())):  # type: ignore[misc]  # before Python 3.12 the class depends on the system
    """A file in a cache, which can be fetched again. Paths from users never have this type."""


@dataclass(frozen=True)
class HubCache:
    """A repository in the Hub's cache, in the layout that huggingface_hub documents.

    huggingface_hub resolves revisions and finds files. It is not used to download, because it waits as long as a server
    asks, and keeps running and writing after the caller has given up.
    """

    repo: str
    folder: Path

    def find(self, name: str, revision: str | None) -> CachedPath | None:
        """Return a file at a revision, if the cache has it."""
        path = huggingface_hub.try_to_load_from_cache(self.repo, name, cache_dir=self.folder, revision=revision)
        return CachedPath(path) if isinstance(path, str) else None

    def fetch(self, name: str, revision: str | None, patience: Patience) -> CachedPath:
        """Return a file at the current commit of a revision, downloaded if it is not in the cache.

        Raises
        ------
        httpx.HTTPError, OSError
            If the Hub is out of reach or has no such file, or the file cannot be stored.
        """
        if any(not text or Path(text).is_absolute() or ".." in Path(text).parts for text in (name, revision or "main")):
            msg = f"{name!r} of {revision!r} is outside the repository"
            raise ValueError(msg)
        path = self.find(name, revision)
        if path is not None and re.fullmatch(r"[0-9a-f]{40}", revision or ""):
            return path
        url = huggingface_hub.hf_hub_url(self.repo, name, revision=revision)
        metadata = patience.call(
            huggingface_hub.get_hf_file_metadata, url, timeout=answer_timeout(), library_name="autobackbone"
        )
        commit, etag = metadata.commit_hash, metadata.etag
        if not commit or not etag or (Path(etag).name, Path(commit).name) != (etag, commit):
            msg = f"{urlsplit(url).netloc!r} answers as no Hub does"
            raise errors.FileMetadataError(msg)
        cached = self.find(name, commit)
        if cached is None:
            cached = CachedPath(self._repo_folder, "snapshots", commit, name)
            self._add(
                cached, self._repo_folder / "blobs" / etag, url, partial(_check_commit, commit), metadata.size, patience
            )
        if path != cached and revision != commit:
            with suppress(OSError):  # a read-only cache works too
                ref = self._repo_folder / "refs" / (revision or constants.DEFAULT_REVISION)
                ref.parent.mkdir(parents=True, exist_ok=True)
                ref.write_text(commit)
        return cached

    @property
    def _repo_folder(self) -> Path:
        return self.folder / f"models--{self.repo.replace('/', '--')}"

    def _add(
        self, path: Path, blob: Path, url: str, check: Callable[[Any], None], size: int | None, patience: Patience
    ) -> None:
        headers = patience.call(build_hf_headers, library_name="autobackbone")  # this may also ask the Hub
        headers |= {"Accept-Encoding": "identity"}
        lock = self.folder / ".locks" / self._repo_folder.name / f"{blob.name}.lock"  # huggingface_hub's own
        for file in (blob, path, lock):
            file.parent.mkdir(parents=True, exist_ok=True)
        part = blob.with_name(f"{blob.name}.{os.urandom(4).hex()}.incomplete")
        with _hold_lock(lock, blob, patience):
            if path.is_file():
                return
            if not blob.is_file():
                try:
                    transfer(
                        url, part, patience, name=path.name, size=size, check=check, is_immutable=True, headers=headers
                    )
                    _check_digest(part, blob.name)
                    part.replace(blob)
                finally:
                    part.unlink(missing_ok=True)
            _link(blob, path)
            patience.renew()


def _link(blob: Path, path: Path) -> None:
    """Put a blob at the path of a file of a commit: as a link, or moved where links are not possible."""
    path.unlink(missing_ok=True)  # a broken link
    try:
        if getattr(constants, "HF_HUB_DISABLE_SYMLINKS", False):
            blob.replace(path)
        else:
            path.symlink_to(os.path.relpath(blob, path.parent))
    except FileExistsError:  # without locks, another process can be faster
        pass
    except OSError:
        blob.replace(path)


@contextmanager
def _hold_lock(lock: Path, blob: Path, patience: Patience) -> Iterator[None]:
    """Wait while another process downloads the same file, as long as its partial file grows."""
    file_lock = FileLock(lock)
    size = _partial_size(blob)
    while not file_lock.is_locked:
        try:
            file_lock.acquire(timeout=0.1)
        except Timeout:
            before, size = size, _partial_size(blob)
            if size > before:
                patience.renew()
            if patience.remaining < 0:
                msg = f"another process is at it, and gets nowhere; end it, or wait until it lets go of {str(lock)!r}"
                raise TimeoutError(msg) from None
        except (OSError, NotImplementedError):  # a file system without locks
            break
    try:
        yield
    finally:
        file_lock.release()


def _partial_size(blob: Path) -> int:
    """Return the number of bytes downloaded so far for a blob."""
    parts = (p for p in blob.parent.iterdir() if p.name.startswith(blob.name) and p.suffix == ".incomplete")
    size = 0
    for path in parts:
        with suppress(FileNotFoundError):  # it is complete by now
            size += path.stat().st_size
    return size


def _check_commit(commit: str, response: Any) -> None:
    """Check that a response, and the redirects before it, have the expected commit."""
    hf_raise_for_status(response)
    commits = {r.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT) for r in (*response.history, response)}
    if not commits <= {commit, None}:
        msg = "the repository changed during the download; try again"
        raise ConnectionError(msg)


def _check_digest(path: Path, etag: str) -> None:
    """Check the SHA-256 of a file, which the Hub uses as the entity tag of large files."""
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != etag:
                msg = "what arrived is not what the Hub announced (its SHA-256 differs); try again"
                raise ConnectionError(msg)


def quarantine(path: Path) -> str:
    """Move a damaged file out of its cache, so that the next call fetches it again.

    Parameters
    ----------
    path
        The file. It is moved only if it is a `CachedPath`; files that users name are left alone.

    Returns
    -------
    str
        A sentence for a message, after a space; empty if the file is not in a cache.
    """
    if not isinstance(path, CachedPath):
        return ""
    try:
        blob = path.parent.resolve() / path.readlink() if path.is_symlink() else path
        aside = Path(os.path.normpath(f"{blob}.damaged"))
        blob.replace(aside)  # keep it: without a network it is the only copy
        if blob is not path:
            path.unlink()
    except OSError as err:
        return f" It is in the cache as {str(path)!r}, and could not be moved away ({err.strerror or err}); delete it."
    return f" It was moved out of the cache, to {str(aside)!r}; the next call fetches it again."


def is_no_json(err: Exception) -> bool:
    """Whether an error means that a file is not JSON, and so is damaged."""
    return isinstance(err, json.JSONDecodeError | UnicodeDecodeError)
