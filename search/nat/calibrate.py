"""Running statistics for one network, without which its answers mean nothing.

The shared statistics of a supernetwork are a mixture over architectures: with them, accuracy is close to
chance. So a network is evaluated after its own were computed, from training images prepared as others.

Both published estimators let every layer normalise by the statistics of the batch, and average what they see:

* mean: each batch counts the same, and its variance is the unbiased one. What PyTorch does with
  `momentum=None`, and AttentiveNAS and AlphaNet with it.
* pooled: each image counts the same, and the variance of a batch is the biased one. What once-for-all does.

With equal batches the variances differ by the factor n / (n - 1), n being the numbers of one channel in a
batch: less than 1 in 1,000 except for the last layers and small batches.
"""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encas.search.nat.network import Net
from encas.search.nat.space import Arch
from encas.search.nat.supernet import Supernet

Estimator = Literal["mean", "pooled"]


def answers(
    supernet: Supernet,
    arch: Arch,
    images: Iterable[Tensor],
    *,
    calibration: Iterable[Tensor],
    estimator: Estimator = "mean",
) -> NDArray[np.float32]:
    """(n, c) softmax outputs of an architecture for batches of images, after calibration on others."""
    net = calibrated(supernet, arch, calibration, estimator)
    device = net.classifier.weight.device
    with torch.inference_mode():
        probs = [torch.softmax(net(batch.to(device)).float(), dim=1).cpu() for batch in images]
    return np.concatenate([batch.numpy() for batch in probs])


def calibrated(
    supernet: Supernet, arch: Arch, batches: Iterable[Tensor], estimator: Estimator = "mean"
) -> Net:
    """Extract an architecture with running statistics of its own, from (n, 3, height, width) batches."""
    net = supernet.extract(arch)
    calibrate(net, batches, estimator)
    return net


@torch.no_grad()
def calibrate(net: nn.Module, batches: Iterable[Tensor], estimator: Estimator = "mean") -> None:
    """Replace the running statistics of all batch normalisations; no weight changes.

    Raises:
        ValueError: There is no batch.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    totals = [_Totals(estimator) for _ in norms]
    momenta = [norm.momentum for norm in norms]
    was_training, device = net.training, next(net.parameters()).device
    hooks = [norm.register_forward_hook(total.collect) for norm, total in zip(norms, totals, strict=True)]
    net.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the running statistics are then those of the last batch
    try:
        for batch in batches:
            net(batch.to(device))
    finally:
        net.train(was_training)
        for norm, momentum, hook in zip(norms, momenta, hooks, strict=True):
            norm.momentum = momentum
            hook.remove()
    for norm, total in zip(norms, totals, strict=True):
        total.write(norm)


class _Totals:
    """Weighted sums of what one layer has seen."""

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = estimator
        self.weight = 0
        self.mean: Tensor | float = 0.0
        self.var: Tensor | float = 0.0

    def collect(self, norm: Any, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        """Add a batch; a forward hook."""
        given = inputs[0]
        n = given.numel() // given.shape[1]
        pooled = self.estimator == "pooled"
        weight, factor = (len(given), (n - 1) / n) if pooled else (1, 1.0)
        self.weight += weight
        self.mean = self.mean + weight * norm.running_mean.double()
        self.var = self.var + weight * factor * norm.running_var.double()

    def write(self, norm: nn.BatchNorm2d) -> None:
        if self.weight == 0:
            raise ValueError("calibration needs at least one batch of images")
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(torch.as_tensor(self.mean / self.weight))
        norm.running_var.copy_(torch.as_tensor(self.var / self.weight))
