"""Saving replaces what a folder holds as one: killed, failing, or beside another process."""

import json
import subprocess
import sys
import textwrap

import pytest
import timm
import torch
import torch.nn.utils.prune
from filelock import FileLock
from safetensors.torch import load_file, save_file

from autobackbone import (
    FeatureBackbone,
    WeightsCorruptedError,
    WeightsError,
    WeightsNotFoundError,
    create_feature_backbone,
)

# Saves over what a folder holds, killed by the system at each change that is made in the folder, one after the other.
KILLED = """
    import json, os, shutil, signal, sys
    from pathlib import Path

    import torch
    from safetensors.torch import save_file

    from autobackbone import BackboneError, FeatureBackbone, create_feature_backbone

    CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.unlink", "os.truncate", "os.link"}
    base = Path(sys.argv[1])


    def make(*strides):
        return create_feature_backbone("test_resnet", pretrained=False, out_strides=strides)


    def save(backbone, folder, last):
        count = 0

        def hook(event, args):
            nonlocal count
            writes = event == "open" and (args[2] & (os.O_WRONLY | os.O_RDWR))
            if (event in CHANGES or writes) and any(str(folder) in str(arg) for arg in args):
                count += 1
                if count == last:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        backbone.save_pretrained(folder)
        os._exit(0)


    def outcome(folder, old, new):
        try:
            again = FeatureBackbone.from_pretrained(folder)
        except BackboneError as err:
            return type(err).__name__
        state = again.state_dict()
        for name, it in (("old", old), ("new", new)):
            if it.strides == again.strides and all(torch.equal(state[k], v) for k, v in it.state_dict().items()):
                return name
        return "mixed"


    def outcomes(kind, before, old, new):
        for last in range(1, 100):
            folder = base / f"{kind} {last}"
            if before is not None:
                shutil.copytree(before, folder)
            child = os.fork()
            if child == 0:
                save(new, folder, last)
            killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
            yield outcome(folder, old, new)
            if not killed:
                return
            if last % 3 == 0:
                new.save_pretrained(folder)  # removes what was left
                assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]
                assert "next" not in json.loads((folder / "config.json").read_text())
                assert outcome(folder, old, new) == "new"


    torch.set_num_threads(1)
    old, same, new = make(4), make(4), make(8, 4)
    old.save_pretrained(base / "old")
    new.save_pretrained(base / "new")
    shutil.copytree(base / "old", base / "no id")  # as it was saved before there were ids
    save_file(old.state_dict(), base / "no id" / "model.safetensors")
    values = json.loads((base / "old/config.json").read_text())
    (base / "no id" / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k != "id"}))
    shutil.copytree(base / "new", base / "cut off")  # between the switch and the config
    following = json.loads((base / "new/config.json").read_text())
    (base / "cut off" / "config.json").write_text(json.dumps(values | {"next": following}))
    print(json.dumps({
        kind: list(outcomes(kind, before, *pair))
        for kind, before, pair in (
            ("another config", base / "old", (old, new)),
            ("same config", base / "old", (old, same)),
            ("without id", base / "no id", (old, new)),
            ("after a kill", base / "cut off", (new, old)),
            ("nothing", None, (old, new)),
        )
    }))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_killed_at_any_moment(tmp_path):
    code = textwrap.dedent(KILLED)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for kind, outcomes in json.loads(done.stdout).items():
        assert len(outcomes) > 8
        assert set(outcomes) == {"WeightsNotFoundError" if kind == "nothing" else "old", "new"}, kind
        assert outcomes == sorted(outcomes, key=lambda outcome: outcome == "new"), kind  # once it is new, it stays so


def test_what_killed_saves_left_is_removed_and_what_others_use_is_not(tmp_path):
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    for name in ("left", "used"):
        (tmp_path / f".saving-{name}").mkdir()
        (tmp_path / f".saving-{name}" / "model.safetensors").write_bytes(b"0" * 1000)
    (tmp_path / "mine.txt").write_text("mine")
    with FileLock(tmp_path / ".saving-used" / "lock"):
        backbone.save_pretrained(tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md", "mine.txt", ".saving-used"}
    backbone.save_pretrained(tmp_path)
    assert not (tmp_path / ".saving-used").exists()


def test_files_of_two_saves(tmp_path):
    """Files that were put together by hand are told, unless they say the same."""
    one = create_feature_backbone("test_resnet", pretrained=False, out_strides=(8,))
    other = create_feature_backbone("test_resnet", pretrained=False, out_strides=(4,))
    one.save_pretrained(tmp_path / "one")
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "config.json").replace(tmp_path / "one" / "config.json")
    with pytest.raises(WeightsCorruptedError, match=r"and the weights of '.*one' were not saved together"):
        FeatureBackbone.from_pretrained(tmp_path / "one")
    assert FeatureBackbone.from_pretrained(tmp_path / "one", weights=str(tmp_path / "one")).strides == (4,)

    save_file(one.state_dict(), tmp_path / "one" / "model.safetensors")  # by other means: there is one config only
    assert FeatureBackbone.from_pretrained(tmp_path / "one", out_strides=(8,)).weights_report.coverage == 1


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    old = create_feature_backbone("test_resnet", pretrained=False, out_strides=(4,))
    new = create_feature_backbone("test_resnet", pretrained=False, out_strides=(8,))
    old.save_pretrained(tmp_path / "saved")
    before = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    (tmp_path / "saved" / "model.safetensors").unlink()
    (tmp_path / "saved" / "model.safetensors").mkdir()  # the switch cannot be made
    with pytest.raises(WeightsError, match="could not be saved to"):
        new.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").rmdir()
    assert {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()} == {
        name: content for name, content in before.items() if name != "model.safetensors"
    }

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("autobackbone.weights.saved_files.save_file", full)
    with pytest.raises(WeightsError, match="No space left"):
        new.save_pretrained(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_over_a_folder_of_timms(tmp_path):
    """Other libraries' files are replaced like our own."""
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path, safe_serialization=True)
    with pytest.raises(WeightsCorruptedError, match="is not that of a saved backbone"):
        FeatureBackbone.from_pretrained(tmp_path)
    backbone = create_feature_backbone(f"local-dir:{tmp_path}")
    backbone.save_pretrained(tmp_path)
    state = FeatureBackbone.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(state[name], value) for name, value in backbone.state_dict().items())


class State(torch.nn.Module):
    """Something that keeps what is no tensor."""

    def get_extra_state(self):
        return {"scale": 3}

    def set_extra_state(self, state):
        pass

    def forward(self, x):
        return x


class Adapted(torch.nn.Module):
    """A layer with a low-rank adapter, as others' libraries wrap it."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = torch.nn.Conv2d(base_layer.in_channels, 2, 1)
        self.lora_B = torch.nn.Conv2d(2, base_layer.out_channels, 1)


class Codes(torch.Tensor):
    """A tensor that stands for others, as torchao's do."""


def replace_weight(conv, make):
    conv.weight = torch.nn.Parameter(make(conv.weight.detach()), requires_grad=False)


SPOILED = {
    "extra state": lambda net: setattr(net, "act1", State()),
    "adapter": lambda net: setattr(net.conv1, "0", Adapted(net.conv1[0])),
    "weight norm": lambda net: torch.nn.utils.parametrizations.weight_norm(net.conv1[0]),
    "spectral norm": lambda net: torch.nn.utils.parametrizations.spectral_norm(net.conv1[0]),
    "pruned": lambda net: torch.nn.utils.prune.l1_unstructured(net.conv1[0], "weight", amount=0.3),
    "a head": lambda net: setattr(net, "head", torch.nn.Linear(2, 2)),
    "a compiled part": lambda net: setattr(net, "layer1", torch.compile(net.layer1)),
    "another width": lambda net: setattr(net.conv1, "0", torch.nn.Conv2d(3, 17, 3, bias=False)),
    "a layer less": lambda net: setattr(net, "layer1", torch.nn.Identity()),
    "integers": lambda net: replace_weight(net.conv1[0], lambda w: (100 * w).to(torch.int8)),
    "complex numbers": lambda net: replace_weight(net.conv1[0], lambda w: w.to(torch.complex64)),
    "a subclass": lambda net: replace_weight(net.conv1[0], lambda w: w.as_subclass(Codes)),
    "sparse": lambda net: replace_weight(net.conv1[0], torch.Tensor.to_sparse),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_would_not_be_loaded_again_is_refused(how, tmp_path):
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    SPOILED[how](backbone.body.model)
    with pytest.raises(WeightsError, match="Nothing was saved"):
        backbone.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(WeightsError, match="Nothing was saved"):
        backbone.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*:DeprecationWarning", "ignore:.*quantiz.*:UserWarning")
def test_quantized_layers_are_refused(tmp_path):
    backbone = create_feature_backbone("test_vit", pretrained=False)
    quantized = torch.ao.quantization.quantize_dynamic(backbone.eval(), {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.raises(WeightsError, match="Nothing was saved"):
        quantized.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def spread(backbone):
    for parameter in backbone.parameters():
        parameter.data = torch.stack([parameter.data, parameter.data], -1)[..., 0]


def flatten(backbone):
    flat = torch.cat([p.detach().flatten() for p in backbone.parameters()])
    parts = flat.split([p.numel() for p in backbone.parameters()])
    for parameter, part in zip(backbone.parameters(), parts, strict=True):
        parameter.data = part.view(parameter.shape)


def expand(backbone):
    norm = backbone.body.model.bn1
    norm.weight.data = torch.full((1,), 0.5).expand(norm.weight.shape)


CHANGED = {
    "channels last": lambda backbone: backbone.to(memory_format=torch.channels_last),
    "not contiguous": spread,
    "views of one storage": flatten,
    "expanded": expand,
    "tied": lambda backbone: setattr(
        backbone.body.model.layer3[0].bn2, "weight", backbone.body.model.layer3[0].bn1.weight
    ),
    "bfloat16": lambda backbone: backbone.to(torch.bfloat16),
    "float16": lambda backbone: backbone.to(torch.float16),
    "synchronized norms": torch.nn.SyncBatchNorm.convert_sync_batchnorm,
    "frozen": lambda backbone: backbone.requires_grad_(requires_grad=False),
}


@pytest.mark.parametrize("how", CHANGED)
def test_what_is_saved_is_loaded_equal(how, tmp_path):
    backbone = create_feature_backbone("test_resnet", pretrained=False, in_chans=4)
    backbone = CHANGED[how](backbone) or backbone
    backbone.save_pretrained(tmp_path)
    file, state = load_file(tmp_path / "model.safetensors"), FeatureBackbone.from_pretrained(tmp_path).state_dict()
    assert state.keys() == backbone.state_dict().keys()
    for name, value in backbone.state_dict().items():
        assert file[name].dtype == value.dtype
        assert torch.equal(file[name], value)
        assert torch.equal(state[name], value.to(state[name].dtype))


def test_saving_changes_nothing_else(tmp_path):
    """A backbone is made once more to compare with, on the meta device."""
    backbone = create_feature_backbone("test_resnet", pretrained=False)
    before = torch.get_rng_state()
    modes = [module.training for module in backbone.modules()]
    backbone.save_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in backbone.modules()] == modes
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for _ in range(5):
        backbone.save_pretrained(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_a_folder_with_weights_and_no_config(tmp_path):
    create_feature_backbone("test_resnet", pretrained=False).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"holds no config.json"):
        FeatureBackbone.from_pretrained(tmp_path)
