"""Backbones as models of transformers: saved and loaded whole, trained, refused."""

import copy
import inspect
import json

import pytest
import timm
import torch
from families import DINOV3_FAMILIES, FAMILIES, spread
from heads import BACKBONES, HEADS, make_model
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    DetrConfig,
    DetrForObjectDetection,
    DPTConfig,
    Mask2FormerConfig,
    ResNetConfig,
    RTDetrConfig,
    RTDetrImageProcessor,
    Trainer,
    TrainingArguments,
    UperNetConfig,
    VitMatteConfig,
    pipeline,
)
from transformers.conversion_mapping import get_model_conversion_mapping

from autobackbone import (
    ConfigError,
    FeatureBackboneConfig,
    InputError,
    InputSizeError,
    UnknownBackboneError,
    UnsupportedError,
    WeightsCorruptedError,
    WeightsMismatchError,
    WeightsNotFoundError,
    create_feature_backbone,
    freeze_stages,
    layer_decay_param_groups,
    load_weights,
)
from autobackbone.integrations.transformers import (
    AutobackboneConfig,
    AutobackboneModel,
    backbone_config,
    head_config,
    image_processor,
)

BY_NAME = {head.name: head for head in HEADS}
SWIN = "swin_tiny_patch4_window7_224"
RESNET = BACKBONES[0]
DETR = BY_NAME["DETR"]
RT_DETR = BY_NAME["RT-DETR"]


@pytest.fixture(autouse=True)
def _garbage(monkeypatch):
    """Fill memory that is to be overwritten with what nobody wants to find there."""
    empty_like = torch.empty_like

    def filled(*args, **kwargs):
        tensor = empty_like(*args, **kwargs)
        return tensor if tensor.is_meta else tensor.fill_(77)

    monkeypatch.setattr(torch, "empty_like", filled)


def _config(name, **fields):
    return backbone_config(name, pretrained=False, **fields)


def _detr(backbone, **more):
    return DetrForObjectDetection(head_config(DetrConfig, backbone, **(DETR.fields | more))).eval()


def _backbone(model):
    return next(module for module in model.modules() if isinstance(module, AutobackboneModel))


def _tensors(model):
    """Return every tensor of a model: also buffers that are not saved, and attributes."""
    tensors = dict((*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)))
    for path, module in model.named_modules():
        tensors |= {f"{path}.{n}": v for n, v in vars(module).items() if isinstance(v, torch.Tensor)}
    return tensors


def _check_same(model, expected):
    found, others = _tensors(model), _tensors(expected)
    assert found.keys() == others.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, others[name]), name


def _check_same_outputs(model, expected, images):
    """Compare bit for bit. Kernels differ by how memory is aligned, and that of a file is not; that of a copy is."""
    with torch.no_grad():
        ours, theirs = (copy.deepcopy(m).eval()(images) for m in (model, expected))
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(ours[name], value), name


def _family_config(family):
    fields = {"extra_kwargs": family.extra_kwargs}
    with torch.device("meta"):
        if create_feature_backbone(family.name, pretrained=False, **fields).input_spec.fixed_size:
            fields["img_size"] = family.size
    return _config(family.name, **fields)


def _is_renamed(model):
    """Whether transformers takes a name in the backbone for that of an older version of the head."""
    prefix = next(name for name, module in model.named_modules() if module is _backbone(model))
    renamings = get_model_conversion_mapping(model)
    names = [name for name in model.state_dict() if name.startswith(f"{prefix}.")]
    for renaming in renamings:
        names = [renaming.rename_source_key(name)[0] for name in names]
    return not set(names) <= model.state_dict().keys()


@pytest.mark.parametrize("family", spread(FAMILIES + DINOV3_FAMILIES))
def test_a_whole_model_is_saved_and_loaded_exactly(family, tmp_path):
    """With frozen batch norms in the place of all, as DETR has them."""
    model = _detr(_family_config(family))
    model.save_pretrained(tmp_path)
    if _is_renamed(model):  # which is never silent
        with pytest.raises(WeightsMismatchError, match="has taken these names for those of an older version"):
            DetrForObjectDetection.from_pretrained(tmp_path)
        return
    loaded = DetrForObjectDetection.from_pretrained(tmp_path)
    _check_same(loaded, model)
    images = torch.rand(2, 3, *family.size)
    _check_same_outputs(loaded, model, images)
    loaded.load_state_dict(model.state_dict())
    _check_same(loaded, model)
    plain = _family_config(family).create().eval()
    state = _backbone(loaded).backbone.state_dict()
    missing, unexpected = plain.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    with torch.no_grad():  # frozen norms are batch norms in evaluation mode, whatever else is in them
        ours, theirs = _backbone(loaded.train()).eval()(images).feature_maps, plain(images)
    for ours_l, theirs_l in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_l, theirs_l, rtol=1e-3, atol=1e-4 * (1 + float(theirs_l.abs().max())))


@pytest.mark.parametrize("name", ["test_resnet", SWIN, "coat_tiny", "dinov3_vits16"])
def test_a_backbone_alone(name, tmp_path):
    config = _family_config(next(f for f in FAMILIES + DINOV3_FAMILIES if f.name == name))
    model = AutoBackbone.from_config(config).eval()
    model.save_pretrained(tmp_path)
    assert isinstance(model, AutobackboneModel)
    for auto in (AutoBackbone, AutoModel, AutobackboneModel):
        loaded = model if auto is AutoBackbone else auto.from_pretrained(tmp_path)  # it loads from the Hub alone
        _check_same(loaded, model)
    assert AutoConfig.from_pretrained(tmp_path).channels == config.channels


@pytest.mark.parametrize("arguments", [{"device_map": "auto"}, {"low_cpu_mem_usage": True}, {"device_map": "cpu"}])
def test_ways_to_load(arguments, tmp_path):
    model = _detr(_config(SWIN))
    model.save_pretrained(tmp_path, max_shard_size="20MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    _check_same(DetrForObjectDetection.from_pretrained(tmp_path, **arguments), model)


@pytest.mark.parametrize("name", [SWIN, "dinov3_vits16", "test_resnet"])
def test_in_another_dtype(name, tmp_path):
    """Tables too are computed in single precision, and cast."""
    model = _detr(_config(name))
    model.save_pretrained(tmp_path)
    half = DetrForObjectDetection.from_pretrained(tmp_path, dtype=torch.bfloat16)
    expected = {name: t for name, t in _tensors(copy.deepcopy(model).bfloat16()).items() if "backbone" in name}
    found = _tensors(half)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    half.save_pretrained(tmp_path / "half")
    _check_same(DetrForObjectDetection.from_pretrained(tmp_path / "half"), half)  # in the dtype it was saved in
    made = AutoModel.from_config(_config(name), dtype=torch.bfloat16)
    assert {t.dtype for t in made.parameters()} == {torch.bfloat16}


def test_a_file_without_the_backbone(tmp_path):
    """The library's own initialization makes it."""
    model = _detr(_config("test_resnet"))
    state = {name: tensor for name, tensor in model.state_dict().items() if ".backbone.body." not in name}
    model.save_pretrained(tmp_path, state_dict=dict(state))
    loaded = DetrForObjectDetection.from_pretrained(tmp_path)
    for name, tensor in loaded.state_dict().items():
        if name in state:
            assert torch.equal(tensor, state[name]), name
        else:
            assert tensor.ndim < 2 or 0 < float(tensor.std()) < 1, name
            assert not name.endswith("running_var") or bool((tensor == 1).all())


def test_a_file_with_half_of_the_backbone(tmp_path):
    model = _detr(_config("test_resnet"))
    state = {name: tensor for name, tensor in model.state_dict().items() if ".layer3." not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(WeightsMismatchError, match=r"first 'body\.model\.layer3.*a backbone is loaded whole"):
        DetrForObjectDetection.from_pretrained(tmp_path)


QUICK = {"RT-DETR", "Mask2Former", "MaskFormer", "DPT"}


@pytest.mark.parametrize(
    "head", [pytest.param(h, id=str(h), marks=() if h.name in QUICK else pytest.mark.families) for h in HEADS]
)
def test_weights_stay_as_they_were_loaded(head, tmp_path, monkeypatch):
    """In a new head, whose own initialization goes over every module in it."""
    vit = BACKBONES[2]
    raw = timm.create_model(vit.name, in_chans=4 if head.name == "ViTMatte" else 3).state_dict()
    save_file(raw, tmp_path / "w.safetensors")
    config = vit.config
    monkeypatch.setattr(
        type(vit), "config", lambda _, levels, **more: config(levels, weights=str(tmp_path / "w.safetensors"), **more)
    )
    backbone = _backbone(make_model(head, vit)).backbone
    assert all(name.startswith("pyramid.") for name in backbone.weights_report.missing)
    state = backbone.network.state_dict()
    resized = {"pos_embed"} if head.name == "ViTPose" else set()
    assert len(state) > 100
    for name in state.keys() - resized:
        assert torch.equal(state[name], raw[name]), name


def test_weights_are_loaded_into_new_models_alone(tmp_path):
    raw = timm.create_model("test_resnet").state_dict()
    save_file(raw, tmp_path / "w.safetensors")
    config = backbone_config("test_resnet", weights=str(tmp_path / "w.safetensors"))
    model = _detr(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    model.save_pretrained(tmp_path / "model")
    text = (tmp_path / "model" / "config.json").read_text(encoding="utf-8")
    assert "w.safetensors" not in text
    _check_same(DetrForObjectDetection.from_pretrained(tmp_path / "model"), model)
    _check_same(DetrForObjectDetection.from_pretrained(tmp_path / "model", config=model.config), model)
    copied = copy.deepcopy(config)
    assert torch.equal(AutobackboneModel(copied).backbone.network.conv1[0].weight, raw["conv1.0.weight"])
    load_weights(model, tmp_path / "w.safetensors", name="model.backbone.model.backbone")
    assert torch.equal(_backbone(model).backbone.network.conv1[0].weight, raw["conv1.0.weight"])


def _checkpoint(model, what="enable"):
    """Newer versions have another name for it."""
    getattr(model, f"activation_checkpointing_{what}", getattr(model, f"gradient_checkpointing_{what}"))()


def _batches(count):
    generator = torch.Generator().manual_seed(1)
    labels = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])}
    return [{"pixel_values": torch.rand(3, 64, 64, generator=generator), "labels": labels} for _ in range(count)]


def _collate(rows):
    return {"pixel_values": torch.stack([r["pixel_values"] for r in rows]), "labels": [r["labels"] for r in rows]}


def _trainer(model, folder, steps, **arguments):
    settings = {"per_device_train_batch_size": 2, "save_steps": 2, "logging_steps": 1, "report_to": [], "use_cpu": True}
    settings |= {"remove_unused_columns": False, "disable_tqdm": True, "dataloader_pin_memory": False}
    args = TrainingArguments(str(folder), max_steps=steps, lr_scheduler_type="constant", **(settings | arguments))
    optimizer = torch.optim.AdamW(layer_decay_param_groups(model, lr=1e-4, layer_decay=0.8))
    return Trainer(model, args, _collate, _batches(8), optimizers=(optimizer, None))


@pytest.mark.filterwarnings("ignore")  # the Trainer's own
@pytest.mark.parametrize(
    ("head", "arguments"),
    [("RT-DETR", {}), ("RT-DETR", {"bf16": True}), ("Deformable DETR", {"gradient_checkpointing": True})],
)
def test_the_trainer_resumes_exactly(head, arguments, tmp_path):
    """It saves some heads under older names, which only ``from_pretrained`` reads, with any backbone."""

    def model():
        return make_model(BY_NAME[head], BACKBONES[2], dropout=0.0)

    whole = model()
    before = {name: p.clone() for name, p in whole.named_parameters()}
    _trainer(whole, tmp_path / "whole", 4, **arguments).train()
    first = model()
    _trainer(first, tmp_path / "parts", 2, **arguments).train()
    resumed = type(first).from_pretrained(tmp_path / "parts" / "checkpoint-2")
    _check_same(resumed, first)
    _trainer(resumed, tmp_path / "parts", 4, **arguments).train(resume_from_checkpoint=True)
    _check_same(resumed, whole)
    changed = [n for n, p in whole.named_parameters() if "backbone" in n and not torch.equal(p, before[n])]
    assert len(changed) > 100


@pytest.mark.parametrize("backbone", [b for b in BACKBONES if b.depth], ids=str)
def test_gradient_checkpointing_changes_no_gradient(backbone):
    grads = []
    for enable in (False, True):
        model = make_model(BY_NAME["Deformable DETR"], backbone, dropout=0.0).train()
        if enable:
            _checkpoint(model)
            assert _backbone(model).gradient_checkpointing
        torch.manual_seed(1)
        inputs, loss = BY_NAME["Deformable DETR"].task((64, 64), model)
        loss(model(**inputs)).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=name)
    _checkpoint(model, "disable")
    assert not _backbone(model).gradient_checkpointing


def test_checkpointing_that_an_architecture_lacks():
    with torch.device("meta"):
        lacking = next(
            f
            for f in FAMILIES
            if not _can_checkpoint(create_feature_backbone(f.name, pretrained=False, extra_kwargs=f.extra_kwargs))
        )
    model = make_model(BY_NAME["Deformable DETR"], RESNET)
    other = AutobackboneModel(_family_config(lacking))
    _checkpoint(model)
    with pytest.raises(UnsupportedError, match="checkpoint"):
        _checkpoint(other)


def _can_checkpoint(backbone):
    try:
        backbone.set_grad_checkpointing()
    except UnsupportedError:
        return False
    return True


def test_freezing_stages_of_the_whole_model():
    model = make_model(RT_DETR, BACKBONES[1])
    freeze_stages(model, 1)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(name.startswith("model.backbone.model.backbone.body.") for name in frozen)
    assert len(frozen) < len(list(_backbone(model).parameters()))
    groups = layer_decay_param_groups(model, lr=1e-3, layer_decay=0.5)
    assert len({group["lr"] for group in groups}) > 5


@pytest.mark.parametrize("backbone", BACKBONES[:2], ids=str)
def test_a_pipeline_with_an_image_processor(backbone, tmp_path):
    model = make_model(RT_DETR, backbone)
    processor = image_processor(RTDetrImageProcessor, model, size={"height": 96, "width": 96})
    spec = _backbone(model).backbone.input_spec
    assert image_processor(RTDetrImageProcessor, model.config).image_mean == processor.image_mean
    image = Image.new("RGB", (100, 80), (200, 100, 50))
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    color = torch.tensor([200, 100, 50]).view(1, 3, 1, 1) / 255
    torch.testing.assert_close(pixels, spec.normalize(color).expand_as(pixels), rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = pipeline("object-detection", model=str(tmp_path), device="cpu")(image, threshold=0.0)
    assert len(found) == 10
    assert all(set(each) == {"score", "label", "box"} for each in found)


def test_an_image_processor_of_a_fixed_size():
    config = _config("coatnet_pico_rw_224", img_size=(96, 128))
    assert image_processor(RTDetrImageProcessor, config).size == {"height": 96, "width": 128}
    with pytest.raises(InputError, match="images of 96x128 only"):
        image_processor(RTDetrImageProcessor, config, size={"height": 96, "width": 96})
    with pytest.raises(ConfigError, match="one backbone of this package in it"):
        image_processor(RTDetrImageProcessor, nn.Linear(1, 1))


# What transformers' own tests/test_backbone_common.py expects of a backbone.


@pytest.mark.parametrize("backbone", BACKBONES, ids=str)
def test_as_transformers_expects_a_backbone(backbone):
    config = backbone.config("masks")
    model = AutoBackbone.from_config(config).eval()
    assert model.stage_names == config.stage_names == ["c2", "c3", "c4", "c5"]
    assert model.out_features == config.out_features == config.stage_names
    assert model.out_indices == config.out_indices == [0, 1, 2, 3]
    assert model.channels == config.channels == config.hidden_sizes
    assert model.num_features == model.channels == list(model.out_feature_channels.values())
    assert next(iter(inspect.signature(model.forward).parameters)) == model.main_input_name == "pixel_values"
    for name in ("out_features", "out_indices"):
        last = copy.deepcopy(config)
        setattr(last, name, None)
        assert (last.out_features, last.out_indices) == (["c5"], [3])
        assert AutobackboneModel(last).channels == model.channels[-1:]
    images = torch.rand(2, 3, 97, 130)
    with torch.no_grad():
        out = model(images)
        assert out.hidden_states is None
        assert out.attentions is None
        assert [y.shape[1] for y in out.feature_maps] == model.channels
        for y, expected in zip(out.feature_maps, model.backbone(images), strict=True):
            assert torch.equal(y, expected)
        as_tuple = model(images, return_dict=False, output_hidden_states=True)
        assert isinstance(as_tuple, tuple)
        assert [len(part) for part in as_tuple] == [4, 4]
        some = copy.deepcopy(config)
        some.out_indices = [1, -1]
        assert some.out_features == ["c3", "c5"]
        fewer = AutobackboneModel(some).eval()
        fewer.load_state_dict(model.state_dict())
        assert fewer.channels == [model.channels[1], model.channels[3]]
        out = fewer(images, output_hidden_states=True)
        assert [len(out.feature_maps), len(out.hidden_states)] == [2, 4]
        assert torch.equal(out.feature_maps[1], out.hidden_states[3])
    again = AutobackboneConfig.from_dict(json.loads(some.to_json_string()))
    assert (again.out_features, again.stage_names) == (some.out_features, some.stage_names)


def test_outputs_of_a_head():
    model = make_model(RT_DETR, BACKBONES[3]).eval()
    images = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        plain = model(images)
        out = model(images, output_hidden_states=True)
        assert len(out.encoder_hidden_states) == len(model(images, output_hidden_states=True).encoder_hidden_states)
        assert torch.equal(out.logits, plain.logits)
        assert isinstance(model(images, return_dict=False), tuple)
    hybrid = make_model(BY_NAME["DPT, hybrid"], BACKBONES[3]).eval()
    with torch.no_grad():
        states = hybrid(torch.rand(1, 3, 96, 96), output_hidden_states=True).hidden_states
    assert {state.shape[-1] for state in states} == {32}  # the head's own, none of the backbone's blocks


@pytest.mark.parametrize("head", ["DETR", "Deformable DETR", "RT-DETR"])
def test_a_pixel_mask_is_read(head):
    model = make_model(BY_NAME[head], RESNET).eval()
    images, mask = torch.rand(1, 3, 96, 128), torch.ones(1, 96, 128, dtype=torch.long)
    mask[:, :, 64:] = 0
    with torch.no_grad():
        plain, full, masked = (
            model(images, **m).logits for m in ({}, {"pixel_mask": mask * 0 + 1}, {"pixel_mask": mask})
        )
    assert torch.equal(plain, full)
    assert torch.equal(plain, masked) == (head == "RT-DETR")  # whose encoder reads none, also with its own backbones


@pytest.mark.parametrize("name", ["test_vit", "test_vit3"])  # which has no class token
def test_tokens_are_the_map(name):
    model = AutobackboneModel(_config(name, out_indices=(1,), layout="tokens")).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        tokens, expected = model(images).feature_maps[0], model.backbone(images)[0]
        patches = AutobackboneModel.forward(_in_layout(model, "patches"), images).feature_maps[0]
        first = model.backbone.forward_tokens(images)[0].prefix.get("class", expected.mean((2, 3))[:, None])
    assert tokens.shape == (2, 25, expected.shape[1])
    assert torch.equal(tokens[:, 1:].transpose(1, 2).reshape(expected.shape), expected)
    torch.testing.assert_close(tokens[:, :1], first)
    assert torch.equal(patches, tokens[:, 1:])


def _in_layout(model, layout):
    model.config = model.config.with_layout(layout)
    return model


def _values(**changes):
    values = _config("test_resnet").to_dict()
    return values | changes


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: _config("resnet19"), UnknownBackboneError, "resnet18"),
        (lambda: _config("resnet18", out_stride=(8,)), ConfigError, "did you mean 'out_strides'"),
        (lambda: _config("resnet18", out_features=("c9",)), ConfigError, "levels of this backbone are 0 'c3', 1 'c4'"),
        (lambda: _config("resnet18", out_features=("c4", "c3")), ConfigError, "in this order"),
        (lambda: _config("resnet18", layout="rows"), ConfigError, "layout must be one of 'maps', 'tokens', 'patches'"),
        (lambda: backbone_config("resnet18", weights="nowhere.pth").create(), WeightsNotFoundError, "nowhere.pth"),
        (lambda: AutobackboneConfig(**_values(out_indices=[7])), ConfigError, "The levels of this backbone are"),
        (lambda: AutobackboneConfig(**_values(layuot="maps")), ConfigError, "no field 'layuot'; did you mean 'layout'"),
        (lambda: AutobackboneConfig(**_values(format=2)), ConfigError, "format 2, and this version .* update this one"),
        (lambda: AutobackboneConfig(**_values(levels=3)), ConfigError, "levels must be a list"),
        (
            lambda: AutobackboneConfig(**_values(backbone={"model_name": "test_resnet", "pretrained": True})),
            ConfigError,
            "names no weights",
        ),
        (
            lambda: AutobackboneConfig(**_values(backbone={"model_name": "test_resnet", "new_field": 1})),
            ConfigError,
            "no field 'new_field'",
        ),
        (
            lambda: AutobackboneConfig(
                **_values(
                    backbone={"model_name": "test_resnet", "extra_kwargs": {"pretrained_cfg_overlay": {"file": "w"}}}
                )
            ),
            ConfigError,
            "pretrained_cfg_overlay",
        ),
        (lambda: AutobackboneConfig(**_values(input={"mean": 3})), WeightsCorruptedError, "mean"),
        (
            lambda: AutobackboneModel(
                AutobackboneConfig(
                    **_values(levels=[{"name": "c3", "channels": 1, "stride": 8}], out_features=None, out_indices=None)
                )
            ),
            ConfigError,
            "says that the levels are",
        ),
        (lambda: AutobackboneModel(AutobackboneConfig()), ConfigError, "names no backbone"),
        (lambda: AutobackboneModel(ResNetConfig()), ConfigError, "got ResNetConfig"),
        (lambda: head_config(RTDetrConfig, ResNetConfig()), ConfigError, "got ResNetConfig"),
        (lambda: head_config(RTDetrConfig, FeatureBackboneConfig()), ConfigError, "got FeatureBackboneConfig"),
        (
            lambda: head_config(ResNetConfig, _config("resnet18")),
            ConfigError,
            "class of a config with a backbone_config",
        ),
        (lambda: head_config(RTDetrConfig, _config("resnet18", out_strides=(8, 16))), ConfigError, "3 levels"),
        (
            lambda: head_config(RTDetrConfig, _config("resnet18", out_strides=(4, 8, 32))),
            ConfigError,
            "twice the stride",
        ),
        (
            lambda: head_config(Mask2FormerConfig, _config("resnet18")),
            ConfigError,
            r"needs the strides \(4, 8, 16, 32\), .* and 'resnet18' gives 128x1/8, 256x1/16, 512x1/32; ",
        ),
        (lambda: head_config(UperNetConfig, _config("resnet18", out_strides=(32,))), ConfigError, "three levels"),
        (lambda: head_config(VitMatteConfig, _config("resnet18")), ConfigError, "last level with the stride 16"),
        (lambda: head_config(DPTConfig, _config("resnet18")), ConfigError, "take a ViT"),
        (lambda: head_config(DPTConfig, "resnet18"), ConfigError, "take a ViT"),
        (
            lambda: head_config(RTDetrConfig, _config("resnet18"), encoder_in_channels=[1, 2, 3]),
            ConfigError,
            r"contradicts the backbone, .* encoder_in_channels=\[128, 256, 512\]",
        ),
        (
            lambda: head_config(RTDetrConfig, _config("resnet18"), backbone_config={}),
            ConfigError,
            "second argument",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"output_attentions": True}, UnsupportedError, "output_attentions=True"),
        ({"pixel_mask": torch.ones(1, 64, 64)}, UnsupportedError, "pixel_mask=: .* leave it out"),
        ({"pixel_values": torch.rand(3, 64, 64)}, InputError, "4"),
    ],
)
def test_bad_calls(arguments, error, message):
    model = AutobackboneModel(_config("test_resnet"))
    with pytest.raises(error, match=message):
        model.forward_with_filtered_kwargs(**({"pixel_values": torch.rand(1, 3, 64, 64)} | arguments))


def test_sizes_that_are_no_whole_patches():
    model = AutobackboneModel(_config("test_vit", out_indices=(1,), layout="tokens"))
    with pytest.raises(InputSizeError, match="multiples of 16"):
        model(torch.rand(1, 3, 65, 64))


def test_a_name_alone(monkeypatch):
    """The levels are those that the head needs, the weights the published ones."""
    asked = []
    monkeypatch.setattr(
        "autobackbone.integrations.transformers.heads.backbone_config",
        lambda name, **fields: asked.append(fields) or backbone_config(name, pretrained=False, **fields),
    )
    for head in HEADS:
        name = "vit_tiny_patch16_224" if head.levels == "quarters" else "resnet18"
        head.model(head_config(head.config, name, **head.fields))
    assert {tuple(fields.get("out_strides", ())) for fields in asked} >= {(8, 16, 32), (4, 8, 16, 32), (16,), ()}
