"""Fetching files from the Hub and the web into their caches, and saying in this package's errors why that failed."""

import errno
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import huggingface_hub
import torch
from huggingface_hub import constants, errors
from huggingface_hub.utils.tqdm import tqdm

from autobackbone.errors import (
    GatedWeightsError,
    WeightsCorruptedError,
    WeightsError,
    WeightsNotFoundError,
    WeightsUnavailableError,
)

_TIMEOUT = 10  # seconds to wait for a first answer
# The base of httpx's errors, whichever httpx the Hub's client is built on.
_HTTP_ERROR: type[Exception] = next(e for e in errors.HfHubHTTPError.__mro__[1:] if e.__name__ == "HTTPError")
_UNREACHABLE = (_HTTP_ERROR, ConnectionError, TimeoutError, errors.FileMetadataError, errors.LocalEntryNotFoundError)


def fetch(
    repo: str,
    names: Sequence[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    remedy: str = "",
) -> Path:
    """Return the first of some files that a repository on the Hub has, downloaded if the cache does not hold it.

    A file in the cache needs no network. One that is not is asked for once, without retries, so that a failure is
    known within seconds.

    Parameters
    ----------
    repo
        ``owner/repo``.
    names
        Files in the repository; the first that exists is taken.
    revision
        Branch, tag or commit; ``None`` for the default branch.
    cache_dir
        Instead of the Hub's own cache.
    remedy
        What else can be done about a failure, for its message.

    Raises
    ------
    GatedWeightsError
        If the licence of the repository was not accepted.
    WeightsNotFoundError
        If there is no such repository, revision or file.
    WeightsUnavailableError
        If the Hub is out of reach, or the download does not come to its end.
    WeightsError
        If the file cannot be stored.
    """

    def held(name: str) -> str | None:
        path = huggingface_hub.try_to_load_from_cache(repo, name, cache_dir=cache_dir, revision=revision)
        return path if isinstance(path, str) else None

    where = repo if revision is None else f"{repo}@{revision}"
    what = f"{names[0]!r}{' or the like' if len(names) > 1 else ''} of {where!r}"
    with explained(f"Fetching {what}", remedy):
        for name in names:
            try:
                if constants.HF_HUB_OFFLINE:
                    msg = "HF_HUB_OFFLINE is set"
                    raise errors.OfflineModeIsEnabled(msg)
                if held(name) is None:  # hf_hub_download would go on trying for most of a minute
                    url = huggingface_hub.hf_hub_url(repo, name, revision=revision)
                    huggingface_hub.get_hf_file_metadata(url, timeout=_TIMEOUT)
                return Path(
                    huggingface_hub.hf_hub_download(
                        repo,
                        name,
                        revision=revision,
                        cache_dir=cache_dir,
                        etag_timeout=_TIMEOUT,
                        library_name="autobackbone",
                        tqdm_class=_Progress,
                    )
                )
            except errors.RemoteEntryNotFoundError:
                if name == names[-1]:
                    raise
            except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
                raise
            except _UNREACHABLE:  # what the cache holds, under whatever name, will do
                path = next((p for p in map(held, names) if p is not None), None)
                if path is None:
                    raise
                return Path(path)
    raise AssertionError(names)


def fetch_url(url: str) -> Path:
    """Return the file behind a web address, downloaded if torch's cache does not hold it.

    Raises
    ------
    WeightsNotFoundError
        If there is no such file.
    GatedWeightsError
        If the server asks who wants it.
    WeightsCorruptedError
        If the address leads to a web page.
    WeightsUnavailableError
        If the server is out of reach, or the download does not come to its end.
    WeightsError
        If the file cannot be stored.
    """
    try:
        parsed = urlparse(url)
        valid = bool(parsed.hostname) and (parsed.port is None or parsed.port > 0) and url.isprintable()
    except ValueError:
        valid = False
    if not valid:
        msg = f"weights={url!r} is no address; write 'https://host/path'."
        raise WeightsNotFoundError(msg)
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]  # files of different addresses may share a name
    name = f"{digest}-{Path(parsed.path).name[-100:] or 'weights'}"  # longer ones a file system may refuse
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    if not path.is_file():
        with explained(f"Fetching {url!r}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                partial = Path(folder, name)
                _download(url, partial)
                partial.replace(path)
    return path


def _download(url: str, path: Path) -> None:
    client = huggingface_hub.get_session()
    with client.stream("GET", url, timeout=_TIMEOUT, follow_redirects=True) as response:
        if response.status_code in (404, 410):
            msg = f"{url!r}: the server has no such file ({response.status_code}); check the address."
            raise WeightsNotFoundError(msg)
        if response.status_code in (401, 403):
            msg = f"{url!r}: the server does not give it to everyone ({response.status_code}); download it yourself."
            raise GatedWeightsError(msg)
        response.raise_for_status()
        if "html" in response.headers.get("content-type", ""):
            msg = f"{url!r} leads to a web page, not to a file; use the address of the file itself."
            raise WeightsCorruptedError(msg)
        size = int(response.headers.get("content-length", 0)) or None
        with path.open("wb") as file, tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
            for chunk in response.iter_bytes():
                file.write(chunk)
                bar.update(len(chunk))


@contextmanager
def explained(doing: str, remedy: str = "") -> Iterator[None]:
    """Turn what goes wrong with the Hub or the web into this package's errors.

    Parameters
    ----------
    doing
        What is done, for messages, such as ``"Fetching 'config.json' of 'owner/repo'"``.
    remedy
        What else can be done about a failure.
    """
    remedy = remedy and f" {remedy.strip()}"
    try:
        yield
    except errors.GatedRepoError as err:
        msg = (
            f"{doing} failed: the repository is gated. Accept the licence on its page and run 'hf auth login'.{remedy}"
        )
        raise GatedWeightsError(msg) from err
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as err:
        kind = {errors.RevisionNotFoundError: "revision", errors.RemoteEntryNotFoundError: "file"}
        msg = (
            f"{doing} failed: the Hub has no such {kind.get(type(err), 'repository')}. Check the spelling, or run "
            f"'hf auth login' if the repository is private.{remedy}"
        )
        raise WeightsNotFoundError(msg) from err
    except (*_UNREACHABLE, ValueError) as err:  # ValueError: what answers is no Hub
        raise WeightsUnavailableError(_unavailable(doing, err, remedy)) from err
    except OSError as err:
        if "Consistency check failed" in str(err):
            raise WeightsUnavailableError(_unavailable(doing, err, remedy)) from err
        full = err.errno == errno.ENOSPC
        cause = "the disk is full; free some space, or set HF_HOME to a folder on another disk" if full else _cause(err)
        msg = f"{doing} failed: {cause}."
        raise WeightsError(msg) from err


def _unavailable(doing: str, err: BaseException, remedy: str) -> str:
    return f"{doing} failed: {_cause(err)}. Check the network, HF_HUB_OFFLINE and HF_ENDPOINT.{remedy}"


def first_line(err: BaseException) -> str:
    """Return the first line of an error's message without its full stop, or its type."""
    return (str(err).strip().splitlines() or [type(err).__name__])[0].rstrip(".")


def _cause(err: BaseException) -> str:
    while err.__cause__ is not None:
        err = err.__cause__
    return first_line(err)


class _Progress(tqdm):  # type: ignore[misc]
    """The Hub's progress bar, which gives up on a server that lets a download start over again and again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._restarts = 0

    def update(self, n: float | None = 1) -> bool | None:
        if n is not None and n < 0:  # what was there is gone: the server cannot go on where it stopped
            self._restarts += 1
        if self._restarts > 2:
            msg = "the server cut the download off again and again"
            raise ConnectionError(msg)
        shown: bool | None = super().update(n)
        return shown
