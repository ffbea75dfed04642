"""Configs: what they accept, what they refuse and in which words."""

import dataclasses
import errno
import itertools
import json
import os
import stat
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from autobackbone import BackboneConfig, ConfigError, FeatureBackboneConfig

CYCLE: list[object] = []
CYCLE.append(CYCLE)
WIDE: list[object] = [1]
for _ in range(10):  # ten to the power of ten values, in eleven lists
    WIDE = [WIDE] * 10

BAD = [
    ({"model_name": ""}, "model_name must be a model name such as 'resnet50', got ''"),
    ({"model_name": 3}, "model_name must be a model name"),
    ({"pretrained": "yes"}, "pretrained must be True or False, got 'yes'"),
    ({"out_indices": (1, 1)}, "out_indices must be without duplicates, got (1, 1)"),
    ({"out_indices": ()}, "out_indices must be a sequence of integers, got ()"),
    ({"out_indices": "123"}, "out_indices must be a sequence of integers, got '123'"),
    ({"out_indices": 3}, "out_indices must be a sequence of integers, got 3"),
    ({"out_indices": (1.0,)}, "out_indices must be a sequence of integers"),
    ({"out_indices": (True,)}, "out_indices must be a sequence of integers"),
    ({"out_strides": (0,)}, "out_strides must be a sequence of integers from 1 to 1024, got (0,)"),
    ({"out_strides": (2000,)}, "out_strides must be a sequence of integers from 1 to 1024, got (2000,)"),
    ({"out_strides": (8, 8)}, "out_strides must be without duplicates"),
    ({"out_indices": (1,), "out_strides": (8,)}, "out_indices=(1,) and out_strides=(8,) exclude each other"),
    ({"drop_rate": 1.0}, "drop_rate must be a rate of at least 0 and below 1, got 1.0"),
    ({"drop_path_rate": -0.1}, "drop_path_rate must be a rate of at least 0 and below 1, got -0.1"),
    ({"drop_rate": float("nan")}, "drop_rate must be a rate"),
    ({"in_chans": 0}, "in_chans must be a positive integer, got 0"),
    ({"img_size": 65537}, "img_size must be (height, width) in pixels, at most 65536 each way, got 65537"),
    ({"img_size": (224,)}, "img_size must be (height, width) in pixels, or one integer for a square, got (224,)"),
    ({"img_size": (0, 224)}, "img_size must be (height, width)"),
    ({"img_size": -1}, "img_size must be (height, width)"),
    ({"output_stride": 4}, "output_stride must be one of 8, 16, 32, got 4"),
    ({"pyramid": "fpn"}, "pyramid must be one of 'resample', 'simple', 'none', got 'fpn'"),
    ({"norm": 1}, "norm must be True, False or None, got 1"),
    ({"weights": ""}, "weights must be the path of a weights file, got ''"),
    ({"extra_kwargs": [1]}, "extra_kwargs must be a mapping of argument names to values, got [1]"),
    ({"extra_kwargs": {1: 2}}, "extra_kwargs must be a mapping"),
    ({"extra_kwargs": {"a": {1: 2}}}, "extra_kwargs['a'] has the key 1; keys must be text"),
    ({"extra_kwargs": {"a": [0, float("nan")]}}, "extra_kwargs['a'][1] must be a finite number, got nan"),
    ({"extra_kwargs": {"a": 10**400}}, "extra_kwargs['a'] must be an integer of at most 64 bits, got 1000"),
    ({"extra_kwargs": {"a": {1, 2}}}, "extra_kwargs['a'] must be plain: text, a number, True, False, None, a list or"),
    ({"extra_kwargs": {"a": b"x"}}, "extra_kwargs['a'] must be plain"),
    ({"extra_kwargs": {"a": torch.ones(2)}}, "extra_kwargs['a'] must be plain"),
    ({"extra_kwargs": {"a": CYCLE}}, "extra_kwargs holds more than 20 levels, or itself"),
    ({"extra_kwargs": {"a": WIDE}}, "extra_kwargs holds more than 100000 values"),
    (
        {"extra_kwargs": {"a": OmegaConf.create({"b": "???"})}},
        "extra_kwargs['a'] cannot be read: MissingMandatoryValue",
    ),
    ({"extra_kwargs": {"cache_dir": 5}}, "extra_kwargs['cache_dir'] must be the path of a folder, or None, got 5"),
    ({"extra_kwargs": {"cache_dir": "a\0b"}}, "extra_kwargs['cache_dir'] must be the path of a folder, or None"),
    ({"model_name": "\ud800"}, "model_name must be a model name"),
    ({"weights": "a\0b"}, r"weights must be the path of a weights file, got 'a\x00b'"),
    ({"weights": b"a"}, "weights must be the path of a weights file, got b'a'"),
    ({"pyramid": np.array(["simple", "none"])}, "pyramid must be one of"),
    (
        {"pyramid": "simple", "pyramid_channels": 10**12},
        "pyramid_channels must be at most 8192, or None, got 10000000",
    ),
    ({"in_chans": 10**400}, "in_chans must be a positive integer, got 10000000"),
    ({"in_chans": 10**5000}, "in_chans must be a positive integer, got a value of type int"),
    ({"img_size": 10**9}, "img_size must be (height, width)"),
    ({"out_indices": {1, 2}}, "out_indices must be a sequence of integers, got {1, 2}"),
    ({"out_indices": itertools.count()}, "out_indices must be a sequence of integers"),
    ({"drop_rate": Fraction(10**30 - 1, 10**30)}, "drop_rate must be a rate"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_bad_values_are_named(fields, message):
    with pytest.raises(ConfigError) as err:
        FeatureBackboneConfig(**fields)
    assert message in str(err.value)


def test_num_classes_is_checked():
    with pytest.raises(ConfigError, match="num_classes must be an integer of at least 0, got -1"):
        BackboneConfig(num_classes=-1)


def test_values_are_normalized():
    config = FeatureBackboneConfig(img_size=224, out_indices=[1, -1], weights=Path("a.pth"), drop_rate=0)
    assert config.img_size == (224, 224)
    assert config.out_indices == (1, -1)
    assert config.weights == "a.pth"
    assert FeatureBackboneConfig(img_size=[333, 257]).img_size == (333, 257)
    numbers = FeatureBackboneConfig(in_chans=np.int64(4), out_strides=np.array([8, 16]), drop_rate=np.float32(0.5))
    assert (type(numbers.in_chans), numbers.in_chans) == (int, 4)
    assert json.dumps(numbers.to_dict()["out_strides"]) == "[8, 16]"
    feature, pooled = FeatureBackboneConfig(output_stride=np.int64(16)), BackboneConfig(num_classes=np.int64(7))
    assert [type(n) for n in (feature.output_stride, pooled.num_classes)] == [int, int]
    extra = {"a": (1, (2,)), "b": np.float32(0.5), "c": np.arange(2), "d": Path("x/y"), "e": np.bool_(1), "f": range(2)}
    plain = BackboneConfig(extra_kwargs=extra).extra_kwargs
    assert plain == {"a": [1, [2]], "b": 0.5, "c": [0, 1], "d": "x/y", "e": True, "f": [0, 1]}
    assert [type(value) for value in plain.values()] == [list, float, list, str, bool, list]
    nested = OmegaConf.create({"model_name": "resnet18", "extra_kwargs": {"layers": [1, 1]}})
    assert type(BackboneConfig.from_dict(nested).extra_kwargs["layers"]) is list


def test_configs_are_values():
    assert FeatureBackboneConfig() == FeatureBackboneConfig()
    assert len({FeatureBackboneConfig(), FeatureBackboneConfig(), BackboneConfig()}) == 2
    given = {"layers": [1, 1]}
    config = BackboneConfig(extra_kwargs=given)
    given["layers"].append(9)
    assert config.extra_kwargs == {"layers": [1, 1]}
    with pytest.raises(dataclasses.FrozenInstanceError):
        FeatureBackboneConfig().model_name = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("pretraned", "'pretrained'"), ("out_indexes", "'out_indices'"), ("image_size", "'img_size'")],
)
def test_a_wrong_field_names_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=f"no field {name!r}; did you mean {nearest}"):
        FeatureBackboneConfig().replace(**{name: 1})


def test_a_field_near_nothing_lists_them_all():
    with pytest.raises(ConfigError, match="its fields are model_name, pretrained, num_classes"):
        BackboneConfig.from_dict({"zzz": 1})


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_files(tmp_path, ending):
    path = tmp_path / f"config.{ending}"
    config = FeatureBackboneConfig("vit_small_patch16_224", out_strides=(4, 8), extra_kwargs={"depth": 3})
    getattr(config, f"to_{ending}")(path)
    assert getattr(FeatureBackboneConfig, f"from_{ending}")(path) == config


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_what_cannot_be_written(tmp_path, ending):
    config = BackboneConfig(extra_kwargs={"act_layer": object()})
    with pytest.raises(ConfigError, match=f"cannot be written as {ending.upper()}"):
        getattr(config, f"to_{ending}")(tmp_path / "config")
    assert not (tmp_path / "config").exists()


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_where_no_file_can_be(tmp_path, ending):
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "no" / "file", "No such file or directory")):
        with pytest.raises(ConfigError, match=f"could not be written: {reason}"):
            getattr(BackboneConfig(), f"to_{ending}")(path)


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_file_is_replaced_at_once(tmp_path, ending, monkeypatch):
    """A link stays a link, a mode stays, and a failure leaves the old file and nothing beside it."""
    path, link = tmp_path / "config", tmp_path / "link"
    BackboneConfig("resnet18").to_json(path)
    path.chmod(0o600)
    link.symlink_to(path)
    getattr(BackboneConfig("resnet34"), f"to_{ending}")(link)
    assert (link.is_symlink(), stat.S_IMODE(path.stat().st_mode)) == (True, 0o600)
    assert getattr(BackboneConfig, f"from_{ending}")(path).model_name == "resnet34"

    os.link(path, tmp_path / "other")
    getattr(BackboneConfig("resnet26"), f"to_{ending}")(path)
    assert (tmp_path / "other").samefile(path)
    (tmp_path / "other").unlink()
    getattr(BackboneConfig("resnet34"), f"to_{ending}")(path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        getattr(BackboneConfig("resnet50"), f"to_{ending}")(path)
    assert getattr(BackboneConfig, f"from_{ending}")(path).model_name == "resnet34"
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_a_new_file_has_the_mode_that_the_user_wants(tmp_path):
    mask = os.umask(0o077)
    try:
        BackboneConfig().to_json(tmp_path / "config")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "config").stat().st_mode) == 0o600


def test_a_config_with_tensors_is_for_python_alone(tmp_path):
    state = {"fc.weight": torch.ones(2)}
    config = BackboneConfig(extra_kwargs={"pretrained_cfg_overlay": {"state_dict": state}})
    assert config.to_dict()["extra_kwargs"]["pretrained_cfg_overlay"]["state_dict"] is state
    with pytest.raises(ConfigError, match=r"as JSON: extra_kwargs\['pretrained_cfg_overlay'\]\['state_dict'\]"):
        config.to_json(tmp_path / "config")


def test_files_that_are_not_configs(tmp_path):
    path = tmp_path / "config"
    path.write_text("{1: [")
    for read, words in (
        (FeatureBackboneConfig.from_json, "is not JSON"),
        (FeatureBackboneConfig.from_yaml, "is not YAML"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(path)
        with pytest.raises(ConfigError, match="could not be read"):
            read(tmp_path / "absent")
    for read in (FeatureBackboneConfig.from_json, FeatureBackboneConfig.from_yaml):
        with pytest.raises(ConfigError, match="absent' could not be read: there is no such file, from"):
            read(tmp_path / "absent")
        with pytest.raises(ConfigError, match="could not be read: Is a directory"):
            read(tmp_path)
        with pytest.raises(ConfigError, match="path must be a path, got 5"):
            read(5)
        for content, words in (
            (b"\xff\xfe", r"it is not text in UTF-8 \(byte 0\)"),
            (b"[" * 100_000, "nested too deep"),
        ):
            path.write_bytes(content)
            with pytest.raises(ConfigError, match=words):
                read(path)
    path.write_bytes(b'\xef\xbb\xbf{"in_chans": 4}')  # as Windows' editor begins a file
    assert FeatureBackboneConfig.from_json(path) == FeatureBackboneConfig.from_yaml(path)
    path.write_text("model_name: 2024-99-99")
    with pytest.raises(ConfigError, match="is not YAML"):
        FeatureBackboneConfig.from_yaml(path)
    path.write_text("- resnet50\n")
    with pytest.raises(ConfigError, match="is made from a mapping of fields, got list"):
        FeatureBackboneConfig.from_yaml(path)
    path.write_text("")
    assert FeatureBackboneConfig.from_yaml(path) == FeatureBackboneConfig()


@pytest.mark.parametrize("kind", [BackboneConfig, FeatureBackboneConfig])
def test_configs_are_structured_configs_of_omegaconf(kind):
    merged = OmegaConf.merge(OmegaConf.structured(kind), {"model_name": "resnet18", "img_size": [64, 96]})
    config = OmegaConf.to_object(merged)
    assert config == kind("resnet18", img_size=(64, 96))
