"""Offline by default: a test that opens a connection beyond this machine fails."""

import socket
from collections import Counter
from pathlib import Path

import pytest
import skimage.data
import torch
from hypothesis import HealthCheck, settings

# A first call loads libraries, and a busy machine is slow: time says nothing about a law.
settings.register_profile("laws", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("laws")
torch.set_num_threads(1)  # tests run in as many processes as there are cores

_LOCAL = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True, scope="session")
def _offline():
    """Fail whatever opens a connection to another machine, or asks for its address.

    pytest-socket guards connections only, and raises an error that the package would turn into one of its own.
    """
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self, address):
        if self.family != socket.AF_UNIX and address[0] not in _LOCAL:
            pytest.fail(f"a connection to {address} was opened")
        return connect(self, address)

    def guarded_getaddrinfo(host, *args, **kwargs):
        if host not in (*_LOCAL, None, ""):
            pytest.fail(f"the address of {host} was asked for")
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keep what is measured in a folder of this run: what another run measured, maybe otherwise, is not taken."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("platformdirs.user_cache_path", lambda name: folder / name)
        yield


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def photo() -> Path:
    """A photograph of a cat, 451 pixels wide and 300 high."""
    return Path(skimage.data.data_dir) / "chelsea.png"


def pytest_addoption(parser):
    parser.addoption("--write-heads", action="store_true", help="write docs/heads.md from what tests/integrations ran")


def pytest_terminal_summary(terminalreporter, config):
    """Say how many architectures of the zoo are in contract; write which heads run over which backbones."""
    reports = terminalreporter.getreports("passed")
    if config.getoption("--write-heads"):
        from matrix import write_page

        failed = terminalreporter.getreports("failed")
        write_page([value for r in (*reports, *failed) for key, value in r.user_properties if key == "heads"])
    counts = Counter(value for report in reports for key, value in report.user_properties if key == "zoo")
    if counts:
        terminalreporter.write_line(
            f"zoo: {counts['in contract']} of {counts.total()} architectures in contract at all three sizes, "
            f"{counts['exception']} in the table of exceptions"
        )
