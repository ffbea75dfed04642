"""Two processes compute what one does with the whole batch, under DDP and FSDP2."""

import contextlib
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import worker
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import fully_shard

from autobackbone import WeightsError, create_feature_backbone, get_blocks, load_weights


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    logs = [folder / f"{rank}.log" for rank in (0, 1)]
    with contextlib.ExitStack() as stack:
        processes = []
        for rank, log in enumerate(logs):
            command = [sys.executable, worker.__file__, str(rank), str(folder)]
            output = stack.enter_context(log.open("w"))
            processes.append(stack.enter_context(subprocess.Popen(command, stdout=output, stderr=output)))
            stack.callback(processes[-1].kill)
        statuses = [process.wait(timeout=300) for process in processes]
    assert statuses == [0, 0], "\n".join(log.read_text() for log in logs)
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize("case", worker.CASES)
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_gradients_are_those_of_one_process(results, engine, case):
    model = worker.make(case)
    worker.step(model, worker.images())
    grads, _ = results[engine, case]
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert grads.keys() == expected.keys()
    assert any(name.startswith("backbone.body") for name in grads)
    for name, grad in expected.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-3, atol=1e-3 * float(grad.abs().max()), msg=name)


@pytest.mark.parametrize("case", worker.CASES)
def test_state_dicts_load_into_a_plain_model(results, case):
    for engine, prefix in (("ddp", "module."), ("fsdp", "")):
        _, state = results[engine, case]
        model = worker.make(case)
        model.load_state_dict({name.removeprefix(prefix): value for name, value in state.items()})


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_small_patch16_dinov3", "dinov3_vits16"])
def test_meta_then_shards_then_a_state_dict(name):
    """The way models are loaded that are too large for one device: tables of positions are those of a plain model."""
    plain = create_feature_backbone(name, pretrained=False, out_strides=(16,)).eval()
    with torch.device("meta"):
        late = create_feature_backbone(name, pretrained=False, out_strides=(16,)).eval()
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        for block in get_blocks(late):
            fully_shard(block, mesh=mesh)
        fully_shard(late, mesh=mesh)
        late.to_empty(device="cpu")
        for buffer in late.buffers():
            buffer.fill_(float("nan") if buffer.is_floating_point() else 77)
        set_model_state_dict(late, plain.state_dict(), options=StateDictOptions(full_state_dict=True))
        with torch.no_grad():
            x = torch.rand(1, 3, 97, 130)
            torch.testing.assert_close(late(x), plain(x))
    finally:
        dist.destroy_process_group()


def test_shards_are_neither_saved_nor_loaded_as_if_they_were_whole(tmp_path):
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        backbone = worker.make("vit").backbone
        backbone.save_pretrained(tmp_path / "whole")
        fully_shard(backbone, mesh=dist.init_device_mesh("cpu", (1,)))
        with pytest.raises(WeightsError, match="take the full state dict"):
            backbone.save_pretrained(tmp_path / "shard")
        with pytest.raises(WeightsError, match="sharded over processes cannot be loaded"):
            load_weights(backbone, tmp_path / "whole")
    finally:
        dist.destroy_process_group()
    assert not (tmp_path / "shard").exists()
