"""Names: parse a model name into a typed reference."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from autobackbone.errors import UnknownBackboneError
from autobackbone.likeness import likeness, most_like, nearest_tags
from autobackbone.values import as_path, shown

DINOV3 = {
    "dinov3_vits16": "facebook/dinov3-vits16-pretrain-lvd1689m",
    "dinov3_vits16plus": "facebook/dinov3-vits16plus-pretrain-lvd1689m",
    "dinov3_vitb16": "facebook/dinov3-vitb16-pretrain-lvd1689m",
    "dinov3_vitl16": "facebook/dinov3-vitl16-pretrain-lvd1689m",
    "dinov3_vith16plus": "facebook/dinov3-vith16plus-pretrain-lvd1689m",
    "dinov3_vit7b16": "facebook/dinov3-vit7b16-pretrain-lvd1689m",
    "dinov3_convnext_tiny": "facebook/dinov3-convnext-tiny-pretrain-lvd1689m",
    "dinov3_convnext_small": "facebook/dinov3-convnext-small-pretrain-lvd1689m",
    "dinov3_convnext_base": "facebook/dinov3-convnext-base-pretrain-lvd1689m",
    "dinov3_convnext_large": "facebook/dinov3-convnext-large-pretrain-lvd1689m",
}
DINOV3_REPOS = {repo: short for short, repo in DINOV3.items()} | {
    "facebook/dinov3-vitl16-pretrain-sat493m": "dinov3_vitl16",
    "facebook/dinov3-vit7b16-pretrain-sat493m": "dinov3_vit7b16",
}

# Spellings that are common outside timm, in lower case and without separators -> timm's architecture.
ALIASES = {
    "vit": "vit_base_patch16_224",
    "efficientnet": "efficientnet_b0",
    "mobilenetv3large": "mobilenetv3_large_100",
    "mobilenetv3small": "mobilenetv3_small_100",
    "dla46": "dla46_c",
}
_SCHEMES = {"hf-hub": "hf-hub", "hf_hub": "hf-hub", "local-dir": "local-dir"}
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[\w#%+=,!(){}][\w#%+=,!(){}.-]*(/[\w#%+=,!(){}][\w#%+=,!(){}.-]*)*")
REPO_RULES = (
    "write 'hf-hub:owner/repo' or 'hf-hub:owner/repo@revision'; a name has letters, digits, '-', '_' and '.', has no "
    "'--' or '..', and does not end in '.git'."
)
_MAX_REVISION = 200  # characters; it becomes a file name
_PATH = re.compile(r"[A-Za-z]:[\\/]|[\\/~.]|[^/]*\\")  # the start of a path, and of no other name
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_CLOSE = 0.95  # from this likeness on, a text that looks like a repository counts as an architecture


@dataclass(frozen=True)
class ModelRef:
    """A parsed model name.

    Attributes
    ----------
    scheme
        ``"timm"`` (its registry), ``"hf-hub"`` (a repository with a timm config), ``"local-dir"`` (a folder with
        one) or ``"dinov3"`` (transformers).
    name
        The architecture, the repository, the path, or the short DINOv3 name.
    tag
        Tag of the published weights, or the repository of the DINOv3 weights; ``None`` for the default weights.
    revision
        Revision of the repository; ``None`` for its default.
    """

    scheme: str
    name: str
    tag: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        text = self.name if self.tag is None else f"{self.name}.{self.tag}"
        if self.scheme == "dinov3":
            text = self.tag or self.name
        if self.revision is not None:
            text = f"{text}@{self.revision}"
        return text if self.scheme in ("timm", "dinov3") else f"{self.scheme}:{text}"


def parse_name(text: str, architectures: Mapping[str, Collection[str]]) -> ModelRef:
    """Parse a model name.

    Parameters
    ----------
    text
        The name, in any accepted spelling.
    architectures
        The architectures of timm's registry, each with the tags of its published weights.

    Raises
    ------
    UnknownBackboneError
        If the name fits no backbone, or fits several. The message lists spellings that work.
    """
    if as_path(text) is None:
        msg = f"There is no backbone {shown(text)}; list_backbones() lists the names there are."
        raise UnknownBackboneError(msg)
    if _ADDRESS.match(text):
        msg = (
            f"{text!r} is an address, and no model name; weights= takes https:// addresses of files, and a repository "
            "of the Hugging Face Hub is named 'hf-hub:owner/repo'."
        )
        raise UnknownBackboneError(msg)
    prefix, colon, rest = text.partition(":")
    if colon and len(prefix) > 1:
        return _parse_prefixed(text, prefix.lower(), rest)
    if text.startswith("timm/"):
        return _parse_timm(text.removeprefix("timm/"), text, architectures)
    if text.startswith("torchvision/"):
        return _parse_torchvision(text, architectures)
    repo, at, revision = text.partition("@")
    if repo in DINOV3_REPOS and bool(at) == bool(revision):
        return ModelRef("dinov3", DINOV3_REPOS[repo], repo, revision or None)
    if "/" in text or "\\" in text:
        raise UnknownBackboneError(_about_slashes(text, architectures))
    short = text.lower().replace("-", "_")
    if short in DINOV3:
        return ModelRef("dinov3", short)
    if re.fullmatch(r"dinov3_vit[a-z]+14", short):
        size = short.removeprefix("dinov3_vit").removesuffix("14")
        match = f"dinov3_vit{size}16"
        full = {"s": "small", "b": "base", "l": "large"}.get(size)
        dinov2 = f"; DINOv2 has patch 14: 'vit_{full}_patch14_dinov2'" if full else ""
        msg = f"There is no {text!r}: DINOv3 has patch 16{f', as {match!r}' if match in DINOV3 else ''}{dinov2}."
        raise UnknownBackboneError(msg)
    return _parse_timm(text, text, architectures)


def split_repo(text: str) -> tuple[str, str | None] | None:
    """Split ``owner/repo[@revision]``; return ``None`` if the Hugging Face Hub does not allow such a name."""
    repo, at, revision = text.partition("@")
    if not _REPO.fullmatch(repo) or (at and not _is_revision(revision)):
        return None
    from huggingface_hub.errors import HFValidationError  # imported only if a repository is named
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError:
        return None
    return repo, revision or None


def is_address(text: str) -> bool:
    """Whether text is a web address."""
    return text.lower().startswith(("https://", "http://"))


def repo_of(text: str) -> str | None:
    """Return the text after ``hf-hub:``; ``None`` if it does not start with that."""
    prefix, colon, rest = text.partition(":")
    return rest if colon and _SCHEMES.get(prefix.lower()) == "hf-hub" else None


def _is_revision(text: str) -> bool:
    """Whether text can be a git branch, tag or commit, and a path inside a cache."""
    return len(text) <= _MAX_REVISION and ".." not in text and _REVISION.fullmatch(text) is not None


def _about_slashes(text: str, architectures: Mapping[str, Collection[str]]) -> str:
    """Return a message about a name with slashes: a path, an architecture as in a paper (ViT-B/16), or a repository."""
    if _PATH.match(text):
        return f"{text!r} looks like a path; write {f'local-dir:{text}'!r} for a folder with a timm config."
    advice = f"write {f'hf-hub:{text}'!r} for the Hugging Face Hub or {f'local-dir:{text}'!r} for a folder."
    matches = nearest(text.replace("/", "_"), architectures)
    if matches and likeness(text, matches[0]) >= _CLOSE:
        return f"There is no backbone {text!r}; did you mean {_listed(matches)}? For a repository or a path, {advice}"
    alike = [name for name in nearest(text, architectures) if likeness(text.rpartition("/")[2], name) >= _CLOSE]
    meant = f" If timm's own is meant: {_listed(alike)}." if alike else ""
    return f"{text!r} looks like a repository or a path; {advice}{meant}"


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names))


def _parse_prefixed(text: str, prefix: str, rest: str) -> ModelRef:
    if prefix not in _SCHEMES:
        msg = f"{text!r} has the unknown prefix {prefix!r}; the prefixes are 'hf-hub:' and 'local-dir:'."
        raise UnknownBackboneError(msg)
    scheme = _SCHEMES[prefix]
    if not rest:
        msg = f"{text!r} names no {'repository' if scheme == 'hf-hub' else 'folder'} after its prefix."
        raise UnknownBackboneError(msg)
    if scheme == "local-dir":
        return ModelRef(scheme, rest)
    parts = split_repo(rest)
    if parts is None:
        msg = f"{text!r} is no Hub repository; {REPO_RULES}"
        raise UnknownBackboneError(msg)
    repo, revision = parts
    if repo in DINOV3_REPOS:  # its config is for transformers, not for timm
        return ModelRef("dinov3", DINOV3_REPOS[repo], repo, revision)
    return ModelRef(scheme, repo, revision=revision)


def _parse_timm(name: str, text: str, architectures: Mapping[str, Collection[str]]) -> ModelRef:
    stem, _, tag = name.partition(".")
    architecture = _architecture(stem, text, architectures)
    if not tag:
        return ModelRef("timm", architecture)
    if tag not in architectures[architecture]:
        alike = [other for other in architectures[architecture] if other.lower() == tag.lower()]
        if len(alike) == 1:
            return ModelRef("timm", architecture, alike[0])
        tags = [f"'{architecture}.{near}'" for near in nearest_tags(tag, architectures[architecture])]
        have = f"it has {', '.join(tags)}" if tags else "it has no published weights"
        msg = f"{text!r}: {architecture!r} has no weights tagged {tag!r}; {have}."
        raise UnknownBackboneError(msg)
    return ModelRef("timm", architecture, tag)


def _parse_torchvision(text: str, architectures: Mapping[str, Collection[str]]) -> ModelRef:
    """Parse ``torchvision/...``: timm hosts torchvision's weights, the newest ones under ``tv2_in1k``."""
    architecture = _architecture(text.removeprefix("torchvision/"), text, architectures)
    for tag in ("tv2_in1k", "tv_in1k"):
        if tag in architectures[architecture]:
            return ModelRef("timm", architecture, tag)
    msg = f"{text!r}: timm hosts no torchvision weights for {architecture!r}; write {architecture!r} for its own."
    raise UnknownBackboneError(msg)


def _architecture(stem: str, text: str, architectures: Mapping[str, Collection[str]]) -> str:
    if stem in architectures:
        return stem
    key = _squash(stem)
    if key in ALIASES and ALIASES[key] in architectures:
        return ALIASES[key]
    matches = [name for name in architectures if _squash(name) == key]
    if len(matches) == 1:
        return matches[0]
    if matches:
        msg = f"{text!r} could mean {' or '.join(map(repr, matches))}; write the one that you mean."
        raise UnknownBackboneError(msg)
    close = nearest(text, architectures)
    remedy = f"did you mean {_listed(close)}?" if close else "list_backbones() lists the names there are."
    msg = f"There is no backbone {text!r}; {remedy}"
    raise UnknownBackboneError(msg)


def nearest(text: str, architectures: Mapping[str, Collection[str]], count: int = 3) -> list[str]:
    """Return the names that are most like `text`, best first; an empty list if none is.

    Parameters
    ----------
    text
        The text of the user.
    architectures
        All architectures, each with the tags of its published weights.
    count
        Maximum number of names.
    """
    owner, _, name = text.rpartition("/")
    stem, _, tag = (f"{owner}-{name}" if owner and name.isdigit() else name).partition(".")  # as in ViT-B/16
    names: dict[str, list[str]] = {name: [] for name in (*architectures, *DINOV3)}
    for alias, meant in ALIASES.items():
        if meant in names:
            names[meant].append(alias)
    matches = most_like(stem, names, count)
    if not tag:
        return matches
    tagged = []
    for name in matches:
        tagged += [f"{name}.{near}" for near in nearest_tags(tag, architectures.get(name, ()))[:count]] or [name]
    return tagged[:count]


def _squash(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.lower())
