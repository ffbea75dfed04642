"""A run can be killed at any moment, and the same call goes on: the table is that of a run that was not disturbed."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import killed
import numpy as np
import pyarrow.parquet as pq
import pytest
from some_images import write_pictures

from autobackbone import open_features

ROUNDS = int(os.environ.get("AUTOBACKBONE_KILL_ROUNDS", "2"))
WARNINGS = "error,ignore:This process:DeprecationWarning"  # Python's, of processes that fork beside threads
EVERY = 1 if ROUNDS >= 100 else 17  # of the file operations at which a run is killed


class Parent:
    """The process of ``killed.py``."""

    def __init__(self):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": WARNINGS}
        self.process = subprocess.Popen(
            [sys.executable, killed.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout.readline() == "ready\n"

    def send(self, folder, output, **request):
        request |= {"folder": str(folder), "output": str(output)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def answer(self):
        return json.loads(self.process.stdout.readline())

    def extract(self, folder, output, **request):
        self.send(folder, output, **request)
        return self.answer()

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        self.process.stdout.close()


@pytest.fixture(scope="module")
def parent():
    started = Parent()
    yield started
    started.close()


def content(output):
    """Everything in a table but its features, and the features."""
    table = open_features(output)
    rows = table.arrow(["id", "path", "width", "height", "content_hash"]).to_pylist()
    errors = Path(output) / "errors.parquet"
    written = pq.read_table(errors).to_pylist() if errors.exists() else []
    assert written == [failure._asdict() for failure in table.errors]
    return rows, written, np.array(table.numpy("pooled"))


def assert_same(output, undisturbed, *, ordered=True):
    rows, errors, features = content(output)
    expected_rows, expected_errors, expected_features = content(undisturbed)
    if not ordered:
        order = sorted(range(len(rows)), key=lambda i: rows[i]["id"])
        expected_order = sorted(range(len(expected_rows)), key=lambda i: expected_rows[i]["id"])
        rows, features = [rows[i] for i in order], features[order]
        expected_rows, expected_features = [expected_rows[i] for i in expected_order], expected_features[expected_order]
    assert rows == expected_rows
    assert errors == expected_errors
    np.testing.assert_allclose(features, expected_features, atol=1e-5, rtol=1e-5)
    names = {path.name for path in Path(output).rglob("*") if path.name.startswith((".partial", ".run"))}
    assert not names, "nothing is left of killed runs"


def spoil(folder, *numbers):
    for i in numbers:
        (folder / f"{i:03d}-bad.jpg").write_bytes(b"\xff\xd8\xff" + bytes(i))


def ends(parent, folder, output, rng, seconds, **request):
    """Kill runs at random moments until one ends by itself."""
    for _ in range(rng.randint(1, 4)):
        if parent.extract(folder, output, after=rng.random() * seconds, **request)["status"] == 0:
            break
    answer = parent.extract(folder, output, **request)
    assert answer["status"] == 0, answer


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, 20)
    spoil(folder, 3, 4, 5, 11)
    return folder


@pytest.fixture(scope="module")
def undisturbed(parent, pictures, tmp_path_factory):
    output = tmp_path_factory.mktemp("table")
    first = parent.extract(pictures, output)
    assert first["status"] == 0, first
    shutil.rmtree(output)
    second = parent.extract(pictures, output)  # the first one loads libraries
    assert second["status"] == 0, second
    return output, second["seconds"]


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_killed_at_random_moments(parent, pictures, undisturbed, tmp_path, seed):
    output, seconds = undisturbed
    ends(parent, pictures, tmp_path / "out", random.Random(seed), seconds)  # noqa: S311
    assert_same(tmp_path / "out", output)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_killed_while_images_are_added_and_mended(parent, undisturbed, tmp_path, seed):
    """Between kills, images come, bad ones too, and bad ones are mended and tried again."""
    rng = random.Random(seed)  # noqa: S311
    folder, seconds = tmp_path / "pictures", undisturbed[1] / 2
    write_pictures(folder, 7)
    spoil(folder, 2, 8)
    ends(parent, folder, tmp_path / "out", rng, seconds)
    write_pictures(folder, rng.randint(1, 6), first=20)
    spoil(folder, *rng.sample(range(20, 26), 2))
    ends(parent, folder, tmp_path / "out", rng, seconds)
    shutil.copy(folder / "001.png", folder / "002-bad.jpg")
    ends(parent, folder, tmp_path / "out", rng, seconds, kwargs={"retry_errors": True})
    assert parent.extract(folder, tmp_path / "at once")["status"] == 0
    assert_same(tmp_path / "out", tmp_path / "at once", ordered=False)


@pytest.mark.parametrize("late", [False, True])
def test_killed_at_a_file_operation(parent, tmp_path, late):
    folder = tmp_path / "pictures"
    write_pictures(folder, 3)
    spoil(folder, 1)
    whole = parent.extract(folder, tmp_path / "whole")
    assert whole["status"] == 0, whole
    assert whole["operations"] > 20
    for n in range(1 + 5 * late, whole["operations"] + 1, EVERY):
        output = tmp_path / f"out-{n}"
        answer = parent.extract(folder, output, at=n, late=late)
        assert answer["status"] == -9 or n > whole["operations"] - 5, (n, answer)  # counts differ a little
        again = parent.extract(folder, output)
        assert again["status"] == 0, (n, again)
        assert_same(output, tmp_path / "whole")
