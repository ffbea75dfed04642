"""The front door: what is public, and what importing it costs."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autobackbone

PUBLIC = """
Accuracy BackboneCard BackboneConfig BackboneError ConfigError ExtractionReport FeatureBackbone FeatureBackboneConfig
FeatureLevel FeaturePyramid FeatureTable GatedWeightsError InputError InputSizeError InputSpec LevelTokens OutputError
QuantizationReport Throughput UnknownBackboneError UnsupportedError Use WeightsCorruptedError WeightsError
WeightsMismatchError WeightsNotFoundError WeightsReport WeightsUnavailableError count_parameters create_backbone
create_feature_backbone describe_backbone export_onnx export_program extract_features freeze_norms freeze_stages
get_blocks get_feature_channels get_feature_info get_feature_strides get_input_spec init_non_persistent_buffers
layer_decay_param_groups list_backbones load_weights open_features optimize_for_inference quantize unfreeze_norms
unfreeze_stages
""".split()


def test_public_names():
    assert autobackbone.__all__ == PUBLIC
    assert all(getattr(autobackbone, name) is not None for name in PUBLIC)
    assert set(PUBLIC) <= set(dir(autobackbone))


def test_errors_are_the_built_ins_they_are_kinds_of():
    assert issubclass(autobackbone.UnknownBackboneError, ValueError)
    assert issubclass(autobackbone.InputSizeError, ValueError)
    assert issubclass(autobackbone.UnsupportedError, NotImplementedError)
    assert issubclass(autobackbone.WeightsNotFoundError, RuntimeError)
    errors = [getattr(autobackbone, name) for name in PUBLIC if name.endswith("Error")]
    assert all(issubclass(error, autobackbone.BackboneError) for error in errors)


def test_importing_is_light():
    code = """
import sys
import autobackbone
autobackbone.FeatureBackboneConfig(out_strides=[4, 8]), autobackbone.InputSpec, autobackbone.ConfigError
autobackbone.list_backbones("*resnet*"), autobackbone.describe_backbone("resnet50")
print([m for m in ("torch", "timm", "transformers", "numpy", "huggingface_hub", "yaml") if m in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
    assert answer.stderr == ""


def test_each_module_says_what_it_is_for_and_stands_in_the_documentation():
    """What may import what is for import-linter, in ``nox -s lint``."""
    root = Path(importlib.util.find_spec("autobackbone").origin).parent
    modules = {path.relative_to(root).as_posix() for path in root.rglob("*.py")}
    for module in modules:
        assert ast.get_docstring(ast.parse((root / module).read_text(encoding="utf-8"))), module
    page = Path(__file__).parents[1] / "docs" / "architecture.md"
    if not page.is_file():
        pytest.skip("the documentation is not here")
    rows = re.findall(r"^\| `([\w/]+\.py)` \| .+ \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == {module for module in modules if not module.endswith(("__init__.py", "__main__.py"))}
