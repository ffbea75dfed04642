"""Configs: what they accept, what they refuse and in which words."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from autobackbone import BackboneConfig, ConfigError, FeatureBackboneConfig

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
    ({"img_size": (224,)}, "img_size must be (height, width) in pixels, or one integer for a square, got (224,)"),
    ({"img_size": (0, 224)}, "img_size must be (height, width)"),
    ({"img_size": -1}, "img_size must be (height, width)"),
    ({"output_stride": 4}, "output_stride must be one of 8, 16, 32, got 4"),
    ({"pyramid": "fpn"}, "pyramid must be one of 'resample', 'simple', 'none', got 'fpn'"),
    ({"norm": 1}, "norm must be True, False or None, got 1"),
    ({"weights": ""}, "weights must be the path of a weights file, got ''"),
    ({"extra_kwargs": [1]}, "extra_kwargs must be a mapping of argument names to values, got [1]"),
    ({"extra_kwargs": {1: 2}}, "extra_kwargs must be a mapping"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_bad_values_are_named(fields, message):
    with pytest.raises(ConfigError) as err:
        FeatureBackboneConfig(**fields)
    assert message in str(err.value)


def test_num_classes_is_checked():
    with pytest.raises(ConfigError, match="num_classes must be an integer of at least 0, got -1"):
        BackboneConfig(num_classes=-1)


def test_values_are_normalised():
    config = FeatureBackboneConfig(img_size=224, out_indices=[1, -1], weights=Path("a.pth"), drop_rate=0)
    assert config.img_size == (224, 224)
    assert config.out_indices == (1, -1)
    assert config.weights == "a.pth"
    assert FeatureBackboneConfig(img_size=[333, 257]).img_size == (333, 257)
    numbers = FeatureBackboneConfig(in_chans=np.int64(4), out_strides=np.array([8, 16]), drop_rate=np.float32(0.5))
    assert (type(numbers.in_chans), numbers.in_chans) == (int, 4)
    assert json.dumps(numbers.to_dict()["out_strides"]) == "[8, 16]"
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
