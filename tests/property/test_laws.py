"""Laws: one test each, on whatever the strategies draw."""

import json

import strategies as some
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autobackbone import BackboneConfig, ConfigError, FeatureBackboneConfig
from autobackbone.levels import ceil_div, choose_levels, normalize_indices, round_up
from autobackbone.names import parse_name
from autobackbone.pyramid import resample
from autobackbone.sources.timm.registry import architectures


@some.SETTINGS
@given(some.architectures, some.sides, some.sides, some.batches, some.stride_requests)
def test_contract(name, height, width, batch, strides):
    backbone = some.backbone(name, out_strides=strides)
    floor = backbone.input_spec.min_size
    height, width = max(height, floor), max(width, floor)
    with torch.no_grad():
        maps = backbone(torch.rand(batch, 3, height, width))
    assert backbone.strides == strides
    assert [tuple(y.shape) for y in maps] == [
        (batch, c, ceil_div(height, s), ceil_div(width, s)) for c, s in zip(backbone.channels, strides, strict=True)
    ]
    assert all(bool(y.isfinite().all()) for y in maps)


@some.SETTINGS
@given(some.architectures, some.channel_counts, st.data())
def test_any_number_of_input_channels(name, channels, data):
    index = data.draw(st.integers(0, 2))
    backbone = some.backbone(name, in_chans=channels, out_indices=(index,))
    x = backbone.input_spec.normalize(torch.rand(1, channels, 64, 96))
    with torch.no_grad():
        (y,) = backbone(x)
    assert y.shape[1] == backbone.out_channels
    assert len(backbone.input_spec.mean) == len(backbone.input_spec.std) == channels


@some.SETTINGS
@given(some.architectures, st.permutations([0, 1, 2]), some.sides, some.sides)
def test_order_of_indices_is_the_order_of_maps(name, order, height, width):
    x = torch.rand(1, 3, height, width)
    with torch.no_grad():
        expected = some.backbone(name, out_indices=(0, 1, 2))
        permuted = some.backbone(name, out_indices=tuple(order))
        permuted.load_state_dict(expected.state_dict())
        for y, i in zip(permuted(x), order, strict=True):
            assert torch.equal(y, expected(x)[i])


@some.SETTINGS
@given(some.architectures, some.stride_requests, some.sides, some.sides)
def test_a_stride_is_the_same_whatever_is_asked_for_beside_it(name, strides, height, width):
    together = some.backbone(name, out_strides=strides)
    alone = [level for s in strides for level in choose_levels(_native_levels(together), None, (s,))]
    assert tuple(alone) == together.levels
    assert list(together.forward_dict(torch.rand(1, 3, height, width))) == [a.name for a in alone]


@some.SETTINGS
@given(some.architectures, some.sides, some.sides)
def test_padding_is_minimal(name, height, width):
    """What the body sees is the image padded to the next multiple of the divisor, and never more."""
    backbone = some.backbone(name, out_indices=(-1,))
    seen = []
    handle = backbone.body.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.rand(1, 3, height, width)
    with torch.no_grad():
        backbone(x)
    handle.remove()
    divisor = backbone.input_spec.size_divisor
    assert seen[0].shape[2:] == (round_up(height, divisor), round_up(width, divisor))
    assert torch.equal(seen[0][..., :height, :width], x)
    assert float(seen[0].sum() - x.sum()) < 1e-2
    if divisor == 1:
        assert seen[0] is x


@given(some.native_levels(), st.data())
def test_normalizing_indices_twice_changes_nothing(native_levels, data):
    count = len(native_levels)
    indices = data.draw(st.lists(st.integers(-count, count - 1), min_size=1, unique_by=lambda i: i % count))
    once = normalize_indices(indices, native_levels)
    assert normalize_indices(once, native_levels) == once == tuple(i % count for i in indices)


@given(some.native_levels(), st.lists(st.integers(-40, 40), min_size=1))
def test_indices_are_taken_or_refused(native_levels, indices):
    count = len(native_levels)
    good = all(-count <= i < count for i in indices) and len({i % count for i in indices}) == len(indices)
    try:
        chosen = choose_levels(native_levels, indices, None)
    except ConfigError as err:
        assert not good
        assert str(tuple(indices)) in str(err)
    else:
        assert good
        assert [level.index for level in chosen] == [i % count for i in indices]


@given(some.native_levels(), some.stride_requests)
def test_native_strides_are_taken_natively(native_levels, strides):
    for level, stride in zip(choose_levels(native_levels, None, strides), strides, strict=True):
        native = [n.index for n in native_levels if n.stride == stride]
        assert level.stride == stride
        assert level.exact == bool(native)
        if native:
            assert level.index == max(native)
        assert level.channels == native_levels[level.index].channels


@given(some.native_levels())
def test_level_names_are_distinct(native_levels):
    levels = choose_levels(native_levels, range(len(native_levels)), None)
    assert len({level.name for level in levels}) == len(native_levels)


@given(st.integers(1, 12), st.integers(1, 12), some.sides, some.sides)
def test_resampling_keeps_a_constant_and_the_size_asked_for(stride, new_stride, height, width):
    x = torch.full((1, 2, ceil_div(height, stride), ceil_div(width, stride)), 3.0)
    size = (ceil_div(height, new_stride), ceil_div(width, new_stride))
    y = resample(x, stride, new_stride, size)
    assert y.shape == (1, 2, *size)
    torch.testing.assert_close(y, torch.full_like(y, 3.0))


@given(st.integers(1, 16), st.integers(1, 16), st.integers(60, 160))
def test_resampling_keeps_every_cell_over_its_pixels(stride, new_stride, side):
    """A map that holds the position of its cells, in pixels, still does: away from the edges a ramp stays a ramp."""
    x = (torch.arange(ceil_div(side, stride), dtype=torch.float64) + 0.5) * stride
    count = ceil_div(side, new_stride)
    y = resample(x.expand(1, 1, len(x), -1), stride, new_stride, (count, count))[0, 0, 0]
    centers = (torch.arange(count, dtype=torch.float64) + 0.5) * new_stride
    reach = max(stride, new_stride)
    inside = (centers > reach) & (centers < side - 2 * reach)
    torch.testing.assert_close(y[inside], centers[inside])


@given(some.backbone_configs | some.feature_configs)
def test_configs_survive_dicts_json_and_yaml(config):
    values = config.to_dict()
    kind = type(config)
    assert kind.from_dict(values) == config
    assert kind.from_dict(json.loads(json.dumps(values))) == config
    assert kind.from_dict(yaml.safe_load(yaml.safe_dump(values))) == config


@given(st.sampled_from([BackboneConfig, FeatureBackboneConfig]), st.text(min_size=1), st.integers())
def test_an_unknown_field_is_refused(kind, name, value):
    if name in kind().to_dict():
        return
    try:
        kind.from_dict({name: value})
    except ConfigError as err:
        assert repr(name) in str(err)
    else:
        raise AssertionError(name)


@given(st.data())
def test_names_survive_text(data):
    known = architectures()
    name = data.draw(st.sampled_from(sorted(known)))
    tag = data.draw(st.sampled_from([None, *known[name]]))
    ref = parse_name(name if tag is None else f"{name}.{tag}", known)
    assert (ref.scheme, ref.name, ref.tag) == ("timm", name, tag)
    assert parse_name(str(ref), known) == ref
    assert parse_name(f"timm/{ref}", known) == ref


def _native_levels(backbone):
    return backbone.native_levels
