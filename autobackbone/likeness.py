"""Likeness: which of the names there are a text most likely means."""

import difflib
import functools
import re
from collections.abc import Iterable, Mapping

_LEAST = 0.7  # below it, names are not alike
_LONGEST = 100  # letters that a name has at most
# How sizes are written for short -> how timm's names have them.
_SIZES = {"t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
# Words that tell no architecture from another: how it is cut into tokens, and whose weights it takes.
_COMMON = ("patch", "window", "tf")
# What a word of a name costs that the text lacks: one that tells architectures apart, one that tells sizes apart,
# and the plain width, which is 100 percent.
_WORD, _NUMBER, _PLAIN = 0.02, 0.002, 0.001
_WEIGHT_OF_NUMBER = 2  # letters that a number counts for


def likeness(text: str, name: str) -> float:
    """Return how well a text fits a name, from 0 to 1: letter by letter, or word by word whatever is between."""
    return _likeness(_words(text), _words(name))


def most_like(text: str, names: Mapping[str, Iterable[str]], count: int) -> list[str]:
    """Return the names that a text is most like, the likeliest first.

    Parameters
    ----------
    text
        What was written.
    names
        The names there are, each with its other spellings.
    count
        How many to return at most.
    """
    given = _words(text)
    if not given or len(text) > _LONGEST:
        return []
    scores = {
        name: max(_likeness(given, _words(spelling)) for spelling in (name, *others)) for name, others in names.items()
    }
    found = sorted(scores, key=lambda name: (-round(scores[name], 6), len(name), name))[:count]
    return [name for name in found if scores[name] >= _LEAST]


def nearest_tags(tag: str, tags: Iterable[str]) -> list[str]:
    """Return tags of weights, those first that `tag` is most like."""
    tag = tag.lower()
    return sorted(tags, key=lambda other: (not other.lower().startswith(tag), -_ratio(tag, other.lower())))


@functools.lru_cache(maxsize=4096)
def _words(name: str) -> tuple[str, ...]:
    """Split a name into words and numbers, with sizes, widths and costs as timm writes them."""
    text = re.sub(r"(\d+)(?:[_.](\d))?gf", lambda m: f" {10 * int(m[1]) + int(m[2] or 0):03d} ", name.lower())
    text = re.sub(r"(\d+)00mf", lambda m: f" {int(m[1]):03d} ", text)  # costs, in hundreds of millions
    text = re.sub(r"(?<![v\d])(\d)[_.](\d\d?)(?!\d)", lambda m: f" {m[1]}{m[2]:0<2} ", text)  # widths, in percent
    words = re.findall(r"v\d+|vit(?=[tsblhg]\d)|[tsblhg](?=\d+plus)|[a-z]+?(?=v\d)|[a-z]+|\d+", text)
    return tuple(_SIZES.get(word, word) for word in words)


def _likeness(given: tuple[str, ...], words: tuple[str, ...]) -> float:
    whole = _ratio("".join(given), "".join(words))
    if len(given) == 1 and given[0].isdigit():
        return whole
    left = list(words)
    fit = 0.0
    for word in given:
        best = max(left, key=lambda other: _ratio(word, other), default=None)
        if best is not None:
            fit += _weight(word) * _ratio(word, best)
            left.remove(best)
    return max(whole, fit / sum(map(_weight, given)) - sum(map(_cost, left)))


def _weight(word: str) -> int:
    return _WEIGHT_OF_NUMBER if word.isdigit() else len(word)


def _cost(word: str) -> float:
    if word == "100":
        return _PLAIN
    return _NUMBER if word.isdigit() or word in _COMMON else _WORD


@functools.cache
def _ratio(word: str, other: str) -> float:
    if word.isdigit() or word == other:
        return float(word == other)
    return difflib.SequenceMatcher(None, word, other).ratio()
