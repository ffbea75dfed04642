"""Laws of mistakes: whatever is given, what comes out is what was asked for, or an error of this package."""

import dataclasses
import io
import itertools
import re
import sys
import tempfile
from contextlib import nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import numpy as np
import pytest
import strategies as some
import timm
import torch
from huggingface_hub.utils import validate_repo_id
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models import PretrainedCfg

from autobackbone import (
    BackboneConfig,
    BackboneError,
    ConfigError,
    FeatureBackbone,
    FeatureBackboneConfig,
    UnknownBackboneError,
    WeightsError,
    count_parameters,
    create_backbone,
    create_feature_backbone,
    describe_backbone,
    export_onnx,
    export_program,
    get_feature_channels,
    get_feature_info,
    get_feature_strides,
    get_input_spec,
    list_backbones,
    load_weights,
)
from autobackbone.cli import main
from autobackbone.names import parse_name, repo_of, split_repo
from autobackbone.sources.published import check_published, known_fields
from autobackbone.sources.timm.registry import architectures
from autobackbone.weights.files import resolve_files

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
        if ref.scheme == "hf-hub":
            validate_repo_id(ref.name)


@some.SETTINGS
@given(some.references)
def test_any_address_of_weights_is_found_or_refused(text):
    text = re.sub(r"^(https?)://(?!127)", r"\1://127.0.0.1:1/", text)  # a port that nothing listens at
    try:
        resolve_files(text if split_repo(repo_of(text) or "") is None else "hf-hub:")
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


META = torch.device("meta")
# How a value is given to each public function; none of them runs a large backbone.
ARGUMENTS = {
    "create_feature_backbone": lambda _, v: create_feature_backbone(v, pretrained=False),
    "create_backbone": lambda _, v: create_backbone(v, pretrained=False),
    "from_config": lambda _, v: FeatureBackbone.from_config(v),
    "from_pretrained": lambda _, v: FeatureBackbone.from_pretrained(v),
    "from_pretrained(revision)": lambda _, v: FeatureBackbone.from_pretrained("/", revision=v),
    "push_to_hub": lambda b, v: b.push_to_hub(v if isinstance(v, str) and "/" not in v else None),
    "load_weights": load_weights,
    "load_weights(model)": lambda _, v: load_weights(v, "absent"),
    "forward": lambda b, v: b(v),
    "normalize": lambda b, v: b.input_spec.normalize(v),
    "transform": lambda b, v: b.input_spec.transform(training=v),
    "transform()": lambda b, v: b.input_spec.transform()(v),
    "get_feature_info": lambda _, v: get_feature_info(v),
    "get_feature_channels": lambda _, v: get_feature_channels(v),
    "get_feature_strides": lambda _, v: get_feature_strides(v),
    "get_input_spec": lambda _, v: get_input_spec(v),
    "count_parameters": lambda _, v: count_parameters(v),
    "describe_backbone": lambda _, v: describe_backbone(v),
    "export_onnx(path)": export_onnx,
    "export_onnx(size)": lambda b, v: export_onnx(b, "absent/x.onnx", v),
    "export_program(path)": export_program,
    "export_program(size)": lambda b, v: export_program(b, "absent/x.pt2", v),
    **{
        f"list_backbones({name})": lambda _, v, name=name: list_backbones(**{name: v})
        for name in ("pattern", "pretrained_only", "source", "family", "strides", "min_params", "max_params", "license")
    },
    **{
        f"extra_kwargs[{name!r}]": lambda _, v, name=name: create_feature_backbone(
            "test_vit", pretrained=False, extra_kwargs={name: v}
        )
        for name in ("patch_size", "act_layer", "no_such_argument", "cache_dir", "pretrained_cfg_overlay")
    },
}


@settings(some.SETTINGS, max_examples=12)  # each gives one value to every function
@given(st.data())
def test_any_argument_is_taken_or_refused(data):
    backbone = some.backbone("test_resnet")
    for name, give in ARGUMENTS.items():
        if name.startswith("extra") and data.draw(st.integers(0, 3)):
            continue  # they take the longest
        value = data.draw(some.anything)
        with suppress(BackboneError), META if name.startswith(("create", "extra")) else nullcontext():
            give(backbone, value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count_parameters", "resnet50", "takes a module, got str"),
        ("load_weights(model)", None, "takes a module, got NoneType"),
        ("load_weights", "HTTPS://", "is no address; write 'https://host/path'"),
        ("load_weights", "hf-hub:owner/my--repo", "is no Hub repository; write 'hf-hub:owner/repo'"),
        ("from_pretrained", 5, "folder_or_repo must be a path, got 5"),
        ("from_pretrained", "x" * 300, "is neither a folder"),
        ("from_config", None, "A FeatureBackboneConfig is needed, got NoneType"),
        ("list_backbones(source)", itertools.count(), r"source=count\(.*\): no backbone has that"),
        ("list_backbones(min_params)", 10**400, "is no number of parameters"),
        ("list_backbones(pretrained_only)", np.zeros(3), "is neither True nor False"),
        ("describe_backbone", np.zeros(3), r"array\(\[0., 0., 0.\]\) is no model name"),
        ("transform", "yes", "training must be True or False, got 'yes'"),
    ],
)
def test_what_wrong_arguments_are_told(name, value, message):
    with pytest.raises(BackboneError, match=message):
        ARGUMENTS[name](some.backbone("test_resnet"), value)


@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [
        ("test_vit", {"depth": 0}, r"timm cannot build 'test_vit' with \{'depth': 0\}"),
        ("dinov3_vits16", {"num_hidden_layers": 0}, "must be a positive integer, got 0"),
        ("dinov3_vits16", {"num_hidden_layers": 10**12}, "must be a positive integer, got 1000000000000"),
        ("dinov3_vits16", {"hidden_act": "no such"}, "transformers cannot build 'dinov3_vits16' with"),
        ("test_resnet", {"in_chans": 4}, r"\['in_chans'\]=4 contradicts in_chans=3; set the field in_chans"),
    ],
)
def test_arguments_that_nothing_can_be_built_with(name, extra, message):
    with META, pytest.raises(ConfigError, match=message):
        create_feature_backbone(name, pretrained=False, extra_kwargs=extra)


def test_a_field_may_be_said_twice():
    with META:
        backbone = create_feature_backbone(
            "test_vit", pretrained=False, img_size=64, extra_kwargs={"img_size": (64, 64)}
        )
    assert backbone.input_spec.size == (64, 64)


_NAMES = ["resnet18", "test_resnet", "resnet5o", "-", "[a", "x\ny", "\ud800", "x" * 300, "text.txt", "/", "absent"]
_NUMBERS = ["0", "-1", "8,16", "8;16", "1e400", "nan", "30M", "9" * 400, "224", "333x257", "0x0", "1x", "\u0663"]
WORDS = st.sampled_from([*_NAMES, *_NUMBERS, "mit", "params"])
FLAGS = ["--json", "--pretrained", "--any-size", "--reverse", "--random-weights"]
OPTIONS = {
    "list": ["--source", "--family", "--strides", "--min-params", "--license", "--sort", *FLAGS[:4]],
    "info": ["--strides", "--indices", "--img-size", "--json"],
    "compare": ["--json"],
    "features": ["-m", "--weights", "--strides", "--indices", "--img-size", "--max-side", "--json"],
    "export": ["-m", "--weights", "--strides", "--indices", "--img-size", "--size", "--json"],
}


@some.SETTINGS
@given(st.data())
def test_any_command_line_is_obeyed_or_answered_by_one_line(data):
    """Mistakes end with status 2, one line on standard error and nothing on standard output."""
    command = data.draw(st.sampled_from(list(OPTIONS)))
    words = [command, *data.draw(st.lists(WORDS, min_size=command != "list", max_size=2))]
    if command in ("features", "export"):  # what is whole runs a backbone, elsewhere
        words += ["-m", "test_resnet", "--random-weights", "-o", "/dev/null/out.pt2"]
    for option in data.draw(st.lists(st.sampled_from(OPTIONS[command]), max_size=2)):
        words += [option] if option in FLAGS else [option, data.draw(WORDS)]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["autobackbone", *words])
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code in (0, 2)
    if stop.value.code == 2:
        assert out.getvalue() == ""
        assert err.getvalue().startswith("autobackbone: ")
        assert err.getvalue().count("\n") == 1
