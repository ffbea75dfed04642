"""Published figures: the file, where it is made from, and the lists and cards that show them."""

import csv
import functools
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, astuple, fields

import pytest
import timm
import torch
from families import FAMILIES, spread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from autobackbone import ConfigError, create_backbone, describe_backbone, get_input_spec, list_backbones
from autobackbone.catalog import figures, store
from autobackbone.catalog.figures import DEVICES, Accuracy, Figures, Throughput
from autobackbone.catalog.filters import COMMERCIAL
from autobackbone.catalog.timm_results import _ACCURACY, _THROUGHPUT, read_results
from autobackbone.catalog.uses import USES
from autobackbone.cli import main

if store.read(store.FILE).timm != timm.__version__:
    pytest.skip("the catalog is of another timm, and all would be measured", allow_module_level=True)

SHIPPED = figures.read(figures.FILE)
names = st.from_regex(r"[a-z0-9_]{1,9}(\.[a-z0-9_]{1,5})?", fullmatch=True)
percents = st.floats(0, 100).map(lambda x: round(x, 3))
rates = st.none() | st.floats(1, 1e6).map(lambda x: round(x, 2))
sources = st.fixed_dictionaries({key: st.text(max_size=9) for key in ("title", "url", "license", "date")})


def rows(kind, values):
    sizes = st.lists(st.integers(1, 999), min_size=1, max_size=3, unique=True).map(sorted)
    return sizes.flatmap(lambda found: st.tuples(*(st.builds(kind, st.just(size), *values) for size in found)))


accuracies = rows(Accuracy, [percents] * 2 + [st.none() | percents] * 5)
throughputs = rows(Throughput, [rates] * 4)
many_figures = st.builds(
    Figures,
    sources,
    st.dictionaries(names, accuracies, max_size=4),
    st.dictionaries(names, throughputs, max_size=4),
)


# ---- the file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("figures")


@given(found=many_figures)
def test_figures_are_written_and_read(folder, found):
    path = folder / "figures.json"
    figures.write(path, found)
    assert figures.read(path) == found
    before = path.read_bytes()
    figures.write(path, figures.read(path))
    assert path.read_bytes() == before


def test_the_file_is_small_and_comes_back_byte_for_byte(folder):
    figures.write(folder / "again.json", SHIPPED)
    assert (folder / "again.json").read_bytes() == figures.FILE.read_bytes()
    assert figures.FILE.stat().st_size + store.FILE.stat().st_size < 700_000


@given(many_figures, st.data())
def test_a_damaged_file_is_an_error(folder, found, data):
    path = folder / "damaged.json"
    figures.write(path, found)
    text = path.read_text()
    cut = data.draw(st.integers(0, len(text) - 2))
    path.write_text(text[:cut])
    with pytest.raises(ValueError, match=r"is damaged, or has no figures"):
        figures.read(path)
    content = json.loads(text)
    place = data.draw(st.sampled_from(["schema", "source", "accuracy", "throughput"]))
    content[place] = data.draw(
        st.sampled_from(
            [None, 7, "text", {"a": 1}, {"a": [["x"]]}, {"a": [[1.5, 2]]}, {"a": [[1, "2", 3]]}, {"a": [[]]}]
        )
    )
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"is damaged, or has no figures|has figures of schema"):
        figures.read(path)


@pytest.mark.parametrize("content", [None, "{", '{"schema": 99}'])
def test_without_figures_all_else_works(content, tmp_path, monkeypatch, caplog, capsys):
    path = tmp_path / "figures.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(figures, "FILE", path)
    figures.shipped.cache_clear()
    try:
        card = describe_backbone("resnet50.a1_in1k")
        assert (card.accuracy, card.throughput) == ((), ())
        assert list_backbones("resnet50", sort="top1") == list_backbones("resnet50")
        assert list_backbones("resnet50", min_top1=0) == []
        for command in (["list", "resnet50", "--json"], ["info", "resnet50"], ["compare", "resnet50", "resnet18"]):
            monkeypatch.setattr(sys, "argv", ["autobackbone", *command])
            with pytest.raises(SystemExit) as stop:
                main()
            assert stop.value.code == 0
            assert capsys.readouterr().out
        [warning] = caplog.records
        assert "reinstall autobackbone. Until then, there are no published figures." in warning.getMessage()
    finally:
        figures.shipped.cache_clear()


# ---- where they are from


def git(folder, *arguments):
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run([shutil.which("git"), "-C", folder, *author, *arguments], check=True, capture_output=True)


@functools.cache
def checkout(folder):
    """A git checkout whose tables can be rewritten."""
    (folder / "checkout" / "results").mkdir(parents=True)
    git(folder / "checkout", "init")
    git(folder / "checkout", "commit", "--allow-empty", "-m", "results")
    return folder / "checkout"


def write_tables(results, found):
    """Write figures as timm's repository has them, the fastest or the best first."""
    tables = dict.fromkeys(_ACCURACY.values(), ("model", "img_size", "top1", "top5"))
    tables |= dict.fromkeys(_THROUGHPUT.values(), ("model", "infer_img_size", "infer_samples_per_sec"))
    lines = {file: [] for file in tables}
    for name, several in found.accuracy.items():
        for row in several:
            for column, file in _ACCURACY.items():
                if getattr(row, column) is not None:
                    lines[file].append((name, row.size, getattr(row, column), row.top5))
    for name, several in found.throughput.items():
        for row in several:
            for device, file in _THROUGHPUT.items():
                if getattr(row, device) is not None:
                    lines[file].append((name, row.size, getattr(row, device)))
    for file, head in tables.items():
        with (results / file).open("w", newline="") as stream:
            csv.writer(stream).writerows([head, *sorted(lines[file], key=lambda line: -line[2])])


@given(found=many_figures)
def test_figures_of_a_checkout(folder, found):
    write_tables(checkout(folder) / "results", found)
    read = read_results(checkout(folder))
    some = {name: tuple(row for row in several if any(astuple(row)[1:])) for name, several in found.throughput.items()}
    assert read.accuracy == found.accuracy
    assert read.throughput == {name: several for name, several in some.items() if several}
    assert read.source["url"].startswith("https://github.com/huggingface/pytorch-image-models/tree/")


@pytest.mark.parametrize("fault", ["no checkout", "a file is missing", "other columns", "no number", "no folder"])
def test_what_is_no_checkout(fault, tmp_path, monkeypatch, capsys):
    path = tmp_path if fault == "no checkout" else checkout(tmp_path)
    if fault != "no checkout":
        write_tables(path / "results", Figures({}, {"a.b": (Accuracy(9, 1.0, 2.0),)}, {}))
    table = path / "results" / "results-imagenet.csv"
    if fault == "a file is missing":
        table.unlink()
    elif fault == "other columns":
        table.write_text("model,img_size\na,9\n")
    elif fault == "no number":
        table.write_text("model,img_size,top1,top5\na,9,good,2\n")
    target = tmp_path / ("absent/figures.json" if fault == "no folder" else "figures.json")
    monkeypatch.setattr(sys, "argv", ["autobackbone", "catalog", "figures", str(path), "--path", str(target)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not target.exists()


def test_the_command_writes_a_file(tmp_path, monkeypatch, capsys):
    found = Figures({}, {"resnet50.a1_in1k": (Accuracy(224, 80.0, 95.0),)}, {"no_such_net": (Throughput(8, 1.0),)})
    write_tables(checkout(tmp_path) / "results", found)
    target = tmp_path / "figures.json"
    command = ["autobackbone", "catalog", "figures", str(checkout(tmp_path)), "--path", str(target)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert (stop.value.code, said.out) == (0, f"{target}\n")
    assert "1 names are not in the catalog" in said.err
    assert "'no_such_net'" in said.err
    assert figures.read(target).accuracy == found.accuracy


def test_every_figure_is_of_something_in_the_catalog():
    catalog = store.read(store.FILE)
    assert set(SHIPPED.accuracy) <= set(catalog.published)
    assert set(SHIPPED.throughput) <= set(catalog.records)
    assert SHIPPED.source["license"] == "Apache-2.0"
    for name, several in SHIPPED.accuracy.items():
        assert all(0 <= value <= 100 for row in several for value in astuple(row)[1:] if value is not None), name
        assert [row.size for row in several] == sorted({row.size for row in several})


# ---- lists and cards


@functools.cache
def cards(pretrained):
    return {name: describe_backbone(name) for name in list_backbones(pretrained_only=pretrained)}


def at_default_size(card, device):
    """Top-1 and images per second of a card, at the size of its weights."""
    top1 = [row.top1 for row in card.accuracy if (row.size, row.size) == card.input_size]
    rate = [getattr(row, device) for row in card.throughput if (row.size, row.size) == card.input_size]
    return (top1 or [None])[0], (rate or [None])[0]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    pretrained=st.booleans(),
    commercial=st.none() | st.booleans(),
    used_by=st.none() | st.sampled_from([*(use.method for use in USES), "detection", "depth"]),
    min_top1=st.none() | st.floats(0, 100),
    min_throughput=st.none() | st.floats(0, 1e5),
    device=st.sampled_from(DEVICES),
    sort=st.sampled_from(["name", "params", "macs", "activations", "top1", "throughput"]),
    reverse=st.booleans(),
)
def test_filters_and_order_are_those_of_the_cards(
    pretrained, commercial, used_by, min_top1, min_throughput, device, sort, reverse
):
    def is_wanted(card):
        top1, rate = at_default_size(card, device)
        return (
            (commercial is None or (card.license in COMMERCIAL) is commercial)
            and (used_by is None or any(used_by in (use.method, use.task) for use in card.used_by))
            and (min_top1 is None or (top1 is not None and top1 >= min_top1))
            and (min_throughput is None or (rate is not None and rate >= min_throughput))
        )

    found = list_backbones(
        pretrained_only=pretrained,
        commercial=commercial,
        used_by=used_by,
        min_top1=min_top1,
        min_throughput=min_throughput,
        device=device,
        sort=sort,
        reverse=reverse,
    )
    wanted = {name for name, card in cards(pretrained).items() if is_wanted(card)}
    assert len(found) == len(wanted)
    assert set(found) == wanted
    if sort == "name":
        natural = [name for name in cards(pretrained) if name in wanted]
        assert found == (natural[::-1] if reverse else natural)
        return

    def value(name):
        card = cards(pretrained)[name]
        return dict(zip(("top1", "throughput"), at_default_size(card, device), strict=True)).get(
            sort, getattr(card, sort, None)
        )

    values = [value(name) for name in found]
    known = [v for v in values if v is not None]
    assert values[len(known) :] == [None] * (len(values) - len(known))  # the unknown are last
    assert known == sorted(known, reverse=(sort in ("top1", "throughput")) is not reverse)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"min_top1": 101}, "min_top1=101 is no percentage; give one from 0 to 100, such as 80."),
        ({"min_top1": "good"}, "min_top1='good' is no percentage"),
        ({"min_throughput": -1}, "min_throughput=-1 is no number of images per second"),
        ({"device": "rtx4099"}, "device='rtx4099': did you mean 'rtx4090'"),
        ({"sort": "top"}, "sort='top': did you mean 'top1'"),
        ({"used_by": "Mask2Formr"}, "used_by='Mask2Formr': no backbone has that; did you mean 'Mask2Former'"),
        ({"commercial": "yes"}, "commercial='yes' is neither True, False nor None."),
    ],
)
def test_wrong_filters(filters, message):
    with pytest.raises(ConfigError) as error:
        list_backbones(**filters)
    assert message in str(error.value)


def test_figures_of_a_card():
    card = describe_backbone("resnet50.a1_in1k")
    assert card.accuracy == SHIPPED.accuracy["resnet50.a1_in1k"]
    assert card.throughput == SHIPPED.throughput["resnet50"]
    assert {"Mask R-CNN", "DETR"} <= {use.method for use in card.used_by}
    values = json.loads(json.dumps(card.to_dict()))
    assert values["accuracy"][0] == asdict(card.accuracy[0])
    assert {field.name for field in fields(Throughput)} == values["throughput"][0].keys()
    assert describe_backbone("resnet50").accuracy != describe_backbone("resnet50.tv_in1k").accuracy


def test_methods_use_backbones_that_there_are():
    assert {name for use in USES for name in use.backbones} <= set(cards(pretrained=False))
    assert all(use.paper.startswith("https://arxiv.org/abs/") for use in USES)
    assert len({use.method for use in USES}) == len(USES)


def test_gated_weights_have_a_twin():
    gated = [card for card in cards(pretrained=True).values() if card.ungated is not None]
    assert {card.source for card in gated} == {"dinov3"} == {card.name[:6] for card in gated}
    for card in gated:
        twin = describe_backbone(card.ungated)
        assert twin.ungated is None
        assert twin.hub_id.startswith("timm/")
        assert (twin.input_size, twin.license) == (card.input_size, card.license) or twin.license


# ---- activations


def is_small(family):
    """Whether an architecture stands for itself, and takes little of the memory of a machine."""
    card = describe_backbone(family.name)
    return not family.extra_kwargs and card.params < 40e6 and card.activations < 60e6


def saved_by_a_forward_pass(network, images):
    """How many numbers autograd saves on the CPU, without parameters and buffers."""
    own = {StorageWeakRef(tensor.untyped_storage()) for tensor in (*network.parameters(), *network.buffers())}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        saved[StorageWeakRef(storage)] = storage, storage.nbytes() // tensor.element_size()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    return sum(count for reference, (_, count) in saved.items() if reference not in own)


@pytest.mark.parametrize("family", spread(family for family in FAMILIES if is_small(family)))
def test_activations_are_what_a_forward_pass_saves(family):
    network = create_backbone(family.name, pretrained=False).train()
    if any(isinstance(module, torch.nn.RNNBase) for module in network.modules()):
        pytest.skip("what a recurrent layer leaves depends on its kernel")
    spec = get_input_spec(network)
    saved = saved_by_a_forward_pass(network, torch.rand(2, spec.in_chans, *spec.size)) // 2
    # Of some operations, kernels on the CPU lay memory out in another way than those of the meta device.
    assert describe_backbone(family.name).activations == pytest.approx(saved, rel=0.03)
