"""Comparison with the original of once-for-all, with random kernel matrices and statistics."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from encas.search.nat.checkpoint import read_official, translated
from encas.search.nat.macs import count_macs
from encas.search.nat.space import Arch
from encas.search.nat.spaces import SPACES
from encas.search.nat.supernet import Supernet

from .nets import disturb, images

networks = pytest.importorskip("ofa.imagenet_classification.elastic_nn.networks")
BUILDERS = {
    "ofa-mbv3-w1.0": (networks.OFAMobileNetV3, 1.0),
    "ofa-mbv3-w1.2": (networks.OFAMobileNetV3, 1.2),
    "ofa-proxyless-w1.3": (networks.OFAProxylessNASNets, 1.3),
}


def original(name: str) -> Any:
    builder, width = BUILDERS[name]
    torch.manual_seed(1)  # the original draws its weights from the common generator
    lists = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
    net = builder(n_classes=10, dropout_rate=0, width_mult=width, **lists)
    disturb(net, torch.Generator().manual_seed(1))
    return net


def activate(net: Any, name: str, arch: Arch) -> None:
    """Set an architecture; the original wants settings for blocks that do not run, too."""
    elastic = list(zip(SPACES[name].stages, arch.stages, strict=True))[1:]
    kernels, expands = [], []
    for stage, chosen in elastic:
        missing = [3] * (stage.depths[-1] - len(chosen.kernels))
        kernels += [*chosen.kernels, *missing]
        expands += [*chosen.expands, *missing]
    net.set_active_subnet(ks=kernels, e=expands, d=[len(chosen.kernels) for _, chosen in elastic])


def gradients(net: nn.Module) -> dict[str, torch.Tensor]:
    named = net.named_parameters()
    return {key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in named}


def both(name: str, folder: Path) -> tuple[Any, Supernet]:
    theirs = original(name)
    torch.save({"state_dict": theirs.state_dict()}, folder / "official")
    return theirs, read_official(folder / "official", SPACES[name], 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_outputs_are_those_of_the_original(name: str, tmp_path: Path) -> None:
    rng, (theirs, ours) = np.random.default_rng(2), both(name, tmp_path)
    theirs.eval(), ours.eval()
    seen = []
    for index in range(10):
        arch, batch = SPACES[name].sample(rng), images(3, 64, seed=index)
        activate(theirs, name, arch)
        with torch.no_grad():
            seen.append(theirs(batch))
            torch.testing.assert_close(ours(batch, arch), seen[-1], rtol=0, atol=1e-6)
    assert float(torch.stack(seen).std()) > 0.02  # or the bound would say little


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_gradients_and_statistics_are_those_of_the_original(name: str, tmp_path: Path) -> None:
    """In float64: normalisation amplifies what float32 rounds, and gradients here are up to 20."""
    rng, (theirs, ours) = np.random.default_rng(3), both(name, tmp_path)
    theirs.double().train(), ours.double().train()
    for index in range(10):
        arch, batch, labels = SPACES[name].sample(rng), images(3, 64, seed=index).double(), torch.arange(3)
        activate(theirs, name, arch)
        theirs.zero_grad()
        ours.zero_grad()
        F.cross_entropy(theirs(batch), labels).backward()  # type: ignore[no-untyped-call]
        F.cross_entropy(ours(batch, arch), labels).backward()  # type: ignore[no-untyped-call]
        found = gradients(ours.net)
        for key, gradient in translated(gradients(theirs), SPACES[name], "original").items():
            torch.testing.assert_close(found[key], gradient, rtol=0, atol=1e-6, msg=key)
        statistics = translated(dict(theirs.named_buffers()), SPACES[name], "original")
        for key, buffer in ours.net.named_buffers():
            torch.testing.assert_close(buffer, statistics[key], rtol=0, atol=1e-12, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_the_original_costs_what_we_count(name: str) -> None:
    theirs, arch = original(name), SPACES[name].sample(np.random.default_rng(4))
    activate(theirs, name, arch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        subnet = theirs.get_active_subnet().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        subnet(images(1, arch.resolution))
    assert counter.get_total_flops() == 2 * count_macs(SPACES[name], arch, 10)
