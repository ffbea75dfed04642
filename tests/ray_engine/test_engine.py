"""Extraction on a Ray cluster with 4 CPUs: the same table as on this machine, whatever happens to workers."""

import os
import re
import signal
import threading
import traceback

import pytest
import torch
from PIL import Image

from autobackbone import (
    ConfigError,
    InputError,
    OutputError,
    UnsupportedError,
    create_feature_backbone,
    extract_features,
    open_features,
)

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def _cluster(start_ray):
    with start_ray(4):
        yield


@pytest.fixture(params=["maps", "pooled"])
def any_backbone(request, backbone):
    return backbone if request.param == "pooled" else create_feature_backbone("test_resnet", pretrained=False)


def test_the_table_is_that_of_the_local_engine(any_backbone, photos, tmp_path, same_table, monkeypatch):
    monkeypatch.chdir(photos.parent)  # relative paths, too
    output = os.path.relpath(tmp_path / "table")
    report = extract_features(any_backbone, photos.name, output, engine="ray", show_progress=True)
    assert (report.listed, report.extracted, report.failed) == (31, 30, 1)
    same_table(output, any_backbone, photos.name)
    assert [failure.id for failure in open_features(output).errors] == ["15b.png"]
    assert not list((tmp_path / "table").rglob(".partial-*"))
    assert extract_features(any_backbone, photos.name, output, engine="ray").skipped == 31
    context = ray.data.DataContext.get_current()
    assert context.print_on_execution_start  # as it was before


def test_images_in_memory(backbone, photos, tmp_path, same_table):
    images = [Image.open(photos / f"{i:02}.jpg") for i in range(0, 10, 2)]
    bfloat16 = backbone.bfloat16()
    extract_features(bfloat16, images, tmp_path / "table", engine="ray", dtype="bfloat16")
    same_table(tmp_path / "table", bfloat16, images, dtype="bfloat16")


def test_a_worker_that_is_killed(backbone, photos, tmp_path, same_table):
    transform = _transform(tmp_path / "killed")
    report = extract_features(backbone, photos, tmp_path / "table", engine="ray", transform=transform)
    assert (tmp_path / "killed").exists()
    assert (report.extracted, report.failed) == (30, 1)
    same_table(tmp_path / "table", backbone, photos, transform=_transform(None))


def test_an_image_that_kills_every_worker(backbone, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("autobackbone.integrations.ray._TRIES", 2)
    with pytest.raises(UnsupportedError, match=r"Worker after worker died with one of the 4 images from '.*' on"):
        extract_features(
            backbone, photos, tmp_path / "table", engine="ray", transform=_transform(tmp_path / "no" / "x")
        )


def _transform(marker):
    """Return a transform that kills its process once, when it is at an image that is 48 pixels high."""

    def transform(image):
        import numpy as np  # in here: the function goes to workers that do not have this file

        kill = marker is not None
        if kill and marker.parent.exists():
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                kill = False
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255

    return transform


def test_a_strict_run_stops_with_the_error_of_this_package(backbone, photos, tmp_path):
    with pytest.raises(InputError, match=r"15b\.png': .* leave strict out to go on") as caught:
        extract_features(backbone, photos, tmp_path / "table", engine="ray", strict=True)
    assert type(caught.value) is InputError
    assert "ray.exceptions" not in "".join(traceback.format_exception(caught.value))
    report = extract_features(backbone, photos, tmp_path / "table", engine="ray")
    assert report.skipped + report.extracted == 30


def test_a_disk_that_is_full(backbone, photos, tmp_path):
    def transform(_):
        def fail(_):
            raise OSError(28, "No space left on device")

        os.fsync = fail
        return torch.zeros(3, 64, 64)

    with pytest.raises(OutputError, match=r"The disk of .*table' is full; free space"):
        extract_features(backbone, photos, tmp_path / "table", engine="ray", transform=transform)


def test_images_that_are_out_of_reach(backbone, tmp_path):
    class Images:
        def __len__(self):
            return 8

        def __getitem__(self, i):
            message = "The store is out of reach."
            raise InputError(message)

    with pytest.raises(InputError, match=r"^The store is out of reach\.$"):
        extract_features(backbone, Images(), tmp_path / "table", engine="ray")


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (torch.OutOfMemoryError, ConfigError, r"too little memory for one image at once \(no more\)"),
        (RuntimeError, RuntimeError, "^no more\nIn a worker on "),
    ],
)
def test_a_backbone_that_fails(backbone, photos, tmp_path, error, expected, message):
    here, words = os.getpid(), "no more"

    def fail(*_):
        if os.getpid() != here:
            raise error(words)

    backbone.register_forward_pre_hook(fail)
    with pytest.raises(expected, match=message) as caught:
        extract_features(backbone, photos, tmp_path / "table", engine="ray", batch_size=1)
    assert type(caught.value) is expected


def test_images_that_cannot_be_pickled(backbone, tmp_path):
    class Images(list):
        def __init__(self, items):
            super().__init__(items)
            self.lock = threading.Lock()

    images = Images([Image.new("RGB", (64, 64))])
    with pytest.raises(ConfigError, match=r"^images cannot be sent to workers .*engine='ray' out"):
        extract_features(backbone, images, tmp_path / "table", engine="ray")
    assert not list((tmp_path / "table").rglob("*.parquet"))


def test_an_output_that_workers_do_not_see(backbone, photos):
    with pytest.raises(OutputError, match=r"does not see the folder 'memory://seen/by/none' .*must be in"):
        extract_features(backbone, photos, "memory://seen/by/none", engine="ray")


def test_images_that_workers_do_not_see(tmp_path):
    from autobackbone.extraction.output import Output
    from autobackbone.integrations.ray import _Task, _Worker

    output = Output(str(tmp_path))
    output.prepare()
    with output.mark() as mark:
        worker = _Worker(_Task(None, output, mark, str(tmp_path / "0.jpg"), None, None))
        with pytest.raises(InputError, match=rf"has no file {re.escape(repr(str(tmp_path / '0.jpg')))}, which the"):
            worker._check_places()


def test_devices_that_the_cluster_does_not_have():
    from autobackbone.integrations.ray_workers import choose_workers

    for device in ("cuda:1", "mps"):
        with pytest.raises(ConfigError, match=rf"is on {device}.*no such device; move it to the CPU"):
            choose_workers(torch.device(device), 3)
