"""Extraction on Ray clusters of other kinds: small, full, losing a node, and outliving the driver."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from autobackbone import UnsupportedError, extract_features, open_features

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ray

LONG = 300  # seconds: a test that waits this long has failed


def wait_for(condition):
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("cpus", "parts", "expected"),
    [
        ([1], 9, (1, 0.5)),
        ([2], 9, (1, 1)),
        ([4], 9, (1, 3)),
        ([4], 1, (1, 3)),
        ([4, 4], 9, (2, 3)),
        ([0, 1, 1], 9, (1, 1)),
        ([16], 99, (2, 7)),
        ([16], 1, (1, 13)),
        ([16] * 10, 999, (19, 8)),
        ([64, 2], 999, (7, 8)),
    ],
)
def test_cpus_are_divided(cpus, parts, expected):
    from autobackbone.integrations.ray_workers import on_cpus

    workers = on_cpus(cpus, parts)
    assert (workers.number, workers.cpus) == expected
    assert sum(cpus) == 1 or workers.number * workers.cpus < sum(cpus)  # one is free


def test_one_cpu_and_none_that_is_free(start_ray, backbone, photos, tmp_path, same_table, monkeypatch):
    with start_ray(1):
        extract_features(backbone, photos, tmp_path / "table", engine="ray")
        same_table(tmp_path / "table", backbone, photos)

        @ray.remote(num_cpus=1)
        class Other:
            def begin(self):
                pass

        other = Other.remote()
        ray.get(other.begin.remote())
        monkeypatch.setattr("autobackbone.integrations.ray_workers._PATIENCE", 0.5)
        with pytest.raises(UnsupportedError, match=r"has 1 CPUs, of which 0 are free, and a worker needs 1: wait"):
            extract_features(backbone, photos, tmp_path / "other", engine="ray")


def test_a_cluster_without_cpus(start_ray, backbone, photos, tmp_path):
    with (
        start_ray(0),
        pytest.raises(UnsupportedError, match=r"has 0 CPUs, of which 0 are free.*as in ray\.init\(num_cpus=2\)"),
    ):
        extract_features(backbone, photos, tmp_path / "table", engine="ray")


@pytest.mark.skipif(torch.cuda.is_available(), reason="Ray is told of GPUs that are not there")
def test_a_worker_per_gpu(start_ray, backbone, photos, tmp_path):
    from autobackbone.integrations.ray_workers import Workers, choose_workers

    with start_ray(4, gpus=2):
        workers = choose_workers(torch.device("cpu"), 9)  # this process has no GPU to put a backbone on
        assert workers == choose_workers(torch.device("cuda"), 9) == Workers(number=2, cpus=0, gpus=1, threads=2)
        with pytest.raises(
            UnsupportedError, match=r"^torch finds no GPU on .*install torch with CUDA on every machine"
        ):
            extract_features(backbone, photos, tmp_path / "table", engine="ray")


def test_from_a_task_that_holds_a_cpu_of_two(start_ray, backbone, photos, tmp_path, same_table):
    output = str(tmp_path / "table")

    def extract():
        import autobackbone.extraction.run

        autobackbone.extraction.run._MAX_ROWS = 4
        return autobackbone.extract_features(backbone, photos, output, engine="ray")

    with start_ray(2):
        report = ray.get(ray.remote(num_cpus=1)(extract).remote())
    assert report.extracted == 30
    same_table(output, backbone, photos)


@pytest.fixture
def cluster():
    """A cluster with a head, which this process is connected to."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_node_that_goes_away(cluster, backbone, photos, tmp_path, same_table):
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    head = ray.get_runtime_context().get_node_id()
    reached = tmp_path / "reached"

    def transform(_):  # a worker on the other node waits until it is gone, the others wait until it has begun
        import ray

        if ray.get_runtime_context().get_node_id() != head:
            reached.touch()
            time.sleep(LONG)
        while not reached.exists():
            time.sleep(0.05)
        return torch.zeros(3, 64, 64)

    def remove():
        wait_for(reached.exists)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=remove)
    thread.start()
    report = extract_features(backbone, photos, tmp_path / "table", engine="ray", transform=transform)
    thread.join()
    assert report.extracted == 30
    same_table(tmp_path / "table", backbone, photos, transform=lambda _: torch.zeros(3, 64, 64))


SCRIPT = """
import os, sys, time
import ray, torch
import autobackbone.extraction.run
from autobackbone import create_backbone, extract_features

address, photos, output, reached = sys.argv[1:]
autobackbone.extraction.run._MAX_ROWS = 4
ray.init(address, log_to_driver=False)
torch.manual_seed(0)

class Ones:
    def __call__(self, image):
        if len(os.listdir(os.path.join(output, "features"))) > 3:  # parts, and the mark of the run
            open(reached, "w").close()
            time.sleep(600)
        return torch.ones(3, 64, 64)

    def __repr__(self):
        return "Ones()"

extract_features(create_backbone("test_resnet", pretrained=False), photos, output, transform=Ones(), engine="ray")
"""


def test_a_driver_that_is_killed(cluster, backbone, photos, tmp_path, same_table):
    output, reached = tmp_path / "table", tmp_path / "reached"
    arguments = [cluster.address, str(photos), str(output), str(reached)]
    driver = subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments])
    wait_for(reached.exists)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    written = len(list((output / "features").glob("*.parquet")))
    assert written

    class Ones:
        def __call__(self, _):
            return torch.ones(3, 64, 64)

        def __repr__(self):
            return "Ones()"  # as in the script: it is compared

    report = extract_features(backbone, photos, output, engine="ray", transform=Ones())
    assert report.skipped
    assert report.extracted
    assert len(open_features(output)) == 30
    same_table(output, backbone, photos, transform=Ones())


def test_a_part_that_two_workers_write_is_one_file(backbone, photos, tmp_path):
    extract_features(backbone, photos, tmp_path / "table")
    before = open_features(tmp_path / "table")
    files = sorted((tmp_path / "table").rglob("*.parquet"))
    from autobackbone.extraction.output import Output

    output = Output(str(tmp_path / "table"))
    import pyarrow.parquet as pq

    for path in output.part_paths():  # as a worker does whose driver is gone
        output.write_part(path.rpartition("/")[2], pq.read_table(path))
    assert sorted((tmp_path / "table").rglob("*.parquet")) == files
    assert open_features(tmp_path / "table").ids == before.ids


def test_ray_is_started_and_stopped_quietly(photos, tmp_path):
    script = (
        "import sys, ray; from autobackbone import create_backbone, extract_features\n"
        "backbone = create_backbone('test_resnet', pretrained=False)\n"
        "report = extract_features(backbone, *sys.argv[1:], engine='ray')\n"
        "assert not ray.is_initialized()\n"
        "print(report.extracted)"
    )
    environment = os.environ | {"RAY_ADDRESS": "local"}
    command = [sys.executable, "-c", script, str(photos), str(tmp_path / "table")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "30\n"
    lines = [line for line in done.stderr.splitlines() if "core_worker.cc" not in line]  # no option silences it
    assert lines == []
