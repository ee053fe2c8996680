"""Supernetworks whose weights and statistics are all random, so that no mistake cancels out."""

import torch
from torch import Tensor

from encas.search.nat.space import Space
from encas.search.nat.supernet import Supernet


def disturb(network: torch.nn.Module, generator: torch.Generator) -> None:
    """Move everything away from its start: identity matrices and zeros would hide mistakes."""
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.data = 1 + 0.1 * noise.clamp(-3, 3)
        elif tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1]:  # kernel matrices
            tensor.data = tensor.data + 0.1 * noise
        else:
            tensor.data = tensor.data + 0.02 * noise


def random_supernet(space: Space, n_classes: int = 10, seed: int = 0) -> Supernet:
    generator = torch.Generator().manual_seed(seed)
    supernet = Supernet(space, n_classes, generator)
    disturb(supernet, generator)
    return supernet.eval()


def images(n: int, resolution: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, resolution, resolution, generator=torch.Generator().manual_seed(seed))
