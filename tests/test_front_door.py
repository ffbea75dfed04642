"""The front door: what is public, and what importing it costs."""

import subprocess
import sys

import autobackbone

PUBLIC = """
BackboneCard BackboneConfig BackboneError ConfigError FeatureBackbone FeatureBackboneConfig FeatureLevel FeaturePyramid
GatedWeightsError InputError InputSizeError InputSpec UnknownBackboneError UnsupportedError WeightsCorruptedError
WeightsError WeightsMismatchError WeightsNotFoundError WeightsReport WeightsUnavailableError count_parameters
create_backbone create_feature_backbone describe_backbone export_onnx freeze_norms freeze_stages get_blocks
get_feature_channels get_feature_info get_feature_strides get_input_spec init_non_persistent_buffers
layer_decay_param_groups list_backbones load_weights
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


def test_modules_import_downward_only():
    """Each module imports only those above it in the table of docs/architecture.md."""
    import ast
    import importlib.util
    from pathlib import Path

    order = [
        "addresses",
        "errors",
        "values",
        "config_base",
        "config",
        "likeness",
        "names",
        "levels",
        "pixels",
        "input_spec",
        "batch_statistics",
        "catalog",
        "transfer",
        "cache",
        "hub",
        "checkpoints",
        "matching",
        "weights",
        "fast_init",
        "materialize",
        "sources",
        "sources.unused",
        "sources.published",
        "sources.dinov3_names",
        "sources.dinov3",
        "sources.timm_facts",
        "sources.shapes",
        "sources.trial_sizes",
        "sources.timm_levels",
        "sources.timm_measure",
        "sources.timm_input",
        "sources.registry",
        "sources.facts_cache",
        "sources.dilation",
        "sources.timm_arguments",
        "sources.timm_config",
        "sources.timm_build",
        "sources.timm",
        "sources.choose",
        "sources.anatomy",
        "pyramid",
        "saved_files",
        "saving",
        "model_card",
        "frozen",
        "backbone",
        "wrappers",
        "create",
        "detection",
        "fpn",
        "freezing",
        "training",
        "inference",
        "survey",
        "discovery",
        "picture",
        "cli.pager",
        "cli.options",
        "cli.models",
        "cli.discovery",
        "cli",
        "__main__",
    ]
    root = Path(importlib.util.find_spec("autobackbone").origin).parent
    found = {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for p in root.rglob("*.py")}
    assert found - {"__init__"} == set(order)
    for name in order:
        path = root.joinpath(*name.split("."))
        text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        tree = ast.parse(text)
        assert ast.get_docstring(tree), f"{name} does not say what it is for"
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autobackbone"):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}".removeprefix("autobackbone.")
                    other = whole if whole in order else whole.rpartition(".")[0]
                    assert order.index(other) < order.index(name), f"{name} imports {other}"
            libraries = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                libraries = {node.module or ""}
            if any(x.split(".")[0] in ("timm", "transformers") for x in libraries):
                assert name.startswith("sources.") or name == "input_spec", f"{name} knows {libraries}"
