"""Likeness of texts and names, to suggest names for a misspelled one."""

import difflib
import functools
import re
from collections.abc import Iterable, Mapping

_LEAST = 0.7  # below it, names are not alike
_LONGEST = 100  # longer texts are like no name
# Short forms of sizes -> timm's words.
SIZES = {"t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
# Words that do not distinguish architectures: how images are cut into tokens, and where weights come from.
COMMON_WORDS = ("patch", "window", "tf")
# Cost of a word that is in the name but not in the text: a word that distinguishes architectures, a word that
# distinguishes sizes, and the default width of 100 percent.
_WORD, _NUMBER, _PLAIN = 0.02, 0.002, 0.001
_WEIGHT_OF_NUMBER = 2  # a number counts like this many letters


def likeness(text: str, name: str) -> float:
    """Return how well a text fits a name, from 0 to 1: the better of letter by letter and word by word."""
    return _likeness(_words(text), _words(name))


def most_like(text: str, names: Mapping[str, Iterable[str]], count: int) -> list[str]:
    """Return the names that are most like a text, best first.

    Parameters
    ----------
    text
        The text of the user.
    names
        All names, each with its other spellings.
    count
        Maximum number of names.
    """
    words = _words(text)
    if not words or len(text) > _LONGEST:
        return []
    scores = {
        name: max(_likeness(words, _words(spelling)) for spelling in (name, *others)) for name, others in names.items()
    }
    ranked = sorted(scores, key=lambda name: (-round(scores[name], 6), len(name), name))[:count]
    return [name for name in ranked if scores[name] >= _LEAST]


def nearest_tags(tag: str, tags: Iterable[str]) -> list[str]:
    """Return tags of weights, those most like `tag` first."""
    tag = tag.lower()
    return sorted(tags, key=lambda other: (not other.lower().startswith(tag), -_ratio(tag, other.lower())))


@functools.lru_cache(maxsize=4096)
def _words(name: str) -> tuple[str, ...]:
    """Split a name into words and numbers; write sizes, widths and costs as timm does."""
    text = re.sub(r"(\d+)(?:[_.](\d))?gf", lambda m: f" {10 * int(m[1]) + int(m[2] or 0):03d} ", name.lower())
    text = re.sub(r"(\d+)00mf", lambda m: f" {int(m[1]):03d} ", text)  # costs, in hundreds of millions
    text = re.sub(r"(?<![v\d])(\d)[_.](\d\d?)(?!\d)", lambda m: f" {m[1]}{m[2]:0<2} ", text)  # widths, in percent
    words = re.findall(r"v\d+|vit(?=[tsblhg]\d)|[tsblhg](?=\d+plus)|[a-z]+?(?=v\d)|[a-z]+|\d+", text)
    return tuple(SIZES.get(word, word) for word in words)


def _likeness(words: tuple[str, ...], name_words: tuple[str, ...]) -> float:
    by_letters = _ratio("".join(words), "".join(name_words))
    if len(words) == 1 and words[0].isdigit():
        return by_letters
    unmatched = list(name_words)
    by_words = 0.0
    for word in words:
        best = max(unmatched, key=lambda other: _ratio(word, other), default=None)
        if best is not None:
            by_words += _weight(word) * _ratio(word, best)
            unmatched.remove(best)
    return max(by_letters, by_words / sum(map(_weight, words)) - sum(map(_cost, unmatched)))


def _weight(word: str) -> int:
    return _WEIGHT_OF_NUMBER if word.isdigit() else len(word)


def _cost(word: str) -> float:
    if word == "100":
        return _PLAIN
    return _NUMBER if word.isdigit() or word in COMMON_WORDS else _WORD


@functools.cache
def _ratio(word: str, other: str) -> float:
    if word.isdigit() or word == other:
        return float(word == other)
    return difflib.SequenceMatcher(None, word, other).ratio()
