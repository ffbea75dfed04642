"""The catalog: its file, its truth, and what happens when it is not there, damaged or of another timm."""

import json
import multiprocessing
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
from torchvision.models import get_model_weights

from autobackbone import create_feature_backbone, describe_backbone, list_backbones
from autobackbone.catalog import store as catalog
from autobackbone.catalog import survey
from autobackbone.catalog.encoding import Records, decode_facts, encode_facts
from autobackbone.catalog.store import Catalog
from autobackbone.cli import main
from autobackbone.names import DINOV3
from autobackbone.sources import installed
from autobackbone.sources.dinov3.published import declared_record
from autobackbone.sources.timm import registry

SHIPPED = catalog.read(catalog.FILE)
if SHIPPED.timm != timm.__version__:
    pytest.skip(f"the catalog is of timm {SHIPPED.timm}", allow_module_level=True)
BEGIN = (
    '{"schema": 6, "timm": "1", "inputs": [[3, 8, 8, [0], [1], "bilinear", 1, "center"]], "backbones": '
    '{"a": {"family": "f", "input": 0, "tags": {},'
)


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Keep what is measured in a folder of the test's own, and forget it in memory."""
    caches = (catalog.shipped, installed.installed_catalog, installed._with_registered, installed._measure_once)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(catalog, "cache_path", lambda version: tmp_path / "cache" / f"catalog-timm-{version}.json")
    yield tmp_path / "cache"
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def another_timm(monkeypatch, elsewhere):
    """Another version of timm than the one that the catalog was made with; returns its file in the cache."""
    monkeypatch.setattr(registry, "timm_version", lambda: "0.0.0")
    return elsewhere / "catalog-timm-0.0.0.json"


def forget():
    """Forget what is known of the installed timm, as a new process would."""
    installed.installed_catalog.cache_clear()
    installed._measure_once.cache_clear()


# ---- the file


def test_the_file_is_small_and_comes_back_byte_for_byte(tmp_path):
    catalog.write(tmp_path / "again.json", SHIPPED)
    assert (tmp_path / "again.json").read_bytes() == catalog.FILE.read_bytes()
    assert catalog.FILE.stat().st_size < 600_000
    assert [p.name for p in tmp_path.iterdir()] == ["again.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged, or no catalog (JSONDecodeError)"),
        ('{"schema": 6, "timm": "1", "backbones": {"a": {', "is damaged, or no catalog (JSONDecodeError)"),
        ("[1]", "is damaged, or no catalog (TypeError)"),
        ('{"schema": 99}', "is a catalog of schema 99, not 6"),
        ('{"schema": 6, "timm": "1", "inputs": [], "backbones": {"a": {"input": 0}}}', "no catalog (IndexError)"),
        ('{"schema": 6, "timm": "1", "inputs": [], "backbones": 3}', "no catalog (AttributeError)"),
        (f'{BEGIN} "levels": "x", "min_size": 1, "params": 1, "macs": 1}}}}}}', "no catalog (IndexError)"),
        (f'{BEGIN} "levels": [[1, 2, 3, 4, 5, null, "x"]], "min_size": 1}}}}}}', "no catalog (TypeError)"),
        (f'{BEGIN} "macs": 1}}}}}}', "no catalog (TypeError)"),
        (f'{BEGIN} "prefix_tokens": {{"class": null}}}}}}}}', "no catalog (TypeError)"),
    ],
)
def test_what_is_no_catalog(tmp_path, text, message):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError, match=r"file\.json") as err:
        catalog.read(tmp_path / "file.json")
    assert message in str(err.value)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    catalog.write(path, Catalog("1", Records({"test_vit": SHIPPED.records["test_vit"]})))
    before = path.read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        catalog.write(path, SHIPPED)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---- its truth


def test_it_holds_what_timm_and_the_source_of_dinov3_say():
    assert list(SHIPPED.records) == sorted([*timm.list_models(), *DINOV3], key=catalog.natural_key)
    for name, record in SHIPPED.records.items():
        declared = declared_record(name) if name in DINOV3 else registry.declared_record(name)
        assert declared == replace(record, facts=None, params=None, macs=None, activations=None, exportable=None)


def test_it_holds_what_is_measured():
    """Some backbones are measured anew; ``nox -s zoo`` measures all of them."""
    sample = random.Random(SHIPPED.timm).sample(sorted(SHIPPED.records), 2)  # noqa: S311 - nothing secret
    for name in sample:
        assert replace(survey.measure(name), exportable=True) == replace(SHIPPED.records[name], exportable=True)
    for name in sample[:2]:
        assert survey.is_exportable(name) is SHIPPED.records[name].exportable, name


def test_macs_are_those_of_one_image():
    """Its default size is no multiple of what its pooled form promises to take, so that it is tried before."""
    record = SHIPPED.records["legacy_xception"]
    assert survey.count(replace(record, params=None, macs=None, activations=None), record.name) == record


@pytest.mark.zoo
@pytest.mark.parametrize("name", SHIPPED.records)
def test_all_of_it_is_what_is_measured(name):
    record = SHIPPED.records[name]
    assert replace(survey.measure(name), exportable=record.exportable) == record


@pytest.mark.zoo
@pytest.mark.parametrize("names", survey.kinds(SHIPPED), ids=lambda names: names[0])
def test_every_kind_is_exported_or_not(names):
    assert {survey.is_exportable(names[0])} == {SHIPPED.records[name].exportable for name in names}


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("resnet50", "resnet50"),
        ("convnext_tiny", "convnext_tiny"),
        ("vit_base_patch16_224", "vit_b_16"),
        ("swin_tiny_patch4_window7_224", "swin_t"),
        ("regnety_004", "regnet_y_400mf"),
        ("densenet121", "densenet121"),
        ("wide_resnet50_2", "wide_resnet50_2"),
    ],
)
def test_parameters_and_macs_are_those_that_torchvision_publishes(name, same):
    card = describe_backbone(name)
    meta = get_model_weights(same).DEFAULT.meta
    weights = 1000 * card.channels[-1]  # of the classifier that torchvision counts too
    assert card.params == meta["num_params"] - weights - 1000
    assert abs(card.macs + weights - meta["_ops"] * 1e9) < 0.002e9  # to a thousandth, and without elementwise work


def test_facts_survive_the_way_into_the_file_and_back():
    facts = installed.measured("test_coatnet")
    assert decode_facts(json.loads(json.dumps(encode_facts(facts)))) == facts


# ---- another timm


def test_another_timm_is_measured_when_asked_and_remembered(another_timm, monkeypatch):
    assert list_backbones("*resnet*") == timm.list_models("*resnet*")
    assert describe_backbone("test_resnet") == _shipped_card("test_resnet")
    assert list_backbones("test_res*", max_params=1e6) == ["test_resnet"]
    assert catalog.read(another_timm).records["test_resnet"] == SHIPPED.records["test_resnet"]
    assert set(catalog.read(another_timm).records) == set(SHIPPED.records)

    forget()
    monkeypatch.setattr(survey, "measure", lambda name: pytest.fail(f"{name} was measured again"))
    assert describe_backbone("test_resnet") == _shipped_card("test_resnet")


def test_creation_measures_another_timm_and_remembers(another_timm):
    with torch.device("meta"):
        backbone = create_feature_backbone("test_convnext", pretrained=False)
    assert backbone.strides == (8, 16, 32)
    assert catalog.read(another_timm).records["test_convnext"].levels == SHIPPED.records["test_convnext"].levels


@pytest.mark.usefixtures("another_timm")
def test_a_filter_that_measures_many_says_so(caplog):
    assert list_backbones("test_vit?", strides=16) == ["test_vit2", "test_vit3", "test_vit4"]
    assert "3 architectures are not in the catalog, and are measured now" in caplog.text
    assert "catalog build" in caplog.text


def test_a_damaged_cache_is_made_again(another_timm, caplog):
    another_timm.parent.mkdir()
    another_timm.write_text('{"schema": 6, "timm"')
    assert list_backbones("resnet50") == list_backbones("resnet50")
    assert caplog.text.count("is damaged, or no catalog") == 1
    assert set(catalog.read(another_timm).records) == set(SHIPPED.records)


def test_a_cache_of_nothing_is_none(another_timm):
    another_timm.parent.mkdir()
    catalog.write(another_timm, Catalog("0.0.0"))
    assert "resnet50" in list_backbones("resnet50")


def test_a_development_version_is_not_remembered(elsewhere, monkeypatch):
    monkeypatch.setattr(registry, "timm_version", lambda: "0.0.0.dev0")
    assert describe_backbone("test_resnet") == _shipped_card("test_resnet")
    assert not elsewhere.exists()


def test_the_name_of_the_cache_stays_in_its_folder():
    path = catalog.cache_path("9+../../../evil")
    assert path.parent == catalog.cache_path("1.0").parent
    assert "/" not in path.name


def test_a_cache_that_cannot_be_written_is_told_once(another_timm, caplog):
    another_timm.parent.write_text("a file where the folder should be")
    catalog._warn_once.cache_clear()
    assert describe_backbone("test_resnet").params == SHIPPED.records["test_resnet"].params
    assert [record.getMessage() for record in caplog.records if record.name == "autobackbone"] == [
        f"What was measured of backbones cannot be kept in {str(another_timm.parent)!r}: File exists."
    ]


def test_a_damaged_catalog_of_the_package_is_told_and_done_without(elsewhere, monkeypatch, capsys, tmp_path):
    (tmp_path / "catalog.json").write_text("{")
    monkeypatch.setattr(catalog, "FILE", tmp_path / "catalog.json")
    monkeypatch.setattr(sys, "argv", ["autobackbone", "list", "dinov3*"])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    assert stop.value.code == 0
    assert captured.out.split() == sorted(DINOV3, key=catalog.natural_key)
    assert describe_backbone("dinov3_vits16") == _shipped_card("dinov3_vits16")
    assert elsewhere.is_dir()


def _shipped_card(name):
    code = f"from autobackbone import describe_backbone; print(repr(describe_backbone({name!r})))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    from autobackbone import Accuracy, BackboneCard, FeatureLevel, InputSpec, Throughput, Use

    shown = (Accuracy, BackboneCard, FeatureLevel, InputSpec, Throughput, Use)
    return eval(answer.stdout, {c.__name__: c for c in shown})  # noqa: S307 - ours


def _add_to_cache(path, names):
    catalog.cache_path = lambda _: path  # in a process of its own
    for name in names:
        catalog.add_to_cache(Catalog("0.0.0", Records({name: SHIPPED.records[name]})))


def test_processes_remember_at_once(tmp_path):
    names = list(SHIPPED.records)[:40]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add_to_cache, args=(tmp_path / "catalog.json", names[i::4])) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert list(catalog.read(tmp_path / "catalog.json").records) == names


# ---- building


@pytest.mark.zoo
@pytest.mark.usefixtures("elsewhere")
def test_building_is_resumable_and_byte_stable(tmp_path, monkeypatch):
    few = {name: SHIPPED.records[name] for name in ("dinov3_vits16", "test_resnet", "test_vit")}
    monkeypatch.setattr(survey, "declared", lambda: few)
    seen = []
    path = survey.build(tmp_path / "catalog.json", progress=lambda *args: seen.append(args))
    first = path.read_bytes()
    assert dict(catalog.read(path).records) == few
    assert len(seen) == 6
    seen.clear()
    assert survey.build(path, progress=lambda *args: seen.append(args)).read_bytes() == first
    assert seen == []
    rest = {name: record for name, record in few.items() if name != "test_vit"}
    catalog.write(path, Catalog(timm.__version__, Records(rest)))
    assert survey.build(path).read_bytes() == first
    path.write_bytes(first[:-30])
    with pytest.raises(ValueError, match="remove it, or measure everything again"):
        survey.build(path)
    assert survey.build(path, fresh=True).read_bytes() == first
