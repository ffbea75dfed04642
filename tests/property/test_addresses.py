"""Secrets in addresses are shown nowhere: laws over addresses, and every place that shows one."""

import copy
import dataclasses
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SETTINGS, addresses

from autobackbone import WeightsNotFoundError, WeightsReport
from autobackbone.addresses import redacted, redacted_in

PLAIN = [
    "https://host/weights.pth",
    "http://host:8080/a%20b/w.safetensors?download=true",
    "https://host/w?raw=1&v=2024#main",
    "https://host/@scope/w.pth",
    "hf-hub:owner/repo@main",
    "/home/me/weights.pth",
    "C:\\weights\\a@b.pth",
    "",
]


@pytest.mark.parametrize("source", PLAIN)
def test_what_is_no_secret_is_shown(source):
    assert redacted(source) == source
    assert redacted_in(f"The weights file {source!r} is damaged; see {source}.") == (
        f"The weights file {source!r} is damaged; see {source}."
    )


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("https://me:s3cret@host/w.pth", "https://***@host/w.pth"),
        ("https://ghp_token@host/w.pth", "https://***@host/w.pth"),
        ("HTTPS://me:p@ss@host:1/w.pth", "HTTPS://***@host:1/w.pth"),
        ("s3://key:s3cret@bucket/w.pth", "s3://***@bucket/w.pth"),
        ("https://host/w?X-Amz-Signature=00ff&v=1", "https://host/w?X-Amz-Signature=***&v=1"),
        ("https://host/w?sv=2024-01-01&sig=a%2Bb", "https://host/w?sv=***&sig=***"),
        ("https://host/w?token=1", "https://host/w?token=***"),
        ("https://host/w?abcdef0123", "https://host/w?***"),
        ("https://host/w#access_token=abc", "https://host/w#access_token=***"),
        ("https://me:s3/cret@host/w", "https://***"),
    ],
)
def test_what_is_hidden(source, shown):
    assert redacted(source) == shown
    assert redacted(shown) == shown
    assert redacted_in(f"({source!r}), {source}.") == f"({shown!r}), {shown}."


@SETTINGS
@given(addresses())
def test_no_secret_is_shown(address):
    url, secrets = address
    for text in (redacted(url), redacted_in(f"no {url!r}: {url}."), str(WeightsNotFoundError(f"weights={url!r}"))):
        assert not [secret for secret in secrets if secret in text]
    assert redacted(redacted(url)) == redacted(url)
    assert WeightsReport(url).origin == redacted(url)


@SETTINGS
@given(st.text())
def test_any_text_can_be_shown(text):
    assert redacted_in(redacted_in(text)) == redacted_in(text)
    assert isinstance(redacted(text), str)


def test_errors_and_reports_are_copied_as_they_are():
    error = WeightsNotFoundError("https://me:s3cret@host/w is absent", 5)
    assert error.args == ("https://***@host/w is absent", 5)
    assert copy.copy(error).args == pickle.loads(pickle.dumps(error)).args == error.args  # noqa: S301
    report = WeightsReport("https://me:s3cret@host/w")
    assert dataclasses.replace(report, loaded=1).origin == "https://***@host/w"
