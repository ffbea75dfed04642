"""Canaries: what the package relies on and that no library promises; docs/private_names.md has a row for each."""

import importlib
import logging
import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import errors
from torch import nn
from torchvision.ops import MultiScaleRoIAlign
from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel, DINOv3ViTConfig, DINOv3ViTModel, PreTrainedModel

from autobackbone import describe_backbone


def test_timm_folder_config(tmp_path):
    from timm.models._hub import load_model_config_from_path

    timm.models.save_for_hf(timm.create_model("test_resnet", in_chans=1), tmp_path, model_args={"in_chans": 1})
    cfg, architecture, arguments = load_model_config_from_path(tmp_path)
    assert (architecture, arguments["in_chans"]) == ("test_resnet", 1)
    assert cfg["first_conv"] == "conv1.0"


def test_timm_entrypoints():
    from timm.models._registry import _model_entrypoints

    assert _model_entrypoints["resnet50"] is timm.model_entrypoint("resnet50")
    assert set(_model_entrypoints) >= set(timm.list_models())


def test_timm_group_with_matcher():
    from timm.models._manipulate import group_with_matcher

    matcher = timm.create_model("test_vit").group_matcher(coarse=False)
    names = [("cls_token", None), ("blocks.3.norm1.weight", None), ("norm.weight", None)]
    layers = group_with_matcher(names, matcher, reverse=True)
    assert layers["cls_token"] == 0
    assert layers["cls_token"] < layers["blocks.3.norm1.weight"] <= layers["norm.weight"]


def test_timm_builder_logger(tmp_path, caplog):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    with caplog.at_level(logging.DEBUG):
        timm.create_model("test_resnet", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "w.pth")})
    assert "timm.models._builder" in {record.name for record in caplog.records}


def test_timm_overlay_keys(tmp_path):
    state = {k: torch.full_like(v, 3) for k, v in timm.create_model("test_resnet").state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    for place in ({"state_dict": state}, {"file": str(tmp_path / "w.pth")}):
        overlay = {"source": "", "custom_load": False, **place}
        model = timm.create_model("test_resnet", pretrained=True, pretrained_cfg_overlay=overlay)
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_unexpected_argument_text():
    with pytest.raises(TypeError, match=r"unexpected keyword argument(\(s\))?:? \[?'no_such_argument'"):
        timm.create_model("test_resnet", no_such_argument=1)


def test_load_state_dict_text():
    with pytest.raises(RuntimeError, match="loading state_dict"):
        nn.Linear(2, 2).load_state_dict({"weight": torch.ones(3, 3), "bias": torch.ones(2)})


def test_weights_only_text(tmp_path):
    torch.save({"x": Path()}, tmp_path / "w.pth")
    with pytest.raises(Exception, match="weights_only"):
        torch.load(tmp_path / "w.pth", weights_only=True)


def test_load_from_state_dict_copies():
    codes = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.Tensor.copy_:
                codes.append(sys._getframe(1).f_code)
            return func(*args, **(kwargs or {}))

    layer = nn.Linear(2, 2)
    with Watch():
        layer.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.ones(2)})
    assert codes == [nn.Module._load_from_state_dict.__code__] * 2


def test_module_registration_hook():
    from torch.nn.modules.module import register_module_module_registration_hook

    parents = []
    handle = register_module_module_registration_hook(lambda parent, _name, _module: parents.append(parent))
    try:
        model = nn.Sequential(nn.Linear(2, 2))
    finally:
        handle.remove()
    assert parents == [model]
    lists = []
    model.register_load_state_dict_post_hook(lambda _module, keys: lists.append(keys.unexpected_keys))
    model.load_state_dict(model.state_dict() | {"more": torch.ones(1)}, strict=False)
    assert lists == [["more"]]


def test_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        y = nn.Linear(2, 3)(torch.empty(4, 2))
    assert y.shape == (4, 3)
    with pytest.raises(Exception, match=r"."):
        y.sum().item()


def test_dispatch_mode():
    from torch.utils._python_dispatch import TorchDispatchMode

    calls = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(func)
            return func(*args, **(kwargs or {}))

    with Watch():
        torch.empty(2, 2, device="meta") + 1
    assert torch.ops.aten.add.Tensor in calls


def test_module_hooks():
    layer = nn.Linear(2, 2)
    called = []
    layer.register_forward_hook(lambda *_: called.append("after"))
    layer.register_forward_pre_hook(lambda *_: called.append("before"))
    held = layer._forward_hooks, layer._forward_pre_hooks
    layer._forward_hooks, layer._forward_pre_hooks = type(held[0])(), type(held[1])()
    layer(torch.ones(1, 2))
    assert called == []
    layer._forward_hooks, layer._forward_pre_hooks = held
    layer(torch.ones(1, 2))
    assert called == ["before", "after"]


def test_batch_norm_base():
    from torch.nn.modules.batchnorm import _BatchNorm

    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, timm.layers.BatchNormAct2d)
    assert all(issubclass(kind, _BatchNorm) for kind in kinds)


def test_wrapper_names():
    layer = nn.Linear(2, 2)
    assert dict(torch.compile(layer).named_children()) == {"_orig_mod": layer}
    assert dict(nn.DataParallel(layer).named_children()) == {"module": layer}
    checkpointing = importlib.import_module("torch.distributed.algorithms._checkpoint.checkpoint_wrapper")
    wrapped = checkpointing.checkpoint_wrapper(layer)
    assert dict(wrapped.named_children()) == {"_checkpoint_wrapped_module": layer}
    fsdp = importlib.import_module("torch.distributed.fsdp._common_utils")
    assert fsdp.FSDP_WRAPPED_MODULE == "_fsdp_wrapped_module"


def test_tensor_flatten():
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    layer = nn.Linear(5, 3).requires_grad_(requires_grad=False)
    quantize_(layer, Int8WeightOnlyConfig(version=2))
    weight = layer.weight
    names, context = weight.__tensor_flatten__()
    parts = {name: getattr(weight, name) for name in names}
    assert {type(part) for part in parts.values()} == {torch.Tensor}
    assert not any(bool(part.any()) for name, part in parts.items() if name not in ("qdata", "scale"))
    twin = type(weight).__tensor_unflatten__(parts, context, weight.shape, weight.stride())
    assert torch.equal(twin.dequantize(), weight.dequantize())


def test_roi_align_attributes():
    from torchvision.ops.poolers import initLevelMapper

    pooling = MultiScaleRoIAlign(["0", "1"], 2, 2)
    pooling.scales = [1 / 8, 1 / 16]
    pooling.map_levels = initLevelMapper(3, 4, 224, 4)
    boxes = [torch.tensor([[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 300.0, 300.0]])]
    maps = {"0": torch.zeros(1, 1, 64, 64), "1": torch.ones(1, 1, 32, 32)}
    assert pooling(maps, boxes, [(512, 512)]).mean((1, 2, 3)).tolist() == [0, 1]


def test_transformers_initialization(tmp_path, monkeypatch):
    """A model inside another initializes its own modules, itself last. What is loaded is marked."""
    from autobackbone.integrations.transformers import AutobackboneModel, backbone_config

    calls = []
    monkeypatch.setattr(AutobackboneModel, "_initialize_weights", lambda self, m, *_: calls.append(m is self))
    model = AutobackboneModel(backbone_config("test_resnet", pretrained=False))
    assert calls[-1]
    assert calls.count(True) == 1
    model.save_pretrained(tmp_path)
    loaded = AutobackboneModel.from_pretrained(tmp_path)
    assert calls.count(True) == 2
    assert all(getattr(t, "_is_hf_initialized", False) for t in loaded.state_dict(keep_vars=True).values())
    monkeypatch.undo()
    assert {"_init_weights", "_initialize_weights"} <= set(dir(PreTrainedModel))


def test_transformers_class_attributes():
    names = {"_no_split_modules", "_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn"}
    assert names | {"_supports_attention_backend", "supports_gradient_checkpointing"} <= set(dir(PreTrainedModel))


def test_dinov3_vit_modules():
    model = DINOv3ViTModel(DINOv3ViTConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=2)).eval()
    x = torch.randn(1, 3, 32, 48)
    hidden, position = model.embeddings(x), model.rope_embeddings(x)
    for block in model.model.layer:
        hidden = block(hidden, position_embeddings=position)
    assert torch.equal(model.norm(hidden), model(x).last_hidden_state)
    assert model.embeddings.mask_token.shape[-1] == model.embeddings.patch_embeddings.weight.shape[0] == 32


def test_dinov3_convnext_modules():
    model = DINOv3ConvNextModel(DINOv3ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1])).eval()
    x = y = torch.randn(1, 3, 32, 48)
    for stage in model.model.stages:
        for block in (*stage.downsample_layers, *stage.layers):
            y = block(y)
    assert torch.equal(model.layer_norm(y.mean((-2, -1))), model(x).pooler_output)


def test_dinov3_model_types():
    assert describe_backbone("dinov3_vits16").family == DINOv3ViTConfig.model_type
    assert describe_backbone("dinov3_convnext_tiny").family == DINOv3ConvNextConfig.model_type


def test_hub_http_library():
    kind = next(kind for kind in errors.HfHubHTTPError.__mro__[1:] if kind.__name__ == "HTTPError")
    library = sys.modules[kind.__module__.partition(".")[0]]
    for name in ("HTTPError", "InvalidURL", "ReadError", "RemoteProtocolError"):
        assert issubclass(getattr(library, name), Exception)


def test_each_row_has_a_canary_and_each_canary_a_row():
    page = Path(__file__).parents[1] / "docs" / "private_names.md"
    if not page.is_file():
        pytest.skip("the documentation is not here")
    rows = re.findall(r"\| `(\w+)` \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    canaries = [name.removeprefix("test_") for name in globals() if name.startswith("test_")]
    elsewhere = "hub_cache_layout"  # tests/hub/test_faults.py has the Hub that it needs
    assert [*canaries[:-1], elsewhere] == rows
