"""Laws of mistakes: whatever is given, what comes out is what was asked for, or an error of this package."""

import dataclasses
import re
import tempfile
from pathlib import Path

import pytest
import strategies as some
import timm
import torch
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st
from timm.models import PretrainedCfg

from autobackbone import (
    BackboneConfig,
    ConfigError,
    FeatureBackboneConfig,
    UnknownBackboneError,
    WeightsError,
    create_backbone,
    create_feature_backbone,
)
from autobackbone.checkpoints import find_files
from autobackbone.names import parse_name, repo_of, split_repo
from autobackbone.sources.published import check_published, known_fields
from autobackbone.sources.registry import architectures

KINDS = st.sampled_from([BackboneConfig, FeatureBackboneConfig])
FIELDS = sorted(BackboneConfig().to_dict().keys() | FeatureBackboneConfig().to_dict().keys())
PUBLISHED = [field.name for field in dataclasses.fields(PretrainedCfg)]


def same(value, other):
    """Whether two values are equal, and of the same types all through."""
    if type(value) is not type(other) or value != other:
        return False
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return all(same(item, other[key]) for key, item in items)


@given(KINDS, st.dictionaries(st.sampled_from(FIELDS) | st.text(), some.anything, max_size=3), st.data())
def test_any_value_in_any_field_survives_or_is_refused(kind, values, data):
    survives_or_is_refused(kind, values)
    survives_or_is_refused(kind, {"extra_kwargs": data.draw(st.dictionaries(st.text(), some.anything, max_size=3))})


def survives_or_is_refused(kind, values):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config"
        try:
            config = kind.from_dict(values)
            assert same(kind.from_dict(config.to_dict()).to_dict(), config.to_dict())
            for ending in ("json", "yaml"):
                getattr(config, f"to_{ending}")(path)
                assert same(getattr(kind, f"from_{ending}")(path).to_dict(), config.to_dict())
        except ConfigError as err:
            assert "\n" not in str(err)
            assert len(str(err)) < 1000
        else:
            assert kind.from_dict(config.to_dict()) == config


@given(some.references)
def test_any_reference_is_parsed_or_refused(text):
    try:
        ref = parse_name(text, architectures())
    except UnknownBackboneError as err:
        assert "\n" not in str(err)
    else:
        assert parse_name(str(ref), architectures()) == ref
        if ref.source == "hf-hub":
            validate_repo_id(ref.name)


@some.SETTINGS
@given(some.references)
def test_any_address_of_weights_is_found_or_refused(text):
    text = re.sub(r"^(https?)://(?!127)", r"\1://127.0.0.1:1/", text)  # a port that nothing listens at
    try:
        find_files(text if split_repo(repo_of(text) or "") is None else "hf-hub:")
    except (WeightsError, ConfigError) as err:
        assert "\n" not in str(err)
    else:
        assert Path(text).exists()


@given(st.dictionaries(st.sampled_from(PUBLISHED) | st.text(), some.anything, max_size=2) | some.anything)
def test_what_is_said_of_published_weights_is_valid_or_refused(values):
    try:
        checked = check_published(values, "overlay")
    except ConfigError as err:
        assert str(err).startswith("overlay")
    else:
        assert checked.keys() == values.keys()
        assert check_published(checked, "overlay") == checked


def test_what_timm_says_of_its_weights_is_valid():
    assert set(known_fields(dict.fromkeys(PUBLISHED, 1))) == set(PUBLISHED)
    for name, cfg in timm.models._registry._model_pretrained_cfgs.items():
        values = cfg.to_dict()
        checked = check_published(values, name)
        assert {k: list(v) if isinstance(v, tuple) else v for k, v in checked.items()} == {
            k: list(v) if isinstance(v, tuple) else v for k, v in values.items()
        }


OVERLAYS = [
    ({"mean": 0}, r"pretrained_cfg_overlay'\]\['mean'\] must be a sequence of finite numbers, got 0"),
    ({"std": [1, 0, 1]}, r"\['std'\] must be a sequence of finite numbers above 0, got \[1, 0, 1\]"),
    ({"classifier": 5}, r"\['classifier'\] must be the name of a module, several, or None, got 5"),
    ({"input_size": None}, r"\['input_size'\] must be \(channels, height, width\), got None"),
    ({"interpolation": "cubic"}, r"\['interpolation'\] must be one of 'nearest', .*, got 'cubic'"),
    ({"means": (0.5,)}, r"has no field 'means'; did you mean 'mean'\?"),
    ("mean", "pretrained_cfg_overlay'\\] must be a mapping of fields of timm's PretrainedCfg, got str"),
    (0, "must be a mapping of fields of timm's PretrainedCfg, got int"),
]


@pytest.mark.parametrize(("overlay", "message"), OVERLAYS)
@pytest.mark.parametrize("create", [create_feature_backbone, create_backbone])
def test_overlays_of_a_wrong_kind(create, overlay, message):
    with pytest.raises(ConfigError, match=message):
        create("test_resnet", extra_kwargs={"pretrained_cfg_overlay": overlay})


def test_an_overlay_may_hold_tensors_and_lists():
    state = timm.create_model("test_resnet").state_dict()
    overlay = {"state_dict": state, "mean": [0.5], "std": [0.25], "classifier": ["fc"], "input_size": [3, 96, 64]}
    backbone = create_feature_backbone("test_resnet", extra_kwargs={"pretrained_cfg_overlay": overlay})
    spec = backbone.input_spec
    assert (spec.mean, spec.std, spec.size) == ((0.5,) * 3, (0.25,) * 3, (96, 64))
    assert torch.equal(backbone.state_dict()["body.model.conv1.0.weight"], state["conv1.0.weight"])
