"""The table of families: an architecture of every family and set of strides in the catalog."""

from families import DINOV3_FAMILIES, FAMILIES, QUICK

from autobackbone import describe_backbone, list_backbones


def _kind(name):
    card = describe_backbone(name)
    return card.family, frozenset(card.strides)


def test_every_family_and_set_of_strides_is_in_the_table():
    there = {_kind(family.name) for family in FAMILIES + DINOV3_FAMILIES}
    assert {_kind(name): name for name in list_backbones() if _kind(name) not in there} == {}


def test_names_are_in_the_table_once():
    names = [family.name for family in FAMILIES + DINOV3_FAMILIES]
    assert len(names) == len(set(names))
    assert set(names) >= QUICK
