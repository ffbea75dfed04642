"""What each of two processes does: the gradients of half a batch under DDP or FSDP2, and the state dict afterwards.

python worker.py RANK FOLDER
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from autobackbone import FeaturePyramid, create_feature_backbone, freeze_stages, get_blocks

# Name, arguments, stages to freeze, whether to checkpoint.
CASES = {
    "cnn": ("test_resnet", {}, None, False),
    "cnn, frozen": ("test_resnet", {}, 1, True),
    "vit": ("test_vit", {"pyramid": "simple", "pyramid_channels": 16}, None, True),
    "vit, frozen": ("test_vit", {}, 2, True),
    "dinov3": ("dinov3_vits16", {"extra_kwargs": {"num_hidden_layers": 3}}, 1, True),
    "dinov3 convnext": ("dinov3_convnext_tiny", {"extra_kwargs": {"depths": [1, 1, 1, 1]}}, None, True),
}


def make(case):
    """Return the backbone of a case with an FPN on it: the same in every process."""
    name, arguments, frozen, checkpointed = CASES[case]
    torch.manual_seed(0)
    model = FeaturePyramid(create_feature_backbone(name, pretrained=False, **arguments), out_channels=8)
    if frozen is not None:
        freeze_stages(model.backbone, frozen)
    model.backbone.set_grad_checkpointing(checkpointed)
    return model.eval()  # batch norms would see half of the batch


def images():
    """Return a batch for two processes."""
    return torch.randn(4, 3, 97, 130, generator=torch.Generator().manual_seed(1))


def step(model, x):
    """Return the loss of a batch, after its gradients."""
    loss = torch.stack([y.square().mean() for y in model(x).values()]).sum()
    loss.backward()
    return loss.item()


def main(rank, folder):
    """Run every case, and save what rank 0 has."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
    mesh = dist.init_device_mesh("cpu", (2,))
    half = images()[2 * rank : 2 * rank + 2]
    results = {}
    for case in CASES:
        plain = make(case)
        model = DistributedDataParallel(plain)  # an unused parameter would be an error in the second step
        step(model, half)
        model.zero_grad()
        step(model, half)
        grads = {name: p.grad.clone() for name, p in plain.named_parameters() if p.requires_grad}
        results["ddp", case] = grads, model.state_dict()

        model = make(case)
        for block in get_blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        step(model, half)
        grads = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.requires_grad}
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        results["fsdp", case] = grads, state
    if rank == 0:
        torch.save(results, folder / "results.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    main(int(sys.argv[1]), Path(sys.argv[2]))
