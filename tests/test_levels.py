"""Levels: requests by index and by stride, by example."""

import pytest

from autobackbone import ConfigError, describe_backbone, list_backbones
from autobackbone.levels import FeatureInfo, NativeLevel, choose_levels


def native(*strides: int) -> tuple[NativeLevel, ...]:
    return tuple(
        NativeLevel(i, 8 * (i + 1), s, 1, fixed_size=False, exact=True, module=f"stages.{i}")
        for i, s in enumerate(strides)
    )


RESNET, CONVNEXT, VIT, LEVIT = native(2, 4, 8, 16, 32), native(4, 8, 16, 32), native(*[16] * 12), native(16, 32, 64)

REQUESTS = [
    (RESNET, None, None, [("c3", 2, 8), ("c4", 3, 16), ("c5", 4, 32)]),
    (CONVNEXT, None, None, [("c3", 1, 8), ("c4", 2, 16), ("c5", 3, 32)]),
    (VIT, None, None, [("c3", 5, 8), ("c4", 11, 16), ("c5", 11, 32)]),
    (VIT, None, (4, 8, 32), [("c2", 2, 4), ("c3", 5, 8), ("c5", 11, 32)]),
    (VIT, (2, 5, -1), None, [("s16_2", 2, 16), ("s16_5", 5, 16), ("s16_11", 11, 16)]),
    (RESNET, (-1, 0), None, [("c5", 4, 32), ("c1", 0, 2)]),
    (LEVIT, None, None, [("c3", 0, 8), ("c4", 0, 16), ("c5", 1, 32)]),
    (native(12, 12, 17), None, (12, 16), [("s12_1", 1, 12), ("c4", 2, 16)]),
    (native(7, 14, 28), (0, 1, 2), None, [("s7_0", 0, 7), ("s14_1", 1, 14), ("s28_2", 2, 28)]),
    (native(2, 4, 8, 8, 8), (2, 3, 4), None, [("s8_2", 2, 8), ("s8_3", 3, 8), ("s8_4", 4, 8)]),
    (native(2, 4, 8, 8, 8), None, (8,), [("c3", 4, 8)]),
    (native(14), None, (4, 8, 16, 32), [("c2", 0, 4), ("c3", 0, 8), ("c4", 0, 16), ("c5", 0, 32)]),
]


@pytest.mark.parametrize(("rungs", "indices", "strides", "expected"), REQUESTS)
def test_requests(rungs, indices, strides, expected):
    levels = choose_levels(rungs, indices, strides)
    assert [(level.name, level.index, level.stride) for level in levels] == expected


@pytest.mark.parametrize(("output_stride", "expected"), [(8, (8,)), (16, (8, 16)), (32, (8, 16, 32))])
def test_the_default_goes_as_far_as_the_output_stride(output_stride, expected):
    assert tuple(x.stride for x in choose_levels(RESNET, None, None, output_stride=output_stride)) == expected


def test_refusals_name_what_there_is():
    with pytest.raises(ConfigError, match=r"there is no level 4; its levels are 0 \(stride 4\), 1 \(stride 8\)"):
        choose_levels(CONVNEXT, (2, 3, 4), None)
    with pytest.raises(ConfigError, match="there is no level 12; its levels are 0 to 11, all at stride 16"):
        choose_levels(VIT, (12,), None)
    with pytest.raises(ConfigError, match="name level 3 twice"):
        choose_levels(CONVNEXT, (3, -1), None)
    with pytest.raises(ConfigError, match="Stride 8 is not native to this backbone, whose strides are 16; ask for"):
        choose_levels(VIT, None, (16, 8), pyramid="none")


def test_feature_info_speaks_as_timm_does():
    info = FeatureInfo(VIT, choose_levels(VIT, None, (16, 8)))
    assert info.channels() == [96, 48]
    assert info.reduction() == [16, 8]
    assert info.module_name() == ["stages.11", "stages.5"]
    assert info.channels(0) == 8
    assert info.channels([0, -1]) == [8, 48]
    assert len(info) == 13
    assert info[3]["num_chs"] == 32
    assert info.get_dicts(["reduction"]) == [{"reduction": 16}, {"reduction": 8}]
    assert [entry["index"] for entry in info] == [*range(12), 5]


LADDERS = sorted({describe_backbone(name).strides for name in list_backbones()})


@pytest.mark.parametrize("strides", LADDERS, ids=str)
def test_a_level_has_one_name_however_it_is_asked_for(strides):
    """Where native strides differ; and in any request of different strides, names differ."""
    levels = native(*strides)
    if 1 < len(set(strides)) == len(strides):
        assert choose_levels(levels, range(len(levels)), None) == choose_levels(levels, None, strides)
    wanted = sorted({*strides, *(2**i for i in range(8)), 3, 5, 7, 14, 28, 56, 100})
    names = [level.name for level in choose_levels(levels, None, wanted)]
    assert len(set(names)) == len(names)
