"""The same photographs, however they are named, give the same features; what names none is told at once."""

import csv
import http.server
import io
import os
import shutil
import socket
import tarfile
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from some_images import expected, picture, pooled

from autobackbone import ConfigError, InputError, extract_features, get_input_spec, open_features
from autobackbone.errors import BackboneError

NAMES = ("a.png", "b/a.png", 'b/c/odd, "quoted" name.PNG', "z.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures by name, below a folder; each is a file of its own."""
    folder = tmp_path_factory.mktemp("photos")
    for i, name in enumerate(NAMES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i, 40, 30).save(path)
    return folder


@pytest.fixture(scope="module")
def features(photos):
    return expected(pooled(), [photos / name for name in NAMES])


def extract(images, output, backbone=None, **kwargs):
    report = extract_features(
        pooled() if backbone is None else backbone, images, output, workers=1, show_progress=False, **kwargs
    )
    table = open_features(output)
    assert len(table) == report.extracted
    assert table.errors == []
    return table


def as_table(folder, images):
    """Every way of naming the pictures in files: images, arguments, ids."""
    ids = [str(folder / name) for name in NAMES]
    contents = [(folder / name).read_bytes() for name in NAMES]
    elsewhere = images / "lists"
    elsewhere.mkdir()
    relative = [os.path.relpath(path, elsewhere) for path in ids]
    (elsewhere / "list.txt").write_text("\ufeff" + "\r\n".join(["", *relative, ""]))
    for name, delimiter in (("list.csv", ","), ("list.tsv", "\t")):
        with (elsewhere / name).open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(["note", "file"])
            writer.writerows([["two\nlines, and a comma", path] for path in relative])
    types = {"paths": relative, "categories": pa.array(relative).dictionary_encode(), "bytes": contents}
    types["hf"] = [{"bytes": content, "path": "x.png"} for content in contents]
    pq.write_table(pa.table(types), elsewhere / "table.parquet", row_group_size=3)
    with tarfile.open(elsewhere / "archive.tar", "w") as tar:
        for name in NAMES:
            tar.add(folder / name, arcname=f"./{name}")
        tar.addfile(tarfile.TarInfo("notes.json"), io.BytesIO())
    for i in (0, 1):
        pq.write_table(pa.table({"image": contents[2 * i : 2 * i + 2]}), elsewhere / f"shard-{i:02d}.parquet")
        with tarfile.open(elsewhere / f"shard-{i:02d}.tar", "w") as tar:
            for name in NAMES[2 * i : 2 * i + 2]:
                tar.add(folder / name, arcname=name)
    rows = [f"{elsewhere}/table.parquet!{i}" for i in range(4)]
    members = [f"{elsewhere}/shard-{i // 2:02d}.tar!{name}" for i, name in enumerate(NAMES)]
    shards = [f"{elsewhere}/shard-{i // 2:02d}.parquet!{i % 2}" for i in range(4)]
    return {
        "folder": (folder, {}, list(NAMES)),
        "folder as an address": (f"file://{folder}", {}, list(NAMES)),
        "folder with a slash": (f"{folder}/", {}, list(NAMES)),
        "pattern": (f"{folder}/**/*.[pP]*", {}, ids),
        "list of str": (ids, {}, ids),
        "tuple of Path": (tuple(map(Path, ids)), {}, ids),
        "keys": (dict.fromkeys(ids).keys(), {}, ids),
        "text": (elsewhere / "list.txt", {}, relative),
        "CSV": (elsewhere / "list.csv", {"column": "file"}, relative),
        "TSV": (elsewhere / "list.tsv", {"column": "file"}, relative),
        "paths in Parquet": (elsewhere / "table.parquet", {"column": "paths"}, relative),
        "categories in Parquet": (elsewhere / "table.parquet", {"column": "categories"}, relative),
        "images in Parquet": (elsewhere / "table.parquet", {"column": "bytes"}, rows),
        "structs in Parquet": (elsewhere / "table.parquet", {"column": "hf"}, rows),
        "images in Parquet, as an address": (
            f"file://{elsewhere}/table.parquet",
            {"column": "hf"},
            [f"file://{row}" for row in rows],
        ),
        "Parquet shards": ([str(elsewhere / f"shard-{i:02d}.parquet") for i in (0, 1)], {}, shards),
        "pattern of Parquet shards": (f"{elsewhere}/shard-*.parquet", {"column": "image"}, shards),
        "tar": (elsewhere / "archive.tar", {}, [f"{elsewhere}/archive.tar!./{name}" for name in NAMES]),
        "tar shards": ([elsewhere / f"shard-{i:02d}.tar" for i in (0, 1)], {}, members),
        "pattern of tar shards": (f"{elsewhere}/*d-*.tar", {}, members),
        "range of tar shards": (f"{elsewhere}/shard-{{00..01}}.tar", {}, members),
    }


WAYS = (
    "folder",
    "folder as an address",
    "folder with a slash",
    "pattern",
    "list of str",
    "tuple of Path",
    "keys",
    "text",
    "CSV",
    "TSV",
    "paths in Parquet",
    "categories in Parquet",
    "images in Parquet",
    "structs in Parquet",
    "images in Parquet, as an address",
    "Parquet shards",
    "pattern of Parquet shards",
    "tar",
    "tar shards",
    "pattern of tar shards",
    "range of tar shards",
)


@pytest.fixture(scope="module")
def ways(photos, tmp_path_factory):
    return as_table(photos, tmp_path_factory.mktemp("ways"))


@pytest.mark.parametrize("way", WAYS)
def test_names_in_files(way, ways, features, tmp_path):
    images, kwargs, ids = ways[way]
    table = extract(images, tmp_path / "out", **kwargs)
    order = sorted(range(4), key=lambda i: table.ids.index(ids[i]))
    assert table.ids == [ids[i] for i in order]
    np.testing.assert_allclose(table.numpy(), features[order], atol=1e-5)


class Items(torch.utils.data.Dataset):
    """A torch data set."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def opened(photos):
    return [Image.open(photos / name) for name in NAMES]


DATASETS = {
    "list of images": (opened, {}),
    "list of arrays": (lambda photos: [np.array(image) for image in opened(photos)], {}),
    "one array": (lambda photos: np.stack([np.array(image) for image in opened(photos)]), {}),
    "data set of images": (lambda photos: Items(opened(photos)), {}),
    "data set of tuples": (lambda photos: Items([(image, 3) for image in opened(photos)]), {}),
    "data set of mappings": (
        lambda photos: Items([{"label": 1, "image": image} for image in opened(photos)]),
        {"column": "image"},
    ),
    "data set of one key": (lambda photos: Items([{"image": image} for image in opened(photos)]), {}),
    "data set of bytes": (lambda photos: Items([(photos / name).read_bytes() for name in NAMES]), {}),
    "data set of bytes in mappings": (
        lambda photos: Items([{"bytes": (photos / name).read_bytes(), "path": None} for name in NAMES]),
        {},
    ),
    "data set of paths": (lambda photos: Items([photos / name for name in NAMES]), {}),
    "list of tensors": (lambda photos: [get_input_spec(pooled()).transform()(image) for image in opened(photos)], {}),
    "one tensor": (
        lambda photos: torch.stack([get_input_spec(pooled()).transform()(image) for image in opened(photos)]),
        {},
    ),
}


@pytest.mark.parametrize("way", DATASETS)
def test_data_sets(way, photos, features, tmp_path):
    make, kwargs = DATASETS[way]
    table = extract(make(photos), tmp_path / "out", **kwargs)
    assert table.ids == ["0", "1", "2", "3"]
    np.testing.assert_allclose(table.numpy(), features, atol=1e-5)
    assert table.row("2")["width"] == (160 if "tensor" in way else 40)


@pytest.mark.parametrize("decode", [True, False])
def test_hugging_face_data_sets(decode, photos, features, tmp_path):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"image": [str(photos / name) for name in NAMES], "label": range(4)})
    dataset = dataset.cast_column("image", datasets.Image(decode=decode))
    table = extract(dataset, tmp_path / "out")
    np.testing.assert_allclose(table.numpy(), features, atol=1e-5)
    with pytest.raises(ConfigError, match="streams"):
        extract(dataset.to_iterable_dataset(), tmp_path / "other")


def test_frames(photos, features, tmp_path):
    paths = [str(photos / name) for name in NAMES]
    frame = Frame(file=[paths[0], None, *paths[1:], float("nan"), ""], label=list(range(7)))
    table = extract(frame, tmp_path / "out", column="file")
    assert table.ids == paths
    np.testing.assert_allclose(table.numpy(), features, atol=1e-5)
    with pytest.raises(ConfigError, match=r"Give column=, one of 'file', 'label'"):
        extract(frame, tmp_path / "other")


class Frame:
    """What pandas and polars have in common."""

    def __init__(self, **columns):
        self.columns = list(columns)
        self._values = columns

    def __getitem__(self, name):
        return self._values[name]

    def __len__(self):
        return len(self._values[self.columns[0]])

    def to_dict(self):
        return self._values


def test_patterns_without_a_suffix_match_images_only(photos, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "z.png"):
        (folder / name).write_bytes((photos / name).read_bytes())
    (folder / "notes.md").write_text("no image")
    assert len(extract(f"{folder}/**", tmp_path / "out")) == 2


def test_folders_are_searched_through_links_once_and_hidden_files_left_out(photos, features, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "link").symlink_to(photos)
    (folder / "one.png").symlink_to(photos / "a.png")
    (folder / "cycle").symlink_to(folder)
    (folder / "gone.png").symlink_to(tmp_path / "nothing")
    for hidden in (".hidden.png", ".folder/a.png", "notes.txt"):
        (folder / hidden).parent.mkdir(exist_ok=True)
        (folder / hidden).write_bytes((photos / "a.png").read_bytes())
    (folder / "folder.jpg").mkdir()
    report = extract_features(pooled(), folder, tmp_path / "out", workers=1)
    table = open_features(tmp_path / "out")
    assert table.ids == [*(f"link/{name}" for name in NAMES), "one.png"]
    assert [(failure.id, failure.reason) for failure in table.errors] == [("gone.png", "there is no such file")]
    assert (report.listed, report.extracted, report.failed) == (6, 5, 1)
    np.testing.assert_allclose(table.numpy(), features[[0, 1, 2, 3, 0]], atol=1e-5)


def test_folders_in_memory_and_in_archives(photos, features, tmp_path):
    memory = fsspec.filesystem("memory")
    for name in (*NAMES, ".hidden.png", "b/.folder/a.png"):
        source = photos / (name if name in NAMES else NAMES[0])
        memory.pipe_file(f"/given/{name}", source.read_bytes())
    try:
        for address in ("memory://given", "memory:///given/"):
            table = extract(address, tmp_path / address.replace("/", "_"))
            assert table.ids == sorted(NAMES)
            np.testing.assert_allclose(table.numpy(), features, atol=1e-5)
        pattern = extract("memory://given/b/*.png", tmp_path / "pattern")
        np.testing.assert_allclose(pattern.numpy(), features[[1]], atol=1e-5)
    finally:
        memory.rm("/given", recursive=True)
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as tar:
        tar.add(photos, arcname="in")
    table = extract(f"tar://in::{tmp_path}/packed.tar.gz", tmp_path / "out")
    assert table.ids == sorted(NAMES)
    np.testing.assert_allclose(table.numpy(), features, atol=1e-5)


def test_colons_in_names(photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "a::b")
    shutil.copy(photos / NAMES[0], folder / "zip::c.png")
    table = extract(folder, tmp_path / "out::put")
    assert table.ids == sorted([*NAMES, "zip::c.png"])
    assert not table.errors
    np.testing.assert_array_equal(table.row("zip::c.png")["pooled"], table.row(NAMES[0])["pooled"])


def test_links_and_hidden_files_in_archives(photos, features, tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    (copies / "a.png").write_bytes((photos / "a.png").read_bytes())
    (copies / "b.png").hardlink_to(copies / "a.png")
    (copies / "._a.png").write_bytes(b"of another system")
    (copies / "c.png").symlink_to("a.png")
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        for name in ("a.png", "b.png", "c.png", "._a.png"):
            tar.add(copies / name, arcname=name)
    table = extract(tmp_path / "links.tar", tmp_path / "out")
    assert [key.rpartition("!")[2] for key in table.ids] == ["a.png", "b.png"]
    np.testing.assert_allclose(table.numpy(), features[[0, 0]], atol=1e-5)


def test_what_is_listed_twice_is_extracted_once(photos, tmp_path):
    path = str(photos / "a.png")
    report = extract_features(pooled(), [path, path, str(photos / "z.png"), path], tmp_path / "out", workers=1)
    assert (report.listed, report.repeated, report.extracted) == (2, 2, 2)


# --- a web server of this machine ---


@pytest.fixture
def server(photos):
    pytest.importorskip("aiohttp")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(photos))

        def log_message(self, *args):
            """Be silent."""

        def do_GET(self):
            if "status" in self.path:
                self.send_error(int(self.path.rpartition("/")[2].partition(".")[0]))
            else:
                super().do_GET()

        do_HEAD = do_GET  # noqa: N815

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_addresses_of_a_web_server(server, photos, features, tmp_path):
    addresses = [f"{server}/a.png", f"{server}/z.png", f"{server}/gone.png", f"{server}/status/403.png"]
    report = extract_features(pooled(), addresses, tmp_path / "out", workers=1)
    table = open_features(tmp_path / "out")
    assert table.ids == addresses[:2]
    np.testing.assert_allclose(table.numpy(), features[[0, 3]], atol=1e-5)
    assert [failure.reason for failure in table.errors] == [
        "there is no such file",
        "it cannot be read (the server answers 403)",
    ]
    assert (report.extracted, report.failed) == (2, 2)
    (photos / "list.txt").write_text("b/a.png\n")
    try:
        np.testing.assert_allclose(extract(f"{server}/list.txt", tmp_path / "list").numpy(), features[[1]], atol=1e-5)
    finally:
        (photos / "list.txt").unlink()
    with pytest.raises(InputError, match="run the same again to go on"):
        extract([f"{server}/status/500.png"], tmp_path / "fails")
    for name in ("gone.txt", "gone.parquet", "status/500.parquet", "status/500.tar", "status/403.csv"):
        with pytest.raises(InputError, match=f"{name}.*cannot be read"):
            extract(f"{server}/{name}", tmp_path / "no list")


@pytest.mark.parametrize("name", ["a.png", "list.csv", "shard.tar", "table.parquet", "folder/"])
def test_a_server_that_does_not_answer(name, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("autobackbone.extraction.images._TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(InputError, match=r"127\.0\.0\.1"):
            extract(f"http://127.0.0.1:{silent.getsockname()[1]}/{name}", tmp_path / "out")
        assert time.monotonic() - start < 60  # of a busy machine; without a limit, it would be minutes


# --- what names no images ---


class Streaming(torch.utils.data.IterableDataset):
    def __iter__(self):
        raise AssertionError

    def __len__(self):
        return 3


WRONG = {
    "no folder": ("there/is/none", {}, "There is no file or folder 'there/is/none'; check the path"),
    "no match": ("there/*.jpg", {}, "No file matches"),
    "no shard": ("there/{00..02}.tar", {}, "00.tar"),
    "empty folder": ("empty", {}, "There are no images in"),
    "folder of other files": ("others", {}, "There are no images in"),
    "empty list": ([], {}, "There are no images in"),
    "empty text": ("others/empty.txt", {}, "There are no images in"),
    "empty CSV": ("others/empty.csv", {}, "is empty; its first line must name the columns"),
    "header only": ("others/header.csv", {"column": "file"}, "There are no images in"),
    "no column": ("others/header.csv", {"column": "fil"}, "has no column 'fil'; did you mean 'file'"),
    "no column said": ("others/header.csv", {}, "Which column of"),
    "a huge field": ("others/huge.csv", {}, "cannot be read as a table"),
    "column of a folder": ("others", {"column": "file"}, "is no table; leave it out"),
    "column of a list": (["a.jpg"], {"column": "file"}, "a list has no columns"),
    "column is a number": ("others/header.csv", {"column": 3}, "column must be the name of a column, or None, got 3"),
    "no Parquet": ("others/no.parquet", {}, "cannot be read as Parquet"),
    "no Parquet column": ("others/numbers.parquet", {"column": "y"}, "has no column 'y'"),
    "Parquet of numbers": ("others/numbers.parquet", {}, "int64; it must hold paths or encoded images"),
    "no tar": ("others/no.tar", {}, "cannot be read as an uncompressed tar file"),
    "compressed tar": ("others/packed.tar.gz", {}, "unpack or convert it"),
    "JSON": ("others/list.json", {}, "unpack or convert it"),
    "no protocol": ("nonsense://x", {}, "cannot be listed"),
    "nothing in memory": ("memory://nothing/here", {}, "There is nothing at"),
    "None": (None, {}, "images must be a folder.*got None"),
    "5": (5, {}, "images must be a folder.*got 5"),
    "bytes": (b"photos", {}, "images must be a folder"),
    "mapping": ({"a": "b.jpg"}, {}, "images must be a folder"),
    "generator": ((path for path in ["a.jpg"]), {}, "give a list of its items"),
    "stream": (Streaming(), {}, "a data set with a length"),
    "mappings, no column said": (Items([{"a": 1, "b": 2}]), {}, "Which column of 'the data set' holds the images"),
    "mappings, no such column": (Items([{"image": 1, "b": 2}]), {"column": "imag"}, "did you mean 'image'"),
    "images with a column": (Items([(1, 2)]), {"column": "image"}, "items of the data set are tuples without names"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_names_no_images(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, kwargs, message = WRONG[case]
    Path("empty").mkdir()
    others = Path("others")
    others.mkdir()
    for name in ("empty.txt", "empty.csv", "no.parquet", "no.tar", "packed.tar.gz", "list.json"):
        (others / name).write_text("\n" if name == "empty.txt" else "" if "empty" in name else "x" * 2000)
    (others / "header.csv").write_text("file,label\n")
    (others / "huge.csv").write_text(f"file\n{'x' * 200_000}\n")
    pq.write_table(pa.table({"x": [1, 2]}), others / "numbers.parquet")
    with pytest.raises(BackboneError, match=message):
        extract_features(pooled(), images, "out", **kwargs)
    assert not Path("out").exists()
