"""Laws of saved backbones: what is read of them is valid or refused; cards keep their structure whatever is in them."""

import functools
import json
import tempfile
from pathlib import Path

import strategies as own
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from autobackbone import BackboneError, FeatureBackbone, WeightsCorruptedError, create_feature_backbone
from autobackbone.weights.model_card import model_card

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_numbers = st.lists(st.floats(0, 1) | st.sampled_from([0, -1, 1e400, float("nan"), True, "0.5", None]), max_size=4)
_inputs = st.dictionaries(
    st.sampled_from(["size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "in_chans", "size_divisor"]),
    _json | _numbers | st.sampled_from(["bicubic", "center", [64, 64], [3, 64, 64], 0.9, 0, [1e9, 1e9], [-1, 5]]),
)


@functools.cache
def _saved() -> tuple[tempfile.TemporaryDirectory, str]:
    folder = tempfile.TemporaryDirectory()
    create_feature_backbone("test_resnet", pretrained=False, out_strides=(2,)).save_pretrained(folder.name)
    return folder, Path(folder.name, "config.json").read_text()


@own.SETTINGS
@given(_inputs)
@example({"mean": ["a", "b", "c"]})
@example({"std": [0, 0, 0]})
@example({"std": [0.1]})
@example({"size": 224})
def test_the_input_of_a_saved_config_is_valid_or_refused(fields):
    folder, text = _saved()
    values = json.loads(text)
    values["input"] |= fields
    Path(folder.name, "config.json").write_text(json.dumps(values))
    try:
        spec = FeatureBackbone.from_pretrained(folder.name).input_spec
    except WeightsCorruptedError as err:
        assert "config.json" in str(err)
        return
    assert len(spec.mean) == len(spec.std) == spec.in_chans == 3
    assert all(isinstance(value, float) for value in (*spec.mean, *spec.std))
    assert all(value > 0 for value in spec.std)
    assert spec.transform() is not None
    json.dumps(spec.to_dict(), allow_nan=False)


@own.SETTINGS
@given(st.sampled_from(["backbone", "input", "next", "id", "levels"]), _json)
def test_what_a_saved_config_holds_is_valid_or_refused(key, value):
    folder, text = _saved()
    Path(folder.name, "config.json").write_text(json.dumps(json.loads(text) | {key: value}))
    try:
        FeatureBackbone.from_pretrained(folder.name)
    except BackboneError as err:
        assert folder.name in str(err)


_texts = st.text(min_size=1, max_size=40) | st.lists(
    st.sampled_from(
        [
            *"\n\r`|*_#<>[]()!\\&~$-=:.\t'\"{}% \x00\u2028\ud800",
            "```",
            "---",
            "a",
            "<script>",
            "1. ",
            "http://a.b",
            "&amp;",
        ]
    )
).map("".join)


def _structure(card: str) -> list[tuple[str, str]]:
    """Return the elements of a card, in order, without what is in them."""
    body = card.split("\n---\n", 1)[1]
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(body)
    return [
        (child.type, child.tag)
        for token in tokens
        for child in (token, *(token.children or ()))
        if child.type not in ("text", "text_special", "softbreak")
    ]


@functools.cache
def _example():
    return own.backbone("test_resnet", out_strides=(4, 8))


def _card(title: str, name: str, license_name: str) -> str:
    return model_card("FeatureBackbone", title, name, _example().levels, _example().input_spec, license_name)


@given(_texts, _texts, _texts)
@example("a\n```\n# b", "`a``b`", "<script>alert(1)</script>\n---\n# c")
def test_a_card_is_built_the_same_whatever_the_names_are(title, name, license_name):
    card = _card(title, name, license_name)
    card.encode()
    header = yaml.safe_load(card.removeprefix("---\n").split("\n---\n")[0])
    assert set(header) - {"license", "license_name"} == {"library_name", "tags"}
    assert _structure(card) == _structure(_card("title", "name", "license"))
