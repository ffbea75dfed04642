"""What the command line shows of backbones: which columns and marks, in which words, on terminals of any width."""

import io
import json
import re
import sys

import pytest
from click import Option
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from autobackbone import describe_backbone, list_backbones
from autobackbone.catalog.describe import summarize
from autobackbone.cli import app, cards
from autobackbone.cli.words import in_options

NAMES = list_backbones("resnet", pretrained_only=True)
KEYS = list(cards.COLUMNS)


def run(*args):
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def table(rows, asked, width):
    """The lines of a list on a terminal of a width."""
    console = Console(width=width, file=io.StringIO(), highlight=False)
    sys.modules["autobackbone.cli.list"]._print(console, rows, asked)
    return console.file.getvalue().splitlines()


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True),
    st.sets(st.sampled_from(KEYS), max_size=2),
    st.integers(10, 300),
)
def test_names_are_whole_and_what_is_asked_for_is_shown(names, asked, width):
    rows = [summarize(name) for name in names]
    lines = table(rows, asked, width)
    assert [line.split()[0] for line in lines[1 : len(names) + 1]] == names
    headings = re.split(r"  +", lines[0].strip())
    shown = [key for key in KEYS if cards.HEADINGS.get(key, key) in headings]
    assert asked <= set(shown)
    hidden = [cards.HEADINGS.get(key, key) for key in KEYS if key not in shown]
    said = re.sub(r"\s", "", "".join(lines[len(names) + 1 :]))
    plural = "s" * (len(names) > 1)
    columns = f";{len(hidden)}column{'s' * (len(hidden) > 1)}hidden:{','.join(hidden)}" if hidden else ""
    assert said.removesuffix(re.sub(r"\s", "", cards.source_of_figures())) == re.sub(
        r"\s", "", f"{len(names)}backbone{plural}{columns}"
    )


def test_a_wide_table_has_all_columns():
    lines = table([summarize("resnet50"), summarize("dinov3_vits16")], set(), 300)
    assert [key for key in KEYS if cards.HEADINGS.get(key, key) not in lines[0]] == []
    assert lines[3] == "2 backbones"
    assert lines[4].startswith("Top-1 and img/s: published by timm, not measured here")


@given(st.integers(0, 10**12))
def test_counts(number):
    text = cards.count(number)
    value, unit = text.split()
    assert float(value) * {"M": 1e6, "G": 1e9}[unit] == pytest.approx(number, abs=0.06e6, rel=6e-3)
    assert unit == ("G" if number >= 1e9 else "M")


OPTIONS = [
    (parameter.name, parameter.opts[0])
    for command in app.commands.values()
    for parameter in command.params
    if isinstance(parameter, Option)
]


@given(st.sampled_from(OPTIONS), st.from_regex(r"'[a-z.]{1,9}'|[0-9]{1,4}", fullmatch=True))
def test_arguments_are_options_in_messages(option, value):
    name, written = option
    message = f"{name.rstrip('_')}={value}: that is wrong; give another."
    assert in_options(message, app) == f"{written} {value}: that is wrong; give another."


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("img_size=(224, 300) is odd; give img_size=(8, 8).", "--img-size 224x300 is odd; give --img-size 8x8."),
        ("out_strides=(4, 8): no", "--strides 4,8: no"),
        ("out_indices=(9,): no", "--indices 9: no"),
        ("out_indices and out_strides exclude each other", "--indices and --strides exclude each other"),
        ("Call with pretrained=False.", "Call with --random-weights."),
        ("no network; weights= takes a path", "no network; --weights takes a path"),
        ("the weights of 'weights=a' are missing", "the weights of '--weights a' are missing"),
        ("strides and a license", "strides and a license"),
        ("extra_kwargs={'a': 1}: no", "extra_kwargs={'a': 1}: no"),
    ],
)
def test_messages(message, expected):
    assert in_options(message, app) == expected


def test_compare_marks_the_best():
    names = ("resnet50.a1_in1k", "mobilenetv4_conv_small", "swin_tiny_patch4_window7_224")
    rows = {
        line.split("│")[1].strip(): line.split("│")[2:-1] for line in run("compare", *names).splitlines() if "│" in line
    }
    found = [describe_backbone(name) for name in names]
    for key in ("params", "macs", "activations"):
        best = min(range(3), key=lambda i: getattr(found[i], key))
        assert [cell.strip().endswith(" *") for cell in rows[key]] == [i == best for i in range(3)]
    for key, values in (("top-1", [card.accuracy for card in found]), ("img/s", [card.throughput for card in found])):
        sizes = [card.input_size[0] for card in found]
        field = {"top-1": "top1", "img/s": "rtx4090"}[key]
        at = [
            next(getattr(row, field) for row in each if row.size == size)
            for each, size in zip(values, sizes, strict=True)
        ]
        assert [cell.strip().endswith(" *") for cell in rows[key]] == [value == max(at) for value in at]
    assert "not of a detector" in run("compare", *names)
    assert " *" not in run("compare", "resnet50")


def test_info_says_what_a_gate_is():
    text = run("info", "dinov3_vits16")
    assert "gated: accept its license at https://huggingface.co/facebook/dinov3-vits16-pretrain-lvd1689m" in text
    assert "`hf auth login`" in text
    assert describe_backbone("dinov3_vits16").ungated in text
    assert "dinov3-license (read it before commercial use)" in text
    assert "gated" not in run("info", "resnet50")


def test_info_shows_published_figures():
    text = run("info", "resnet50.a1_in1k", "--device", "i9_10940x")
    card = describe_backbone("resnet50.a1_in1k")
    for row in card.accuracy:
        assert f"{row.top1:.1f} % at {row.size}" in text
    for row in card.throughput:
        assert f"{row.i9_10940x:,.0f} at {row.size}" in text
    assert "(i9_10940x)" in text
    assert "Mask R-CNN (detection)" in text
    assert "not measured here" in text
    assert "not measured here" not in run("info", "dinov3_vits16")  # nothing is published under that name


def test_a_name_like_a_paper_s_is_told_what_is_near():
    result = CliRunner().invoke(app, ["list", "VIT-B/16"])
    assert result.exit_code == 0
    assert "vit_base_patch16_224" in result.stderr


def test_list_in_python_and_on_the_command_line_is_the_same():
    options = ("--strides", "4,8,16,32", "--any-size", "--commercial", "--min-throughput", "500", "--sort", "top1")
    asked = {"strides": (4, 8, 16, 32), "any_size": True, "commercial": True, "min_throughput": 500, "sort": "top1"}
    for device in ("rtx4090", "i9_10940x"):
        names = list_backbones(**asked, device=device)
        assert run("list", *options, "--device", device).split() == names
        rows = json.loads(run("list", *options, "--device", device, "--json"))
        assert [row["name"] for row in rows] == names
        assert all(row["commercial"] and row["throughput"] >= 500 for row in rows)


@pytest.mark.parametrize("key", KEYS)
def test_every_column_can_be_sorted_by(key):
    assert set(run("list", "test_*", "--sort", key).split()) == set(list_backbones("test_*"))


def test_compare_below_one_another(monkeypatch):
    monkeypatch.setattr(
        sys.modules["autobackbone.cli.compare"], "new_console", lambda: Console(width=30, highlight=False)
    )
    text = run("compare", "resnet18", "test_vit")
    assert text.count(" *") >= 3
    assert "* the best of its row" in text
