"""Folders of tables: what they refuse, one run at a time, full disks, damage, remote ones, and reading them."""

import copy
import errno
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.local import LocalFileOpener
from hypothesis import given, settings
from hypothesis import strategies as st
from some_images import expected, leveled, pooled, write_pictures
from test_kill import Parent

from autobackbone import ConfigError, InputError, OutputError, UnsupportedError, extract_features, open_features
from autobackbone.extraction import sole_run
from autobackbone.extraction.columns import Column
from autobackbone.extraction.output import Output
from autobackbone.extraction.parts import Layout
from autobackbone.extraction.preparation import _identity
from autobackbone.extraction.recipe import Recipe


@pytest.fixture(scope="module")
def parent():
    started = Parent()
    yield started
    started.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder, 7)
    return folder


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr("autobackbone.extraction.run._MAX_ROWS", 3)


def extract(images, output, backbone=None, **kwargs):
    kwargs = {"workers": 1, "batch_size": 2, "show_progress": False} | kwargs
    return extract_features(pooled() if backbone is None else backbone, images, output, **kwargs)


@pytest.fixture
def made(photos, tmp_path):
    extract(photos, tmp_path / "made")
    return tmp_path / "made"


# --- one run at a time ---


def wait_for(path):
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.01)
    pytest.fail("the other process did not come so far")


def test_another_process_is_refused_until_the_first_is_killed(parent, photos, tmp_path):
    hold = tmp_path / "hold"
    parent.send(photos, tmp_path / "out", hold=str(hold), kill_when=str(tmp_path / "kill"))
    wait_for(hold)
    partial = tmp_path / "out" / "features" / ".partial-of-the-first"
    partial.touch()
    with pytest.raises(OutputError, match=r"Another run is at work in .*wait until it has ended, or name another"):
        extract(photos, tmp_path / "out", image_size=32)
    assert partial.exists(), "the refused run touched the files of the other"
    (tmp_path / "kill").touch()
    assert parent.answer()["status"] == -9
    assert extract(photos, tmp_path / "out", image_size=32).extracted == 7
    assert not partial.exists()


def test_another_thread_is_refused(photos, tmp_path):
    going, go_on = threading.Event(), threading.Event()

    def transform(_):
        going.set()
        go_on.wait()
        return torch.zeros(3, 32, 32)

    def run():
        reports.append(extract(photos, tmp_path / "out", transform=transform))

    reports = []
    thread = threading.Thread(target=run)
    thread.start()
    going.wait()
    try:
        with pytest.raises(OutputError, match="Another run is at work"):
            extract(photos, tmp_path / "out", transform=transform)
    finally:
        go_on.set()
        thread.join()
    assert reports[0].extracted == 7
    assert extract(photos, tmp_path / "out", transform=transform).skipped == 7


def ranks(port, rank, world=2):
    return {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def test_ranks_of_a_job_work_together_and_others_are_refused(parent, tmp_path, monkeypatch):
    images = tmp_path / "images"
    write_pictures(images, 14)
    for i in (1, 4, 13):
        (images / f"{i:03d}-bad.jpg").write_bytes(b"bad")
    hold = tmp_path / "hold"
    parent.send(images, tmp_path / "out", hold=str(hold), env=ranks(1234, 0))
    wait_for(hold)
    for name, value in ranks(99, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OutputError, match="Another run is at work"):
        extract(images, tmp_path / "out", image_size=32)
    partial = tmp_path / "out" / "features" / ".partial-of-rank-0"
    partial.touch()
    monkeypatch.setenv("MASTER_PORT", "1234")
    second = extract(images, tmp_path / "out", image_size=32)
    assert partial.exists()
    hold.unlink()
    answer = parent.answer()
    assert answer["status"] == 0, answer
    for name in ranks(0, 0):
        monkeypatch.delenv(name)
    assert second.listed == 8  # its share
    extract(images, tmp_path / "alone", image_size=32)
    table, alone = open_features(tmp_path / "out"), open_features(tmp_path / "alone")
    assert table.ids == alone.ids
    assert [failure.id for failure in table.errors] == [failure.id for failure in alone.errors]
    assert len(pq.read_table(tmp_path / "out" / "errors.parquet")) == 3
    np.testing.assert_allclose(table.numpy(), alone.numpy(), atol=1e-5)


# --- what is refused ---


def test_folders_that_hold_something_else(photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file; name a folder"):
        extract(photos, tmp_path / "file")
    with pytest.raises(OutputError, match=r"holds something else, such as '00\d\..*'; name a new folder"):
        extract(photos, photos)
    (tmp_path / "below" / "features").mkdir(parents=True)
    (tmp_path / "below" / "features" / "x.parquet").write_bytes((photos / "000.jpg").read_bytes())
    with pytest.raises(OutputError, match=r"x.parquet' is damaged"):
        extract(photos, tmp_path / "below")
    pq.write_table(pq.read_table(_empty(tmp_path)), tmp_path / "below" / "features" / "x.parquet")
    with pytest.raises(OutputError, match="no part of a table of features; name another folder"):
        extract(photos, tmp_path / "below")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".DS_Store").touch()
    assert extract(photos, tmp_path / "hidden").extracted == 7


def _empty(folder):
    pq.write_table(pa.table({"id": ["a"]}), folder / "plain.parquet")
    return folder / "plain.parquet"


@pytest.mark.parametrize("output", [None, 3, "", "a\0b", b"x"])
def test_outputs_that_are_no_paths(output, photos):
    with pytest.raises(ConfigError, match="output must be a path"):
        extract(photos, output)
    with pytest.raises(ConfigError, match="output must be a path"):
        open_features(output)


def test_outputs_out_of_reach(photos):
    with pytest.raises(OutputError, match="no address that can be opened"):
        extract(photos, "nonsense://x")
    with pytest.raises(OutputError, match=r"/proc.* cannot be (written|used)"):
        extract(photos, "/proc/none/out")


@pytest.mark.parametrize(
    ("kwargs", "difference"),
    [
        ({"dtype": "float16"}, r"dtype \"float32\" instead of \"float16\""),
        ({"image_size": 64}, "transform .*160.* instead of .*64"),
        ({"resize": "stretch"}, "transform"),
        ({"scaled_decoding": False}, "transform"),
        ({"transform": len}, "transform"),
        ({"backbone": leveled}, "kind"),
        ({"backbone": lambda: pooled("test_vit")}, "columns|model_name|config"),
        ({"backbone": lambda: pooled(drop_path_rate=0.1)}, "drop_path_rate=0.0 instead of 0.1"),
        ({"backbone": lambda: other_weights(pooled())}, "other weights"),
        ({"backbone": lambda: copy.deepcopy(pooled()).bfloat16()}, "compute_dtype"),
    ],
)
def test_other_features_are_refused(kwargs, difference, photos, made):
    if "backbone" in kwargs:
        kwargs = {"backbone": kwargs["backbone"]()}
    with pytest.raises(OutputError, match=f"The features in .* are others: .*({difference}).*Name another folder"):
        extract(photos, made, **kwargs)
    assert extract(photos, made).skipped == 7


def other_weights(backbone):
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1
    return other


@pytest.mark.parametrize("keep", [None, {"c4": ("mean", "grid2")}, {"c5": "map", "c3": ["max"]}])
def test_feature_backbones_go_on(keep, photos, tmp_path):
    extract(photos, tmp_path / "out", leveled(), keep=keep)
    assert extract(photos, tmp_path / "out", leveled(), keep=keep).skipped == 7
    with pytest.raises(OutputError, match="columns"):
        extract(photos, tmp_path / "out", leveled(), keep={"c5": "gem"})


# --- what can go wrong ---


@settings(max_examples=15)
@given(st.integers(1, 60), st.sampled_from([errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS]))
def test_writing_fails_at_some_call(photos, tmp_path_factory, number, code):
    output = tmp_path_factory.mktemp("full") / "out"
    write, calls = LocalFileOpener.write, iter(range(1, 10**6))

    def failing(opener, data):
        if next(calls) >= number:
            raise OSError(code, os.strerror(code))
        return write(opener, data)

    message = {
        errno.ENOSPC: "The disk of .* is full; free space, and run the same again: finished parts are kept",
        errno.EDQUOT: "The disk of .* is full",
        errno.EIO: "cannot be used .*Input/output error",
        errno.EROFS: r"cannot be written \(Read-only file system\); allow it, or name another folder",
    }[code]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autobackbone.extraction.run._MAX_ROWS", 3)
        patch.setattr(LocalFileOpener, "write", failing)
        with pytest.raises(OutputError, match=message):
            extract(photos, output)
        patch.undo()
        patch.setattr("autobackbone.extraction.run._MAX_ROWS", 3)
        assert extract(photos, output).listed == 7
    assert open_features(output).ids == sorted(path.name for path in photos.iterdir())
    assert not list(output.glob("**/.partial*"))


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = shutil.which("mount")
    if (
        command is None
        or subprocess.run(
            [command, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)  # noqa: S607


def test_a_disk_that_is_full(tiny_disk, photos):
    (tiny_disk / "filler").write_bytes(bytes(36 << 10))
    with pytest.raises(OutputError, match=r"The disk of .* is full; free space, and run the same again"):
        extract(photos, tiny_disk / "out", keep={"c5": ("mean", "grid8")}, backbone=leveled())
    (tiny_disk / "filler").unlink()
    assert extract(photos, tiny_disk / "out", keep={"c5": "mean"}, backbone=leveled()).listed == 7


@pytest.mark.parametrize("method", ["makedirs", "ls", "exists"])
def test_a_folder_that_cannot_be_used(method, made, photos, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, method, refuse)
    with pytest.raises(OutputError, match=r"cannot be written \(Permission denied\); allow it"):
        extract(photos, made)


@settings(max_examples=20)
@given(st.data())
def test_damaged_parts_are_told(photos, tmp_path_factory, data):
    output = tmp_path_factory.mktemp("damaged") / "out"
    extract(photos, output)
    undamaged = open_features(output)
    ids, features = undamaged.ids, np.array(undamaged.numpy())
    part = sorted((output / "features").iterdir())[1]
    content = part.read_bytes()
    if data.draw(st.booleans()):
        part.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    else:
        pages = len(content) - 8 - int.from_bytes(content[-8:-4], "little")  # Parquet's footer has no checksum
        at = data.draw(st.integers(0, pages - 1))
        part.write_bytes(content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :])
    try:
        table = open_features(output)
        rows = table.arrow().num_rows
        table.numpy()
        table.row(ids[3])
        assert rows == 7
        assert table.ids == ids
        np.testing.assert_array_equal(table.numpy(), features)
    except OutputError as err:
        assert part.name in str(err)
        assert "is damaged" in str(err)
        part.unlink()
        assert extract(photos, output).extracted == 3
    else:
        return
    table = open_features(output)
    assert table.ids == ids
    np.testing.assert_allclose(table.numpy(), features, atol=1e-5)


def made_of(size, mean):
    def transform(_):
        return torch.full((3, size, size), mean)

    return transform


class Filling:
    def __init__(self, mean):
        self.mean = mean

    def __call__(self, _):
        return torch.full((3, 32, 32), self.mean)

    def method(self, _):
        return self(_)


SOURCE = """
import torch
def transform(image):
    means = [mean for mean in [0.5] if image.mode in {"L", "RGB", "RGBA", "CMYK"}]
    return torch.full((3, 32, 32), means[0])
"""


def test_a_transform_is_known_in_other_processes():
    script = (
        "from autobackbone.extraction.preparation import _identity; import sys; space = {'__name__': 'a'};"
        "exec(compile(sys.argv[1], sys.argv[2], 'exec'), space); print(_identity(space['transform']))"
    )
    told = set()
    for seed in range(3):
        source = "\n" * seed + SOURCE
        command = [sys.executable, "-c", script, source, f"script{seed}.py"]
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        told.add(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Filling(0.5).method, Filling(0.25).method),
    ],
)
def test_another_transform_is_refused(one, other, photos, tmp_path):
    extract(photos, tmp_path / "out", transform=one)
    assert extract(photos, tmp_path / "out", transform=copy.deepcopy(one)).skipped == 7
    with pytest.raises(OutputError, match=r"transform .* instead of"):
        extract(photos, tmp_path / "out", transform=other)


def test_where_a_transform_stands_does_not_count():
    source = "def transform(image):\n    return [side for side in image.size if image.mode in {'L', 'RGB'}]\n"
    names = [{}, {}]
    exec(compile(source, "one.py", "exec"), names[0])  # noqa: S102
    exec(compile(f"\n{source}", "other.py", "exec"), names[1])  # noqa: S102
    one, other = (each["transform"] for each in names)
    assert _identity(one) == _identity(other)


def test_the_order_of_a_set_in_a_transform_does_not_count():
    def one(image):
        return image.width in {0, 8}

    def other(image):
        return image.width in {0, 8}

    other.__qualname__ = one.__qualname__
    consts = one.__code__.co_consts
    ordered, reordered = (
        tuple(frozenset(numbers) if isinstance(value, frozenset) else value for value in consts)
        for numbers in ([0, 8], [8, 0])
    )
    assert repr(ordered) != repr(reordered)
    one.__code__ = one.__code__.replace(co_consts=ordered)
    other.__code__ = one.__code__.replace(co_consts=reordered)
    assert _identity(one) == _identity(other)


def test_rows_one_after_the_other_read_each_part_once(made, monkeypatch):
    table, calls = open_features(made), []
    expected, read = table.torch(), Output.read_part
    monkeypatch.setattr(Output, "read_part", lambda *args: calls.append(args) or read(*args))
    for image_id, features in zip(table.ids, expected, strict=True):
        assert torch.equal(table.row(image_id)["pooled"], features)
    assert len(calls) == 3


@pytest.mark.parametrize("size", [(32, 32), None])
def test_a_layout_in_another_process_is_the_same(size):
    columns = (Column("pooled", 8), Column("c3_map", 4, "c3", 0, 8, "map"))
    layout = Layout(columns, size, torch.float16, Recipe({"columns": []}))
    assert pickle.loads(pickle.dumps(layout)).schema.equals(layout.schema, check_metadata=True)  # noqa: S301


# --- remote folders ---


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/", recursive=True)


def test_a_table_in_memory(memory, photos, made, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("autobackbone.extraction.sole_run._PATIENCE", 0.2)
    monkeypatch.setattr("autobackbone.extraction.sole_run._BEAT", 0.02)
    assert extract(photos, "memory://table").extracted == 7
    assert extract(photos, "memory://table").skipped == 7
    table = open_features("memory://table")
    assert table.ids == open_features(made).ids
    np.testing.assert_allclose(table.numpy(), open_features(made).numpy(), atol=1e-5)
    assert table.row(table.ids[2])["id"] == table.ids[2]
    assert sorted(memory.ls("/table", detail=False)) == ["/table/features"]
    memory.pipe_file("/table/.run-dead-0", b"5")
    memory.pipe_file("/table/features/.partial-x", b"5")
    assert extract(photos, "memory://table").skipped == 7
    assert sorted(memory.ls("/table", detail=False)) == ["/table/features"]
    assert len(memory.ls("/table/features")) == 3
    before = np.array(table.numpy())
    memory.rm("/table", recursive=True)
    extract(photos, "memory://table", image_size=64)
    other = open_features("memory://table").numpy()
    assert not np.allclose(other, before), "an array of a table that is gone was read"


def test_a_run_in_memory_shows_that_it_lives(memory, photos, monkeypatch):
    monkeypatch.setattr("autobackbone.extraction.sole_run._PATIENCE", 2.0)
    monkeypatch.setattr("autobackbone.extraction.sole_run._BEAT", 0.01)
    refused = threading.Event()

    def transform(_):
        if not refused.is_set():
            refused.set()
            with pytest.raises(OutputError, match="Another run is at work"):
                extract(photos, "memory://table", transform=transform)
        return torch.zeros(3, 32, 32)

    assert extract(photos, "memory://table", transform=transform).extracted == 7
    assert refused.is_set()
    assert sorted(memory.ls("/table", detail=False)) == ["/table/features"]


def test_of_two_runs_in_memory_that_start_together_none_goes_on_unseen(memory, photos, monkeypatch):
    listed = sole_run._runs
    calls = []

    def another_starts(output):
        found = listed(output)
        if not calls:
            calls.append(1)
            memory.pipe_file("/table/.run-other-0", b"0")
        return found

    monkeypatch.setattr(sole_run, "_runs", another_starts)
    with pytest.raises(OutputError, match="Another run is at work"):
        extract(photos, "memory://table")
    assert sorted(memory.ls("/table", detail=False)) == ["/table/.run-other-0", "/table/features"]


# --- reading ---


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("given_as", ["text", "torch"])
def test_dtypes(dtype, given_as, photos, tmp_path):
    kind = getattr(torch, dtype)
    extract(photos, tmp_path / "out", dtype=kind if given_as == "torch" else dtype, scaled_decoding=False)
    table = open_features(tmp_path / "out")
    wanted = expected(pooled(), sorted(photos.iterdir()))
    assert table.torch().dtype == kind
    torch.testing.assert_close(table.torch(), wanted.to(kind), atol=1e-5, rtol=torch.finfo(kind).eps)
    assert table.numpy().dtype == (np.float16 if dtype == "float16" else np.float32)
    np.testing.assert_array_equal(table.numpy(), table.torch().float().numpy())
    row = table.row(table.ids[4])
    assert torch.equal(row["pooled"], table.torch()[4])
    assert torch.equal(table.dataset()[4]["pooled"], row["pooled"])
    arrow = np.array(table.arrow(["pooled"])["pooled"].to_pylist())
    bits = table.torch().view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else table.numpy()
    np.testing.assert_array_equal(arrow, bits)


def test_what_is_too_large_for_float16_is_an_error(photos, tmp_path):
    def transform(image):
        return torch.full((3, 32, 32), 1e9 if image.width == 31 else 0.5)

    report = extract(photos, tmp_path / "out", transform=transform, dtype="float16")
    table = open_features(tmp_path / "out")
    assert report.failed == 2
    assert {failure.reason for failure in table.errors} == {"its feature 'pooled' is not finite in float16"}
    assert np.isfinite(table.numpy()).all()


def test_maps_of_different_sizes(photos, tmp_path):
    keep = {"c4": "map", "c5": ["mean", "map"]}
    extract(photos, tmp_path / "out", leveled(), keep=keep, resize="none", dtype="bfloat16")
    table = open_features(tmp_path / "out")
    assert len(table) == 7
    assert table.columns == ("c4_map", "c5_mean", "c5_map")
    assert table.shape("c4_map") is None
    with pytest.raises(UnsupportedError, match="have different sizes, so they are no array; read them with row"):
        table.numpy("c4_map")
    for key in table.ids:
        row = table.row(key)
        assert row["c4_map"].shape == (192, -(-row["height"] // 16), -(-row["width"] // 16))
        torch.testing.assert_close(row["c5_map"].float().mean((1, 2)), row["c5_mean"].float(), atol=1e-3, rtol=2e-2)
    assert table.numpy("c5_mean").shape == (7, 96)


def test_reading(made):
    table = open_features(made)
    assert repr(table).endswith("7 images, pooled (96,), test_resnet, RANDOM or own weights)")
    arrow = table.arrow()
    assert arrow["id"].to_pylist() == table.ids
    features = np.array(arrow["pooled"].to_pylist(), np.float32)
    np.testing.assert_array_equal(table.numpy(), features)
    array = table.numpy()
    array[0] = 5  # private
    np.testing.assert_array_equal(open_features(made).numpy(), features)
    for i, key in enumerate(table.ids):
        row = table.row(key)
        assert row["content_hash"] == arrow["content_hash"][i].as_py()
        np.testing.assert_array_equal(row["pooled"], features[i])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similar = unit @ unit[2]
    nearest = table.nearest(table.ids[2], k=100)
    assert [key for key, _ in nearest] == [table.ids[i] for i in np.argsort(-similar) if i != 2]
    np.testing.assert_allclose([s for _, s in nearest], np.sort(np.delete(similar, 2))[::-1], atol=1e-5)
    assert table.nearest(features[2], k=1)[0][0] == table.ids[2]
    for k in (0, -1, 2.5, None, True):
        with pytest.raises(ConfigError, match="k must be a positive integer"):
            table.nearest(features[2], k=k)
    with pytest.raises(ConfigError, match="The query has the shape"):
        table.nearest([1.0, 2.0])
    with pytest.raises(InputError, match=r"did you mean '000\.jpg'"):
        table.row("000.jpeg")
    with pytest.raises(ConfigError, match="no column 'pool'; did you mean 'pooled'"):
        table.arrow(["id", "pool"])
    for read in (table.numpy, table.torch, table.dataset, table.shape):
        with pytest.raises(ConfigError, match="no features 'c5_mean'"):
            read("c5_mean")


@pytest.mark.parametrize(
    "query",
    [
        None,
        b"x",
        {},
        Path("000.jpg"),
        ["a"] * 96,
        np.array(["a"] * 96),
        torch.ones(96, dtype=torch.complex64),
        torch.ones(96, device="meta"),
    ],
)
def test_queries_that_are_no_features(query, made):
    with pytest.raises(ConfigError, match="The query must be the id of a row or a feature of real numbers"):
        open_features(made).nearest(query)


def test_queries(made):
    table = open_features(made)
    feature = table.torch()[2].clone()
    for query in (feature.double().requires_grad_(), feature.tolist(), feature.numpy()[::-1].copy()[::-1]):
        assert table.nearest(query, k=1)[0][0] == table.ids[2]
    for value in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="numbers that are not finite"):
            table.nearest(torch.full((96,), value))
    nearest = table.nearest(table.ids[2])
    with torch.device("meta"):  # as with set_default_device
        assert table.nearest(table.ids[2]) == nearest


def test_columns_of_any_iterable(made):
    table = open_features(made)
    assert table.arrow(iter(["id", "width"])).column_names == ["id", "width"]
    with pytest.raises(ConfigError, match="columns must be a list of names, or None, got 5"):
        table.arrow(5)


@pytest.mark.parametrize("content", [b"", b"something else"])
def test_a_damaged_array_is_written_again(content, made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    features = np.array(open_features(tmp_path / "copy").numpy())
    for file in (tmp_path / "copy" / ".cache").glob("*.npy"):
        file.write_bytes(content)
    np.testing.assert_array_equal(open_features(tmp_path / "copy").numpy(), features)


def test_a_part_damaged_after_opening_is_told(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy", ignore=shutil.ignore_patterns(".cache"))
    table = open_features(tmp_path / "copy")
    for file in (tmp_path / "copy" / "features").glob("*.parquet"):
        file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(OutputError, match=r"\.parquet' is damaged") as told:
        table.numpy()
    assert "cannot be written" not in str(told.value)


def test_a_table_of_errors_only(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    extract(tmp_path / "a.jpg", tmp_path / "out")
    table = open_features(tmp_path / "out")
    assert len(table) == 0
    assert table.numpy().shape == (0, 96)
    assert table.torch().shape == (0, 96)
    assert table.arrow().num_rows == 0
    assert table.nearest(torch.ones(96)) == []
    assert len(table.dataset()) == 0


def test_no_table(tmp_path):
    with pytest.raises(InputError, match=r"There is no table of features in .*; extract_features\(\) makes one"):
        open_features(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises((InputError, OutputError), match="file"):
        open_features(tmp_path / "file")


def test_a_read_only_table_is_mapped_from_elsewhere(made, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, _: not str(path).startswith(str(made)))
    first, second = open_features(made).numpy(), open_features(made).numpy()
    np.testing.assert_array_equal(first, second)
    assert not list((made / ".cache").iterdir())
    assert len(list(Path(tmp_path).glob("autobackbone-features-*/*.npy"))) == 1
