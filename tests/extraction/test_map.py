"""The map of a table: where the images are, and what is in the page. Its behavior in a browser is tested in docs/."""

import base64
import io
import json
import re
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from autobackbone import (
    ConfigError,
    OutputError,
    UnsupportedError,
    create_backbone,
    create_feature_backbone,
    extract_features,
    open_features,
)
from autobackbone.cli import app
from autobackbone.extraction import map_page
from autobackbone.extraction.decoding import UnreadableError
from autobackbone.extraction.listing import list_images
from autobackbone.extraction.map_page import by_pca, write_map
from autobackbone.extraction.thumbnails import Thumbnails, elided

HOSTILE = "a/<!--<script>alert(1)<img src=x onerror=alert(2)> \"q\" 'q' & é日本\u2028.png"


def data_of(path):
    """Return the data in a page, as a browser reads it."""
    text = path.read_text(encoding="utf-8")
    (content,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    return json.loads(content)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    names = ["a/red.png", "a/green.png", "b/blue.png", "b/#% ?.png", "top.png", HOSTILE]
    for i, name in enumerate(names):
        path = folder / name.replace("/script>", ">")
        path.parent.mkdir(exist_ok=True)
        noise = torch.rand(3, generator=torch.Generator().manual_seed(i)).mul(255).int().tolist()
        Image.new("RGB", (300, 200), tuple(noise)).save(path)
    output = tmp_path_factory.mktemp("tables") / "out"
    extract_features(create_backbone("test_resnet", pretrained=False), folder, output)
    (folder / "top.png").unlink()
    return output


def test_page(out, tmp_path):
    table = open_features(out)
    report = write_map(table, tmp_path / "deep/map.html")
    data = data_of(tmp_path / "deep/map.html")
    assert report == (6, 5)
    assert data["ids"] == table.ids
    assert [data["folders"][i] for i in data["folder"]] == [key.rpartition("/")[0] for key in table.ids]
    assert data["folders"] == ["a", "b", ""]
    assert data["model"] == "test_resnet"
    assert data["note"].startswith("RANDOM WEIGHTS")
    missing = table.ids.index("top.png")
    assert data["links"][missing] == ""
    for i, key in enumerate(table.ids):
        if i != missing:
            assert (tmp_path / "deep" / unquoted(data["links"][i])).samefile(table.row(key)["path"])
            with Image.open(io.BytesIO(base64.b64decode(data["pictures"][str(i)]))) as picture:
                assert picture.size == (88, 59)
    page = (tmp_path / "deep/map.html").read_text(encoding="utf-8")
    assert "alert(" not in page.replace("\\u003cscript>alert(1)\\u003cimg src=x onerror=alert(2)>", "")
    assert not re.findall(r"https?://", page)
    write_map(table, tmp_path / "deep/again.html")
    assert (tmp_path / "deep/again.html").read_bytes() == (tmp_path / "deep/map.html").read_bytes()


def unquoted(link: str) -> str:
    from urllib.parse import unquote

    assert re.fullmatch(r"[\w./%~-]+", link, re.ASCII)
    return unquote(link)


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_any_text_comes_back_out_of_the_page(texts):
    class Table:
        metadata = {  # noqa: RUF012
            "config": {"model_name": "m"},
            "weights": {"loaded": True, "origin": texts[0]},
            "columns": [],
        }
        columns = ("pooled",)

        def __len__(self):
            return len(texts)

    layout = map_page.Layout(torch.zeros(len(texts), 2), "axes")
    page = map_page.page(Table(), None, texts, texts, layout, {}, "map.html")
    assert page.count("</script>") == 2
    (content,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    data = json.loads(content)
    assert data["ids"] == texts
    assert data["note"] == ""
    assert texts[0] in data["weights"] or not texts[0]


@given(st.data())
def test_pca_is_that_of_the_singular_values(data):
    count, channels = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 12))
    features = torch.randn(count, channels, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(map_page, "_ROWS", data.draw(st.integers(1, 40)))
        patch.setattr(map_page, "_MOST_CHANNELS", data.draw(st.sampled_from([0, 100])))
        points = by_pca(features).points
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    centered = unit - unit.mean(0)
    u, s, _ = torch.linalg.svd(centered, full_matrices=False)
    kept = min(2, len(s))
    expected = torch.zeros(count, 2, dtype=torch.float64)
    expected[:, :kept] = u[:, :kept] * s[:kept]
    # Signs, and axes of equal variance, are free: distances along the axes are not.
    torch.testing.assert_close(points.square().sum(0), expected.square().sum(0), atol=1e-6, rtol=1e-6)
    if len(s) < 3 or s[1] - s[2] > 0.01:
        torch.testing.assert_close(torch.cdist(points, points), torch.cdist(expected, expected), atol=1e-4, rtol=1e-4)


def test_limits(out, tmp_path):
    report = write_map(open_features(out), tmp_path / "map.html", thumbnails=2, most=3)
    data = data_of(tmp_path / "map.html")
    assert report.images == len(data["ids"]) == len(data["points"]) == 3
    assert data["total"] == 6
    assert len(data["pictures"]) <= 2
    assert write_map(open_features(out), tmp_path / "map.html", thumbnails=0).thumbnails == 0


def test_command(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["map", str(out)], catch_exceptions=False)
    assert "6 images, 5 with a thumbnail\nRANDOM WEIGHTS" in result.output
    assert result.output.endswith("\nmap.html\n")
    result = CliRunner().invoke(app, ["map", str(out), "-o", "b.html", "--json"], catch_exceptions=False)
    answer = json.loads(result.output)
    assert answer["bytes"] == (tmp_path / "b.html").stat().st_size
    assert (answer["images"], answer["weights_loaded"]) == (6, False)


def test_maps_of_any_kind(tmp_path, photo):
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    extract_features(backbone, [photo], tmp_path / "out", keep={"c3": "map"})
    write_map(open_features(tmp_path / "out"), tmp_path / "map.html")
    assert data_of(tmp_path / "map.html")["points"] == [[0, 0]]


def test_umap(out, tmp_path, monkeypatch):
    class UMAP:
        def __init__(self, **settings):
            assert settings["n_neighbors"] == 5
            assert settings["metric"] == "cosine"

        def fit_transform(self, features):
            return features[:, :2]

    module = ModuleType("umap")
    module.UMAP = UMAP
    monkeypatch.setitem(sys.modules, "umap", module)
    monkeypatch.setattr(map_page, "find_spec", lambda _: object())
    table = open_features(out)
    write_map(table, tmp_path / "map.html", method="umap")
    points = torch.tensor(data_of(tmp_path / "map.html")["points"])
    expected = table.torch("pooled")[:, :2].clone()
    torch.testing.assert_close(points, expected - expected.mean(0), atol=1e-4, rtol=1e-3)
    with pytest.raises(UnsupportedError, match="at least 5 images, the table has 4"):
        map_page.by_umap(torch.rand(4, 3))


def test_mistakes(out, tmp_path, monkeypatch):
    table = open_features(out)
    with pytest.raises(ConfigError, match="did you mean 'umap'"):
        write_map(table, tmp_path / "map.html", method="umpa")
    with pytest.raises(OutputError, match="cannot be written"):
        write_map(table, tmp_path)
    monkeypatch.setattr(map_page, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedError, match="pip install umap-learn"):
        write_map(table, tmp_path / "map.html", method="umap")


def test_thumbnails(tmp_path, photo):
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(photo, "in/cat.png")
    reader = Thumbnails(64)
    fsspec.filesystem("memory").pipe_file("/cat.png", photo.read_bytes())
    for path in (str(photo), f"{tmp_path}/photos.tar!in/cat.png", "memory://cat.png"):
        image = reader.read(path)
        assert (image.size, image.mode) == ((64, 43), "RGB")
    (tmp_path / "text.png").write_text("no image")
    Image.new("F", (4, 4)).save(tmp_path / "float.tif")
    for path, reason in {
        "": "not in a file",
        f"{tmp_path}/photos.tar!in/dog.png": "no such file",
        f"{tmp_path}/no.tar!in/dog.png": "cannot be shown",
        f"{tmp_path}/no.png": "no such file",
        "memory://no.png": "no such file",
        "nothing://no.png": "cannot be shown",
        str(tmp_path): "cannot be read",
        f"{tmp_path}/text.png": "no format that Pillow knows",
        f"{tmp_path}/float.tif": "cannot be shown",
    }.items():
        with pytest.raises(UnreadableError, match=reason):
            reader.read(path)


@given(st.text(max_size=30), st.integers(2, 40))
def test_elided(text, fits):
    shorter = elided(text, fits)
    assert len(shorter) <= max(fits, 2)
    assert shorter == text if len(text) <= fits else "…" in shorter


def test_thumbnails_of_a_table_with_other_columns(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(file, "PNG")
    image = {"bytes": file.getvalue(), "path": "red.png"}
    shard = tmp_path / "shard.parquet"
    pq.write_table(pa.table({"label": [3, 4], "image": [image, image]}), shard)
    assert Thumbnails(8).read(f"{shard}!1").size == (8, 5)
    pq.write_table(pa.table({"left": [image], "right": [image]}), shard)
    with pytest.raises(UnreadableError, match=r"^cannot be shown$"):
        Thumbnails(8).read(f"{shard}!0")


def test_an_archive_is_listed_once_for_all_threads(tmp_path, monkeypatch):
    archive = tmp_path / "shard.tar"
    with tarfile.open(archive, "w") as tar:
        for i in range(8):
            file = io.BytesIO()
            Image.new("RGB", (30, 20), "red").save(file, "PNG")
            entry = tarfile.TarInfo(f"{i}.png")
            entry.size = len(file.getvalue())
            tar.addfile(entry, io.BytesIO(file.getvalue()))
    calls = []
    start = threading.Barrier(8)

    def slow(*args):
        calls.append(args)
        time.sleep(0.1)
        return list_images(*args)

    monkeypatch.setattr("autobackbone.extraction.thumbnails.list_images", slow)
    thumbnails = Thumbnails(8)

    def read(i):
        start.wait()
        return thumbnails.read(f"{archive}!{i}.png").size

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(8))) == {(8, 5)}
    assert len(calls) == 1
