"""What comes after an extraction: neighbors of an image, and the backbone of a table made again."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageDraw

from autobackbone import (
    ConfigError,
    InputError,
    UnsupportedError,
    WeightsMismatchError,
    create_backbone,
    create_feature_backbone,
    extract_features,
    open_features,
    optimize_for_inference,
)
from autobackbone.cli import app, main
from autobackbone.cli.sheet import draw_sheet
from autobackbone.extraction.duplicates import near_duplicates
from autobackbone.extraction.output import Output
from autobackbone.extraction.remake import remake

HOSTILE = "<script>alert(1)</script> \"q\" 'q' & é日本 [bold]x[/].png"


def run(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def fails(monkeypatch, capsys, *args: object) -> str:
    """Return what the command says on stderr, on one line."""
    monkeypatch.setattr("sys.argv", ["autobackbone", *map(str, args)])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("autobackbone: ")
    assert error.count("\n") == 1
    return error


def draw(path: Path, color: str, size: tuple[int, int] = (90, 70)) -> None:
    image = Image.new("RGB", size, color)
    ImageDraw.Draw(image).ellipse((10, 10, 50, 60), fill="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, color in enumerate(("red", "darkred", "green", "blue", "navy", "yellow")):
        draw(folder / f"{'warm' if i < 2 else 'cold'}/{color}.png", color)
    draw(folder / HOSTILE, "purple")
    shutil.copy(folder / "warm/red.png", folder / "copy of red.png")
    return folder


@pytest.fixture(scope="module")
def out(photos, tmp_path_factory):
    """A table of pooled features of random weights, as the command writes it."""
    folder = tmp_path_factory.mktemp("tables") / "pooled"
    run("extract", photos, "-m", "test_resnet", "--random-weights", "-o", folder, "--json")
    return folder


def test_neighbors_of_an_image_in_the_table(out):
    table = open_features(out)
    answer = json.loads(run("neighbors", "warm/red.png", out, "-k", 3, "--json"))
    assert answer["query_id"] == "warm/red.png"
    assert answer["weights_loaded"] is False
    expected = table.nearest("warm/red.png", 3)
    found = [(row["id"], row["similarity"]) for row in answer["neighbors"]]
    assert found == [(key, round(similarity, 6)) for key, similarity in expected]
    assert found[0] == ("copy of red.png", pytest.approx(1, abs=1e-5))
    assert [row["path"] for row in answer["neighbors"]] == [table.row(key)["path"] for key, _ in expected]


def test_a_file_in_the_table_needs_no_backbone(out, photos, tmp_path, monkeypatch):
    copy = tmp_path / "renamed.png"
    shutil.copy(photos / "cold/blue.png", copy)
    monkeypatch.setattr("autobackbone.extraction.remake.remake", None)
    answer = json.loads(run("neighbors", copy, out, "--json"))
    assert answer["query_id"] == "cold/blue.png"
    assert "cold/blue.png" not in [row["id"] for row in answer["neighbors"]]


def test_a_new_file(out, tmp_path):
    draw(tmp_path / "new.png", "red", (91, 70))
    answer = json.loads(run("neighbors", tmp_path / "new.png", out, "-k", 100, "--json"))
    assert answer["query_id"] is None
    assert len(answer["neighbors"]) == len(open_features(out))
    assert {row["id"] for row in answer["neighbors"][:2]} == {"warm/red.png", "copy of red.png"}


def test_what_is_printed(out):
    text = run("neighbors", HOSTILE, out)
    assert text.count("\n") == len(open_features(out)) + 1  # a heading, the others, and the note on weights
    assert "RANDOM WEIGHTS" in text
    assert HOSTILE in run("neighbors", "warm/red.png", out)


def test_sheet(out, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("neighbors", "warm/red.png", out, "--sheet").endswith("\nneighbors.png\n")
    sheet = Image.open("neighbors.png")
    colors = {color for _, color in sheet.getcolors(sheet.width * sheet.height)}
    assert {(255, 0, 0), (0, 0, 255), (128, 0, 128)} <= colors  # query and neighbors
    assert (0xB3, 0x26, 0x1E) in colors  # the note on weights
    quiet = draw_sheet("t", str(photos / "warm/red.png"), [(0.5, "gone", "/no/such.png")], "")
    colors = {color for _, color in quiet.getcolors(quiet.width * quiet.height)}
    assert (0xB3, 0x26, 0x1E) not in colors


def test_mistakes(out, tmp_path, monkeypatch, capsys):
    error = fails(monkeypatch, capsys, "neighbors", "warm/rad.png", out)
    assert "did you mean 'warm/red.png'?" in error
    assert "no table of features" in fails(monkeypatch, capsys, "neighbors", "x.png", tmp_path)
    (tmp_path / "text.png").write_text("no image")
    with monkeypatch.context() as patch:
        patch.setattr("autobackbone.extraction.remake.remake", None)  # no backbone is needed to see this
        error = fails(monkeypatch, capsys, "neighbors", tmp_path / "text.png", out)
    assert "text.png' cannot be searched for: its content is of no format that Pillow knows" in error
    error = fails(monkeypatch, capsys, "neighbors", tmp_path / "text.png", out, "--column", "poled")
    assert "did you mean 'pooled'?" in error
    assert "--sheet" in fails(monkeypatch, capsys, "neighbors", HOSTILE, out, "--sheet", tmp_path / "a.xyz")
    assert "cannot be read" in fails(monkeypatch, capsys, "neighbors", tmp_path, out)
    monkeypatch.setattr("autobackbone.extract.find_spec", lambda _: None)
    assert "autobackbone[extract]" in fails(monkeypatch, capsys, "neighbors", "x.png", out)


SETTINGS = {
    "maps": {"keep": {"c3": ["mean", "grid2", "map"], "c4": "gem"}},
    "stretch": {"resize": "stretch", "image_size": (96, 64)},
    "any size": {"resize": "none", "keep": {"c5": ["max", "map"]}},
    "half": {"dtype": "bfloat16"},
    "full": {"scaled_decoding": False, "dtype": "float16"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_remade_features_are_those_of_the_table(name, photos, photo, tmp_path):
    shutil.copytree(photos / "cold", tmp_path / "photos")
    with Image.open(photo) as image:  # large enough to be decoded at a fraction
        image.resize((1804, 1200)).save(tmp_path / "photos/cat.jpg")
    torch.manual_seed(0)
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    extract_features(backbone, tmp_path / "photos", tmp_path / "out", **SETTINGS[name])
    table = open_features(tmp_path / "out")
    torch.manual_seed(1)
    features = remake(table.metadata)
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(1))  # the caller's state is kept
    for key in table.ids:
        row = table.row(key)
        found = features((tmp_path / "photos" / key).read_bytes())
        assert found.keys() == set(table.columns)
        for column, value in found.items():
            assert value.dtype == row[column].dtype
            torch.testing.assert_close(value, row[column])


def test_remade_in_the_dtype_of_the_run(photos, tmp_path):
    run(
        *("extract", photos / "cold", "-m", "test_vit", "--random-weights", "-o", tmp_path / "out", "--json"),
        *("--compute-dtype", "bfloat16"),
    )
    table = open_features(tmp_path / "out")
    key = table.ids[0]
    found = remake(table.metadata)((photos / "cold" / key).read_bytes())
    torch.testing.assert_close(found["pooled"], table.row(key)["pooled"], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_remade_with_a_backbone_that_was_optimized(dtype, photos, tmp_path):
    torch.manual_seed(0)
    backbone = create_feature_backbone("test_resnet", pretrained=False).eval()
    fast = optimize_for_inference(backbone, dtype=dtype)
    extract_features(fast, photos / "cold", tmp_path / "out")
    table = open_features(tmp_path / "out")
    key = table.ids[0]
    found = remake(table.metadata)((photos / "cold" / key).read_bytes())
    torch.testing.assert_close(found["c5_mean"], table.row(key)["c5_mean"], rtol=0.02, atol=0.02)


def test_weights_from_a_file(photos, tmp_path):
    torch.manual_seed(7)
    create_backbone("test_resnet", pretrained=False)
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    backbone.save_pretrained(tmp_path / "saved")
    (weights,) = (tmp_path / "saved").glob("*.safetensors")
    backbone = create_backbone("test_resnet", weights=str(weights))
    extract_features(backbone, photos / "warm", tmp_path / "out")
    table = open_features(tmp_path / "out")
    content = (photos / "warm/red.png").read_bytes()
    expected = table.row("red.png")["pooled"]
    torch.testing.assert_close(remake(table.metadata)(content)["pooled"], expected)
    weights.rename(tmp_path / "moved.safetensors")
    moved = remake(table.metadata, weights=str(tmp_path / "moved.safetensors"))
    torch.testing.assert_close(moved(content)["pooled"], expected)


def test_other_weights(photos, tmp_path, monkeypatch, capsys):
    torch.manual_seed(3)  # not that of the command
    backbone = create_backbone("test_resnet", pretrained=False)
    extract_features(backbone, photos / "warm", tmp_path / "out")
    error = fails(monkeypatch, capsys, "neighbors", photos / "cold/blue.png", tmp_path / "out")
    assert "not loaded from anywhere" in error
    assert "--weights" in error
    torch.save(create_backbone("test_resnet", pretrained=False).state_dict(), tmp_path / "other.pt")
    error = fails(
        *(monkeypatch, capsys, "neighbors", photos / "cold/blue.png", tmp_path / "out"),
        *("--weights", tmp_path / "other.pt"),
    )
    assert "does not hold the weights" in error
    torch.save(backbone.state_dict(), tmp_path / "own.pt")
    run("neighbors", photos / "cold/blue.png", tmp_path / "out", "--weights", tmp_path / "own.pt")


def test_weights_that_changed_where_they_came_from(photos, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(create_backbone("test_resnet", pretrained=False).state_dict(), path)
    extract_features(create_backbone("test_resnet", weights=str(path)), photos / "warm", tmp_path / "out")
    torch.save(create_backbone("test_resnet", pretrained=False).state_dict(), path)
    with pytest.raises(WeightsMismatchError, match=r"which came from '.*weights\.pt'"):
        remake(open_features(tmp_path / "out").metadata)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "https://example.com/x.pt"}, "does not choose what is downloaded"),
        ({"weights": "hf-hub:someone/something"}, "does not choose what is downloaded"),
        ({"extra_kwargs": {"cache_dir": "elsewhere"}}, "sets 'cache_dir'"),
        ({"extra_kwargs": {"pretrained_cfg_overlay": {"file": "x"}}}, "sets 'file'"),
        ({"model_name": "local-dir:x", "extra_kwargs": {"device": "meta"}}, "sets extra_kwargs"),
    ],
)
def test_what_a_table_may_not_decide(out, changes, message):
    metadata = open_features(out).metadata
    with pytest.raises(ConfigError, match=message):
        remake(metadata | {"config": metadata["config"] | changes})


def test_an_image_without_features(tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "text.png").write_text("no image")
    torch.manual_seed(0)
    extract_features(create_backbone("test_resnet", pretrained=False), tmp_path / "photos", tmp_path / "out")
    error = fails(monkeypatch, capsys, "neighbors", "text.png", tmp_path / "out")
    assert "'text.png' has no features in the table: its content is of no format that Pillow knows" in error


def test_a_custom_transform_cannot_be_made_again(photos, tmp_path):
    def transform(_image):
        return torch.zeros(3, 64, 64)

    backbone = create_backbone("test_resnet", pretrained=False)
    extract_features(backbone, photos / "warm", tmp_path / "out", transform=transform)
    table = open_features(tmp_path / "out")
    with pytest.raises(UnsupportedError, match=r"prepared by .*transform.*by its id"):
        remake(table.metadata)


def test_several_columns(photos, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    run("extract", photos, "-m", "test_vit", "--random-weights", "--keep", "mean", "-o", folder, "--json")
    names = open_features(folder).columns
    assert "name one of" in fails(monkeypatch, capsys, "neighbors", photos / "warm/red.png", folder)
    for name in names:
        answer = json.loads(run("neighbors", "warm/red.png", folder, "--column", name, "-k", 1, "--json"))
        assert answer["neighbors"][0]["id"] == "copy of red.png"
    with pytest.raises(ConfigError):
        near_duplicates(open_features(folder))


def test_local_parts_are_read_without_files_of_python(out):
    """Arrow's threads may hold them until the interpreter ends, and then abort it."""
    output = Output(str(out))
    for path in output.part_paths():
        with output.open(path) as file:
            assert type(file) is pa.OSFile


def test_unreadable_query(out):
    with pytest.raises(InputError, match="no features: the file is empty"):
        remake(open_features(out).metadata)(b"")
