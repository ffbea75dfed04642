"""Images, a backbone, and clusters on this machine."""

import os
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from autobackbone import create_backbone

COUNT = 30
os.environ.update(RAY_worker_niceness="0")  # else workers starve on a machine that is busy with other work


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    """Parts of 4 images: several for each worker."""
    monkeypatch.setattr("autobackbone.extraction.run._MAX_ROWS", 4)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of 30 images and of a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for i in range(COUNT):
        pixels = random.integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.{'png' if i % 2 else 'jpg'}")
    (folder / "15b.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return create_backbone("test_resnet", pretrained=False)


@pytest.fixture(scope="session")
def start_ray():
    """Start Ray in this process for a while, with some CPUs."""
    import ray

    @contextmanager
    def start(cpus, gpus=0):
        ray.init("local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()

    return start


@pytest.fixture
def same_table(tmp_path):
    """Compare a table with that of the local engine, row by row and bit by bit."""
    from autobackbone import extract_features, open_features

    def compare(output, backbone, images, **options):
        extract_features(backbone, images, tmp_path / "local", **options)
        expected, table = open_features(tmp_path / "local"), open_features(output)
        assert table.ids == expected.ids
        assert len(set(table.ids)) == len(table)
        assert table.errors == expected.errors
        about = ["id", "path", "width", "height", "content_hash"]
        assert table.arrow(about) == expected.arrow(about)
        assert table.arrow().schema == expected.arrow().schema
        assert sum(len(part.ids) for part in table._output.read_parts()) == len(table)  # none is written twice
        for column in table.columns:
            np.testing.assert_allclose(table.numpy(column), expected.numpy(column), rtol=1e-5, atol=1e-6)

    return compare
