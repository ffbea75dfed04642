"""Fetch files from the Hub and the web into their caches, and turn failures into this package's errors."""

import errno
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from huggingface_hub import constants, errors
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # lazily

from autobackbone.addresses import redacted, redacted_in
from autobackbone.errors import (
    BackboneError,
    GatedWeightsError,
    WeightsCorruptedError,
    WeightsError,
    WeightsNotFoundError,
    WeightsUnavailableError,
)
from autobackbone.weights.cache import CachedPath, HubCache
from autobackbone.weights.transfer import Patience, httpx, transfer

_UNREACHABLE = (
    httpx.HTTPError,
    ConnectionError,
    TimeoutError,
    errors.FileMetadataError,
    errors.LocalEntryNotFoundError,
)


def fetch(
    repo: str,
    names: Sequence[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    remedy: str = "",
) -> Path:
    """Return the first of some files that exists in a repository on the Hub, downloaded if it is not in the cache.

    If `revision` is a commit and the file is in the cache, no network is needed. Otherwise the Hub is asked for the
    current commit. A download fails after at most `transfer.PATIENCE` seconds without a new byte.

    Parameters
    ----------
    repo
        ``owner/repo``.
    names
        Files in the repository, in order of preference.
    revision
        Branch, tag or commit; ``None`` for the default branch.
    cache_dir
        Cache folder to use instead of the Hub's default one.
    remedy
        A further remedy for the error message.

    Returns
    -------
    CachedPath
        A file that `quarantine` moves aside if it turns out to be damaged.

    Raises
    ------
    GatedWeightsError
        If the license of the repository was not accepted.
    WeightsNotFoundError
        If there is no such repository, revision or file.
    WeightsUnavailableError
        If the Hub is out of reach, or the download does not finish.
    WeightsError
        If the file cannot be stored.
    """
    cache = HubCache(repo, Path(cache_dir or constants.HF_HUB_CACHE).expanduser())
    patience = Patience()
    where = repo if revision is None else f"{repo}@{revision}"
    what = f"{names[0]!r}{' or the like' if len(names) > 1 else ''} of {where!r}"
    with translated_errors(f"Fetching {what}", remedy):
        for name in names:
            try:
                if constants.HF_HUB_OFFLINE:
                    msg = "HF_HUB_OFFLINE is set"
                    raise errors.OfflineModeIsEnabled(msg)
                return cache.fetch(name, revision, patience)
            except errors.RemoteEntryNotFoundError:
                if name == names[-1]:
                    raise
            except errors.RevisionNotFoundError:
                raise
            except _UNREACHABLE:  # use any of the files that is in the cache
                path = next((p for n in names if (p := cache.find(n, revision)) is not None), None)
                if path is None:
                    raise
                return path
    raise AssertionError(names)


def fetch_url(url: str) -> Path:
    """Return the file at a web address, downloaded if it is not in torch's cache.

    Returns
    -------
    CachedPath
        A file that `quarantine` moves aside if it turns out to be damaged.

    Raises
    ------
    WeightsNotFoundError
        If there is no such file.
    GatedWeightsError
        If the server requires a login.
    WeightsCorruptedError
        If the address leads to a web page.
    WeightsUnavailableError
        If the server is out of reach, or the download does not finish.
    WeightsError
        If the file cannot be stored.
    """
    shown = redacted(url)
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0) and url.isprintable()
    except ValueError:
        valid = False
    if not valid:
        msg = f"weights={shown!r} is no address; write 'https://host/path'."
        raise WeightsNotFoundError(msg)
    userinfo, _, host = parts.netloc.rpartition("@")  # sent in a header, so that no message of httpx shows it
    user, _, password = userinfo.partition(":")
    request: dict[str, Any] = {"auth": (unquote(user), unquote(password))} if userinfo else {}
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]  # files of different addresses may share a name
    name = (Path(parts.path).name or "weights").encode()[-200:].decode(errors="ignore")
    path = CachedPath(torch.hub.get_dir(), "checkpoints", f"{digest}-{name}")
    if not path.is_file():
        with translated_errors(f"Fetching {shown!r}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                part = Path(folder, path.name)
                address = parts._replace(netloc=host).geturl()
                transfer(address, part, Patience(), name=path.name, check=partial(_check_file, shown), **request)
                part.replace(path)
    return path


def _check_file(shown: str, response: Any) -> None:
    if response.status_code in (404, 410):
        msg = f"{shown!r}: the server has no such file ({response.status_code}); check the address."
        raise WeightsNotFoundError(msg)
    if response.status_code in (401, 403):
        msg = f"{shown!r}: the server does not give it to everyone ({response.status_code}); download it yourself."
        raise GatedWeightsError(msg)
    hf_raise_for_status(response)
    if "html" in response.headers.get("Content-Type", ""):
        msg = f"{shown!r} leads to a web page, not to a file; use the address of the file itself."
        raise WeightsCorruptedError(msg)


@contextmanager
def translated_errors(doing: str, remedy: str = "") -> Iterator[None]:
    """Turn errors of the Hub or the web into this package's errors.

    Parameters
    ----------
    doing
        The action, for messages, such as ``"Fetching 'config.json' of 'owner/repo'"``.
    remedy
        A further remedy for the error message.
    """
    remedy = remedy and f" {remedy.strip()}"
    try:
        yield
    except BackboneError:
        raise
    except errors.GatedRepoError as err:
        msg = (
            f"{doing} failed: the repository is gated. Accept the license on its page and run 'hf auth login'.{remedy}"
        )
        raise GatedWeightsError(msg) from _as_shown(err)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as err:
        kind = {errors.RevisionNotFoundError: "revision", errors.RemoteEntryNotFoundError: "file"}
        msg = (
            f"{doing} failed: the Hub has no such {kind.get(type(err), 'repository')}. Check the spelling, or run "
            f"'hf auth login' if the repository is private.{remedy}"
        )
        raise WeightsNotFoundError(msg) from _as_shown(err)
    except (*_UNREACHABLE, httpx.InvalidURL, ValueError, RuntimeError) as err:  # the last two: not a Hub that answers
        msg = f"{doing} failed: {_cause(err)}. Check the network, HF_HUB_OFFLINE and HF_ENDPOINT.{remedy}"
        raise WeightsUnavailableError(msg) from _as_shown(err)
    except OSError as err:
        full = err.errno == errno.ENOSPC
        cause = "the disk is full; free some space, or set HF_HOME to a folder on another disk" if full else _cause(err)
        msg = f"{doing} failed: {cause}."
        raise WeightsError(msg) from err


def first_line(err: BaseException) -> str:
    """Return the first line of an error's message without the final period, or the error's type if it is empty."""
    return redacted_in((str(err).strip().splitlines() or [type(err).__name__])[0].rstrip("."))


def _cause(err: BaseException) -> str:
    response: Any = getattr(err, "response", None)
    wait = None if response is None else response.headers.get("Retry-After")
    while err.__cause__ is not None:
        err = err.__cause__
    return first_line(err) + (f"; the server asks to wait {wait} s" if wait and wait.isdecimal() else "")


def _as_shown(err: BaseException) -> BaseException:
    """Return an error that a traceback may show: the same one, unless an address in it contains a secret."""
    link: BaseException | None = err
    while link is not None:
        if redacted_in(str(link)) != str(link):
            return ConnectionError(f"{type(err).__name__}: {first_line(err)}")
        link = link.__cause__ or link.__context__
    return err
