"""`torch:` sources for gpu.py: parts of the space OFA-MobileNetV3 with random weights, for 1,000 classes.

Nothing was trained. Statistics of normalisations are taken from a few coarse images and logits scaled, so
that signals do not vanish, and confidences differ from image to image as those of real networks do.
"""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encas.search.nat import SPACES, Supernet

SPACE = SPACES["ofa-mbv3-w1.0"]
N_CLASSES = 1000
NAMES = ("small", "middle", "large")
SIDE = int(os.environ.get("ENCAS_GPU_SIDE", "224"))  # of the images; smaller ones to try it on a CPU


def coarse_images(n: int) -> np.ndarray:
    """(n, side, side, 3) of 4 x 4 random colours."""
    colours = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), np.uint8)
    return colours.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)


class _Scaled(nn.Module):
    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.network(images)


def __getattr__(name: str) -> Any:
    """Give a function for each of the names."""
    if name not in NAMES:
        raise AttributeError(name)
    return lambda: _network(name)


def _network(name: str) -> Any:
    arch = {
        "small": SPACE.smallest,
        "middle": SPACE.sample(np.random.default_rng(0)),
        "large": SPACE.largest,
    }[name]
    supernet = Supernet(SPACE, N_CLASSES, torch.Generator().manual_seed(0)).eval()
    network = supernet.extract(arch)
    images = torch.from_numpy(coarse_images(16)).permute(0, 3, 1, 2) / 127.5 - 1
    for module in network.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
        factor = 3 / network.eval()(images).std(1).mean().item()
    data = {"size": SIDE, "crop_pct": 1.0, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    return _Scaled(network, factor), data
