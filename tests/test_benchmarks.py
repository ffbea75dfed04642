"""The benchmarks' harness: what it measures, on a clock that is not the machine's, and what it keeps."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

if not (Path(__file__).parents[1] / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)

import environment
import memory
import models
import peers
import results
import roofline
import run
import torch
from hypothesis import given
from hypothesis import strategies as st
from results import FOLDER, Report, ResultsError, Table, load
from timing import Spread, in_turn, ratio, stopwatch
from torch import nn

positive = st.floats(1e-3, 1e3)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
spreads = st.lists(positive, min_size=1, max_size=9).map(Spread.of)
cells = st.one_of(st.none(), texts, st.integers(-(10**6), 10**6), positive, spreads)


@st.composite
def tables(draw):
    columns = draw(st.dictionaries(texts, st.sampled_from(["", ".2f", "+.1e"]), min_size=1, max_size=4))
    row = st.tuples(*(cells if spec else texts for spec in columns.values()))
    rows = draw(st.lists(row, max_size=4))
    return Table(draw(texts), columns, [dict(zip(columns, cells, strict=True)) for cells in rows])


reports = st.builds(
    Report,
    subject=st.from_regex(r"[a-z0-9_]{1,8}", fullmatch=True),
    device=st.sampled_from(results.DEVICES),
    quick=st.booleans(),
    command=texts,
    environment=st.just(environment.describe("cpu")),
    date=texts,
    seconds=positive,
    tables=st.lists(tables(), max_size=3),
)


class Clock:
    """Stands still, but for calls of known length."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def call(self, seconds):
        def spend():
            self.now += next(seconds)

        return spend


@given(st.integers(1, 5), st.integers(0, 6))
def test_every_other_round_goes_backwards(sides, rounds):
    calls = []
    counter = itertools.count()
    watches = {name: lambda name=name: calls.append(name) or next(counter) for name in range(sides)}
    measured = in_turn(watches, rounds)
    forward = list(range(sides))
    assert calls == [name for i in range(rounds) for name in (forward[::-1] if i % 2 else forward)]
    for name, values in measured.items():
        assert [calls[value] for value in values] == [name] * rounds
        assert [value // sides for value in values] == list(range(rounds))


@given(positive)
def test_stopwatch_measures_a_call(seconds):
    clock = Clock()
    measure = stopwatch(clock.call(itertools.repeat(seconds)), timer=clock)
    start = clock.now
    assert measure() == pytest.approx(seconds)
    assert clock.now - start >= 0.1  # measures for long enough


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=9))
def test_ratio_is_of_neighbors(pairs):
    clock = Clock()
    ours, raw = zip(*pairs, strict=True)
    calls = {"ours": clock.call(iter(ours)), "raw": clock.call(iter(raw))}

    def measured(call):
        start = clock()
        call()
        return clock() - start

    times = in_turn({name: lambda call=call: measured(call) for name, call in calls.items()}, len(pairs))
    expected = np.median([a / b for a, b in pairs])
    assert ratio(times["ours"], times["raw"]).median == pytest.approx(expected, rel=1e-6)


@given(st.lists(positive, min_size=1, max_size=20))
def test_spread(values):
    spread = Spread.of(values)
    assert (spread.low, spread.median, spread.high) == pytest.approx(np.percentile(values, [25, 50, 75]))
    assert spread.runs == len(values)


@given(reports)
def test_what_is_written_is_read(tmp_path_factory, report):
    path = report.write(tmp_path_factory.mktemp("results"))
    assert path.name == f"{report.subject}.{report.device}.json"
    assert load(path) == report
    assert [path] == list(path.parent.iterdir())


@given(reports.filter(lambda report: report.tables), st.data())
def test_damage_is_found(tmp_path_factory, report, data):
    path = report.write(tmp_path_factory.mktemp("results"))
    content = json.loads(path.read_text(encoding="utf-8"))
    table = data.draw(st.sampled_from(content["tables"]))
    parts = [content, table, table["columns"], *table["rows"]]
    parts += [cell for row in table["rows"] for cell in row.values() if isinstance(cell, dict)]
    part = data.draw(st.sampled_from([part for part in parts if part]))
    if part is table["columns"] and not table["rows"]:
        part = content
    del part[data.draw(st.sampled_from(sorted(part)))]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ResultsError) as caught:
        load(path)
    assert repr(str(path)) in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"format": 0}', "\xff"])
def test_what_is_no_file_of_results(tmp_path, content):
    path = tmp_path / "overhead.cpu.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ResultsError) as caught:
        load(path)
    assert repr(str(path)) in str(caught.value)


def test_missing_results(tmp_path):
    with pytest.raises(ResultsError, match=r"overhead\.cpu\.json.*run `python benchmarks/overhead\.py`"):
        load(tmp_path / "overhead.cpu.json")


def test_results_under_another_name(tmp_path):
    facts = environment.describe("cpu")
    path = Report("overhead", "cpu", quick=True, command="", environment=facts, date="").write(tmp_path)
    with pytest.raises(ResultsError, match=r"other\.cpu\.json.*'overhead' on 'cpu'"):
        load(path.rename(tmp_path / "other.cpu.json"))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.name)
def test_committed_results(path):
    report = load(path)
    assert any(table.rows for table in report.tables)
    assert not report.quick


def test_a_benchmark_writes_what_it_prints(tmp_path):
    script = str(Path(results.__file__).with_name("dinov3.py"))
    command = [sys.executable, script, "--quick", "--results", str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report = load(tmp_path / "dinov3.cpu.json")
    assert report.quick
    assert results.summary(report.environment) in printed
    [table] = report.tables
    assert table.markdown() in printed
    assert {row["times faster"].runs for row in table.rows} == {3}


def test_one_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capfd):
    for name, code in {
        "good": "import sys; print('ran', *sys.argv[1:])",
        "bad": "1 / 0",
        "slow": "while True: 0",
    }.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "SETTINGS", {"slow": [], "bad": [], "good": ["--images", "3"]})
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick", "--limit", "5"])
    with pytest.raises(SystemExit, match="slow was stopped after 5 s\nbad failed with exit code 1"):
        run.main()
    out = capfd.readouterr().out
    assert "ran --images 3 --quick" in out
    assert "1 of 3 done" in out


def test_memory_of_tensors():
    mebi = 2**20 // 4  # floats

    def call():
        first = torch.empty(2 * mebi)
        second = first + 1
        del first
        return second + 1  # two of the three live at once

    assert memory.tensor_peak(call) == pytest.approx(4, rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory(tmp_path):
    script = tmp_path / "script.py"
    code = "import json, memory, torch\nprint(json.dumps([memory.resident_peak(lambda: torch.ones(2**24))]))"
    script.write_text(f"import sys\nsys.path.append({str(Path(memory.__file__).parent)!r})\n{code}", encoding="utf-8")
    assert memory.in_new_process(str(script)) == [pytest.approx(64, abs=4)]


@given(st.integers(1, 4), st.integers(1, 8), st.integers(1, 8), st.integers(4, 9))
def test_operations_and_bytes_of_a_convolution(batch, inputs, outputs, size):
    layer = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.Flatten())
    x = torch.rand(batch, inputs, size, size)
    with torch.no_grad():
        assert roofline.count_flops(layer, x) == 2 * batch * outputs * size**2 * inputs * 9
        weight = layer[0].weight
        assert roofline.count_bytes(layer, x) == 4 * (x.numel() + weight.numel() + batch * outputs * size**2)


def test_attention_is_counted():
    q, k, v = (torch.rand(1, 2, 5, 8) for _ in range(3))

    class Attention(nn.Module):
        def forward(self, q):
            return nn.functional.scaled_dot_product_attention(q, k, v)

    with torch.no_grad():
        assert roofline.count_flops(Attention(), q) == 2 * (2 * 2 * 5 * 5 * 8)


def test_models_have_the_same_weights():
    x = models.images(1)
    raw, ours = models.theirs_and_ours("mobilenetv4_conv_small")
    with torch.inference_mode():
        assert models.error(ours(x), models.maps(raw(x))) == 0


def test_peers_are_compared():
    x, maps = torch.rand(1, 3, 8, 8), [torch.rand(1, 4, 6, 6), torch.rand(1, 5, 3, 3)]
    assert peers.side("same", lambda _: maps, x, maps).note is None
    nhwc = [y.permute(0, 2, 3, 1) for y in maps]
    assert peers.side("same, channels last", lambda _: nhwc, x, maps).off == 0
    assert peers.side("fewer", lambda _: maps[1:], x, maps).note == "the last 1 of 2 levels"
    other = peers.side("others", lambda _: [3 * y for y in maps], x, maps)
    assert (other.off, other.note) == (pytest.approx(2), "other maps")
    assert peers.side("random", lambda _: [3 * y for y in maps], x, maps, peers.RANDOM).off is None
    with pytest.raises(LookupError, match=r"gives maps \[\(5, 3, 3\), \(4, 6, 6\)\]"):
        peers.side("other levels", lambda _: maps[::-1], x, maps)
