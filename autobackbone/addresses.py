"""Web addresses that are safe to show: without passwords, signatures and tokens."""

import re
from urllib.parse import urlsplit

HIDDEN = "***"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_IN_TEXT = re.compile(r"[a-z][a-z0-9+.-]*://[^\s<>]*[^\s<>'\"`),.;:]", re.IGNORECASE)  # no punctuation at the end
_SAFE_VALUE = re.compile(r"[0-9]{1,4}|true|false|yes|no|raw|file|main", re.IGNORECASE)
_SECRET_NAME = re.compile(r"auth|code|cred|key|pass|pin|pwd|secret|sig|token", re.IGNORECASE)


def redacted(origin: str) -> str:
    """Return the origin of weights in a form that is safe for messages, reports and logs.

    In an address, the user name and password are hidden, and so are the values in its query and fragment. Short values
    that are not secret stay visible. A origin that is not an address is returned unchanged.

    Parameters
    ----------
    origin
        A path, a repository, or an address.

    Examples
    --------
    >>> redacted("https://me:password@host/w.pth?download=true&X-Amz-Signature=0123456789abcdef")
    'https://***@host/w.pth?download=true&X-Amz-Signature=***'
    >>> redacted("hf-hub:owner/repo")
    'hf-hub:owner/repo'
    """
    start = _ADDRESS.match(origin)
    if start is None:
        return origin
    try:
        parts = urlsplit(origin)
        userinfo, at, host = parts.netloc.rpartition("@")
        _ = parts.port
    except ValueError:  # not a valid address; a password with a slash in it ends up here
        return f"{start[0]}{HIDDEN}"
    shown = f"{start[0]}{HIDDEN if userinfo else ''}{at}{host}{parts.path}"
    if parts.query:
        shown += f"?{_values_hidden(parts.query)}"
    if parts.fragment:
        shown += f"#{_values_hidden(parts.fragment)}"
    return shown


def redacted_in(message: str) -> str:
    """Return a message with every address in it redacted."""
    return _IN_TEXT.sub(lambda match: redacted(match[0]), message)


def _values_hidden(query: str) -> str:
    return re.sub(r"[^&;]+", lambda part: _value_hidden(part[0]), query)


def _value_hidden(part: str) -> str:
    name, equals, value = part.partition("=")
    if not equals:  # a flag, or a token without a name
        return part if _SAFE_VALUE.fullmatch(part) or part in ("download", HIDDEN) else HIDDEN
    if _SAFE_VALUE.fullmatch(value) and not _SECRET_NAME.search(name):
        return part
    return f"{name}={HIDDEN}" if value else part
