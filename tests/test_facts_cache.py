"""What is measured of architectures with arguments is remembered: in the process, and in the user's cache."""

import re
import subprocess
import sys
from functools import partial

import pytest
import timm
import torch
from timm.models import _registry

from autobackbone import create_feature_backbone
from autobackbone.catalog import store as catalog
from autobackbone.sources.timm import facts_cache
from autobackbone.sources.timm import measure as timm_measure


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Keep what is measured in a folder of the test's own, and forget what was; returns the folder."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: tmp_path / "cache")
    monkeypatch.setattr(facts_cache, "_facts", {})
    return tmp_path / "cache"


@pytest.mark.parametrize(
    "arguments",
    [{"output_stride": 16}, {"img_size": (64, 96)}, {"extra_kwargs": {"layers": [1, 1, 1, 1], "act_layer": "gelu"}}],
    ids=str,
)
def test_what_is_measured_with_arguments_is_remembered(arguments, monkeypatch, elsewhere):
    name = "test_vit" if "img_size" in arguments else "test_resnet"
    first = _on_meta(name, **arguments)
    facts_cache._facts.clear()  # as a new process would
    monkeypatch.setattr("autobackbone.sources.timm.facts.measure", lambda _: pytest.fail("it was measured again"))
    for _ in range(2):
        assert _on_meta(name, **arguments).native_levels == first.native_levels
        for path in elsewhere.rglob("*.json"):
            path.unlink()  # the second time, this process knows it


def test_other_arguments_are_measured(monkeypatch):
    seen = []
    measure = timm_measure.measure
    monkeypatch.setattr(
        "autobackbone.sources.timm.facts.measure", lambda create: seen.append(create) or measure(create)
    )
    kinds = [1, True, 1.0, "1"]
    texts = {facts_cache.canonical_text({"a": value}, []) for value in (*kinds, kinds, tuple(kinds), None, {"b": 1})}
    assert len(texts) == 8
    assert facts_cache.canonical_text({"a": 1, "b": [2]}, []) == facts_cache.canonical_text({"b": [2], "a": 1}, [])
    for stride in (8, 16, 8):
        _on_meta("test_resnet", output_stride=stride)
    assert len(seen) == 2


@pytest.mark.parametrize("wrap", [lambda layer: layer, partial], ids=["class", "partial"])
def test_classes_of_layers_are_remembered_in_the_process_alone(wrap, monkeypatch, elsewhere):
    seen = []
    measure = timm_measure.measure
    monkeypatch.setattr(
        "autobackbone.sources.timm.facts.measure", lambda create: seen.append(create) or measure(create)
    )
    silu, other = torch.nn.SiLU, type("SiLU", (torch.nn.Identity,), {})  # another one under the same name
    for layer in (silu, silu, other, silu, other):
        _on_meta("test_resnet", extra_kwargs={"act_layer": wrap(layer)})
    assert len(seen) == 2
    assert not list(elsewhere.rglob("*.json"))


def test_another_process_remembers(elsewhere):
    _on_meta("test_resnet", output_stride=8)
    code = (
        "import pathlib, sys, platformdirs, torch; platformdirs.user_cache_path = lambda _: pathlib.Path(sys.argv[1]);"
        "from autobackbone import create_feature_backbone; from autobackbone.sources import timm; timm.measure = None;"
        "torch.set_default_device('meta');"
        "print(create_feature_backbone('test_resnet', pretrained=False, output_stride=8).strides)"
    )
    command = [sys.executable, "-c", code, str(elsewhere)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "(8,)\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        lambda text: text[:-9],
        lambda _: "[" * 100_000,
        lambda text: text.replace("output_stride", "another"),
        lambda text: text.replace('"levels"', '"lvls"'),
        lambda text: re.sub(r"\[\[1, \d+", '[[1, "x"', text),
        lambda text: re.sub(r"\[\[", "[[[", text) + "]",
    ],
)
def test_damaged_facts_are_measured_again(elsewhere, damage):
    native = _on_meta("test_resnet", output_stride=8).native_levels
    (path,) = elsewhere.rglob("*.json")
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    facts_cache._facts.clear()
    assert _on_meta("test_resnet", output_stride=8).native_levels == native
    assert path.read_text() == text


def test_facts_that_cannot_be_kept_are_told_once(elsewhere, caplog):
    elsewhere.write_text("a file where the folder should be")
    folder = catalog.cache_path(timm.__version__).with_suffix("")
    catalog._warn_once.cache_clear()
    for stride in (8, 16):
        assert _on_meta("test_resnet", output_stride=stride).strides[-1] == stride
    assert [record.getMessage() for record in caplog.records if record.name == "autobackbone"] == [
        f"What was measured of backbones cannot be kept in {str(folder)!r}: Not a directory."
    ]


def test_architectures_of_the_user_are_remembered_for_as_long_as_they_are_the_same(elsewhere, monkeypatch):
    def register(width):
        def own_resnet(pretrained=False, **kwargs):  # noqa: ARG001 - timm's signature
            return timm.create_model("test_resnet", channels=(8, 8, 8, width), **kwargs)

        monkeypatch.setitem(_registry._model_entrypoints, "own_resnet", own_resnet)

    for width in (16, 24):
        register(width)
        assert _on_meta("own_resnet", output_stride=8).out_channels == width
    assert not list(elsewhere.rglob("*.json"))


def _on_meta(name, **arguments):
    with torch.device("meta"):
        return create_feature_backbone(name, pretrained=False, **arguments)
