"""Every architecture of timm's registry, every native level, on the meta device at three sizes; two-sided.

The contract's shapes are checked on what a backbone delivers. That alone would show little, since it crops and
stretches; so what the architecture itself gives on the padded image is checked as well: a level that says ``exact``
must fill its grid to the cell, one that says it is not must miss it somewhere, and padding must be needed.
"""

import contextlib
from dataclasses import replace

import pytest
import timm
import torch
from exceptions import ENCODERS, EXCEPTIONS, THREE_CHANNELS

from autobackbone import InputSizeError, UnsupportedError, create_backbone, create_feature_backbone, get_input_spec
from autobackbone.levels import ceil_div
from autobackbone.sources.installed import facts_of
from autobackbone.sources.meta import FAILURES, meta_device
from autobackbone.sources.timm import facts as timm_facts

pytestmark = pytest.mark.zoo

SIZES = (None, (256, 320), (333, 257))


@pytest.mark.parametrize("name", timm.list_models())
def test_contract(name, record_property):
    with meta_device():
        if name in EXCEPTIONS:
            record_property("zoo", "exception")
            for size in SIZES[1:]:
                with pytest.raises(InputSizeError):
                    _backbone(name, img_size=size)
            return
        whole = _backbone(name)
        fixed = whole.input_spec.fixed_size
        inexact = {level.index for level in whole.levels if not level.exact}
        missed = set()
        for size in SIZES:
            backbone = _backbone(name, img_size=size) if fixed and size else whole
            missed |= _check(backbone, size or backbone.input_spec.size)
        assert missed == inexact, "levels that say exact=False miss their grid somewhere, and no others do"
        _check_that_padding_is_needed(whole)
    record_property("zoo", "in contract")


@pytest.mark.parametrize("name", timm.list_models())
def test_four_channels(name):
    """Any number of channels is taken, or refused at creation."""
    with meta_device():
        if name in THREE_CHANNELS:
            with pytest.raises(UnsupportedError, match="in_chans=4"):
                _backbone(name, in_chans=4)
            return
        backbone = _backbone(name, in_chans=4)
        _check(backbone, backbone.input_spec.size)


@pytest.mark.parametrize("name", timm.list_models())
def test_dilated(name, monkeypatch):
    """What raw timm can dilate we can, and no level is coarser; what it refuses we refuse.

    Nothing is measured, which takes a second each: that every level is where it should be shows whether it is dilated.
    """
    facts = facts_of(name)
    levels = tuple(replace(level, stride=min(level.stride, 16)) for level in facts.levels)
    monkeypatch.setattr(timm_facts, "measure", lambda create: create() and replace(facts, levels=levels))
    monkeypatch.setattr(timm_facts, "cached_facts", lambda _, __, measure: measure())
    with meta_device():
        try:
            timm.create_model(name, features_only=True, output_stride=16)
        except FAILURES:
            with pytest.raises(UnsupportedError, match="output_stride=16"):
                _backbone(name, output_stride=16)
            return
        backbone = _backbone(name, output_stride=16)
        missed = _check(backbone, backbone.input_spec.size)
    assert missed == {level.index for level in backbone.levels if not level.exact}


@pytest.mark.parametrize("name", timm.list_models())
def test_pooled(name):
    """Pooled features have the width that is told; encoders without pooled output say so."""
    with meta_device():
        try:
            backbone = create_backbone(name, pretrained=False).eval()
        except UnsupportedError:
            assert name in ENCODERS
            return
        assert name not in ENCODERS
        spec = get_input_spec(backbone)
        smallest = [(spec.min_size + i * spec.size_divisor,) * 2 for i in range(0 if spec.fixed_size else 3)]
        with torch.no_grad():
            for size in (spec.size, *smallest):
                y = backbone(torch.empty(2, 3, *size))
                assert tuple(y.shape) == (2, backbone.head_hidden_size), size


def _backbone(name, **arguments):
    with torch.device("meta"):
        count = len(facts_of(name).levels)
        return create_feature_backbone(name, pretrained=False, out_indices=range(count), **arguments).eval()


def _check(backbone, size) -> set[int]:
    """Check what is delivered and what the architecture gives; return the levels that miss their grid."""
    full = backbone.padded_size(*size)
    channels = backbone.input_spec.in_chans
    native = []
    handle = backbone.body.register_forward_hook(lambda _, args, maps: native.extend([args[0], *maps]))
    with torch.no_grad():
        delivered = backbone(torch.empty(2, channels, *size))
    handle.remove()
    assert tuple(native.pop(0).shape) == (2, channels, *full)
    missed = set()
    for level, y, own in zip(backbone.levels, delivered, native, strict=True):
        s = level.stride
        assert tuple(y.shape) == (2, level.channels, ceil_div(size[0], s), ceil_div(size[1], s)), level
        assert own.shape[1] == level.channels, level
        if tuple(own.shape[2:]) != (ceil_div(full[0], s), ceil_div(full[1], s)):
            missed.add(level.index)
    return missed


def _check_that_padding_is_needed(backbone) -> None:
    """At 333x257 without padding, an architecture with a divisor must fail, or give other sizes than the contract's."""
    if backbone.input_spec.size_divisor == 1 or backbone.input_spec.fixed_size:
        return
    native = None
    with contextlib.suppress(*FAILURES), torch.no_grad():
        native = backbone.body(torch.empty(2, 3, 333, 257))
    if native is not None:
        exact = [
            tuple(y.shape[2:]) == (ceil_div(333, level.stride), ceil_div(257, level.stride))
            for y, level in zip(native, backbone.levels, strict=True)
            if level.exact
        ]
        assert not all(exact), "padding that nothing needs"
