"""The catalogue: discovery, and the generated facts."""

import json
from pathlib import Path

import pytest
import timm
import torch

from autobackbone import UnknownBackboneError, create_feature_backbone, list_backbones
from autobackbone.catalog import build, published
from autobackbone.names import DINOV3
from autobackbone.sources import timm_facts


@pytest.mark.parametrize("pattern", ["", "*resnet*", "resnet50", "vit_*_224", "nothing*", "*dinov3*"])
@pytest.mark.parametrize("pretrained", [False, True])
def test_equal_to_timms_list_and_dinov3(pattern, pretrained):
    found = list_backbones(pattern, pretrained_only=pretrained)
    ours = [name for name in found if name in DINOV3]
    assert [name for name in found if name not in ours] == timm.list_models(pattern, pretrained=pretrained)
    assert len(ours) == (10 if pattern in ("", "*dinov3*") else 0)


def test_published():
    card = published("resnet50")
    assert card["license"] == "apache-2.0"
    assert card["tags"][0] == timm.get_pretrained_cfg("resnet50").tag
    assert {f"resnet50.{tag}" for tag in card["tags"]} == set(timm.list_pretrained("resnet50"))
    repos = published("facebook/dinov3-vitl16-pretrain-sat493m")["tags"]
    assert repos == ["facebook/dinov3-vitl16-pretrain-sat493m", "facebook/dinov3-vitl16-pretrain-lvd1689m"]
    with pytest.raises(UnknownBackboneError):
        published("resnet5o")


def test_facts_are_shipped_for_every_architecture_of_the_version_released_against():
    data = json.loads((Path(timm_facts.__file__).parent / timm_facts.FACTS_FILE).read_text())
    if data["timm"] != timm.__version__:
        pytest.skip(f"the facts are those of timm {data['timm']}")
    assert set(data["architectures"]) == set(timm.list_models())
    assert timm_facts.FACTS_FILE in {p.name for p in Path(timm_facts.__file__).parent.iterdir()}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "hrnet_w18_small", "test_coatnet", "convit_tiny"])
def test_facts_are_what_is_measured(name):
    facts = timm_facts.facts_of(name)
    assert timm_facts._measured(name) == facts
    assert timm_facts.decode(json.loads(json.dumps(timm_facts.encode(facts)))) == facts


def test_another_timm_is_measured(monkeypatch):
    """With a timm that no facts are shipped for, an architecture is measured when it is asked for."""
    monkeypatch.setattr(timm_facts, "_shipped", dict)
    with torch.device("meta"):
        backbone = create_feature_backbone("test_convnext", pretrained=False)
    assert backbone.strides == (8, 16, 32)


@pytest.mark.zoo
def test_building_is_resumable_and_byte_stable(tmp_path, monkeypatch):
    monkeypatch.setattr("autobackbone.catalog.list_architectures", lambda *_, **__: ["test_vit", "test_resnet"])
    seen = []
    path = build(tmp_path / "facts.json", progress=lambda n, total, name: seen.append((n, total, name)))
    first = path.read_bytes()
    assert sorted(name for *_, name in seen) == ["test_resnet", "test_vit"]
    seen.clear()
    assert build(path, progress=lambda *args: seen.append(args)).read_bytes() == first
    assert seen == []
    held = json.loads(first)
    del held["architectures"]["test_vit"]
    path.write_text(json.dumps(held))
    assert build(path).read_bytes() == first
