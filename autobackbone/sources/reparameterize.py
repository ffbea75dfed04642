"""Branches that are trained apart and computed as one layer, as the architectures themselves join them."""

import torch
from timm.utils import reparameterize_model
from torch import nn

from autobackbone.errors import UnsupportedError
from autobackbone.sources.meta import FAILURES


def reparameterize(network: nn.Module) -> None:
    """Join the branches of a network in place, where its architecture does so for inference: RepVGG's and the like.

    Raises
    ------
    UnsupportedError
        If the architecture's own code fails, as it does on branches that were joined before.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    with torch.no_grad(), torch.device(device):  # some architectures make the joined layer on the default device
        try:
            reparameterize_model(network, inplace=True)
        except FAILURES as err:
            kind = type(network).__name__
            msg = f"timm's {kind} cannot join its branches for inference: {err}. Leave joining them to this package."
            raise UnsupportedError(msg) from err
