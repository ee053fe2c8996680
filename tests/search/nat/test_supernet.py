"""What an elastic network, and the networks that are extracted from it, have in common."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from encas.errors import InvalidInput
from encas.search.nat.network import BatchNorm, Block
from encas.search.nat.spaces import SPACES
from encas.search.nat.supernet import Supernet

from .nets import images, random_supernet

TINY = [name for name in SPACES if name.startswith("tiny")]
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in SPACES if name not in TINY]


def params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TINY, *LARGE])
def test_a_part_of_the_supernet_answers_bit_for_bit_as_the_network_extracted_from_it(name: str) -> None:
    space, rng = SPACES[name], np.random.default_rng(0)
    supernet = random_supernet(space)
    seen = []
    for arch in [space.smallest, space.largest, *(space.sample(rng) for _ in range(2))]:
        batch = images(2, arch.resolution)
        with torch.no_grad():
            elastic, plain = supernet(batch, arch), supernet.extract(arch)(batch)
        assert torch.equal(elastic, plain)
        seen.append(plain)
    assert torch.isfinite(torch.stack(seen)).all()
    assert len({answers.sum().item() for answers in seen}) == len(seen)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_part_is_trained_as_the_network_extracted_from_it(name: str) -> None:
    space = SPACES[name]
    arch = space.sample(np.random.default_rng(5))
    supernet = random_supernet(space).train()
    extracted = supernet.extract(arch).train()
    batch, labels = images(4, arch.resolution), torch.arange(4)
    for network, loss in (
        (supernet.net, F.cross_entropy(supernet(batch, arch), labels)),
        (extracted, F.cross_entropy(extracted(batch), labels)),
    ):
        network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
    shared, own = dict(supernet.net.named_parameters()), dict(extracted.named_parameters())
    for key, parameter in own.items():
        if "depth.conv" in key:  # their gradients flow through the kernel matrices
            continue
        part = shared[key].grad
        assert part is not None and parameter.grad is not None
        inside = part[tuple(slice(size) for size in parameter.shape)]
        torch.testing.assert_close(inside, parameter.grad, rtol=1e-5, atol=1e-7)
        part[tuple(slice(size) for size in parameter.shape)] = 0
        assert not part.any()  # nothing outside is touched
    means = dict(supernet.net.named_buffers())
    for key, buffer in extracted.named_buffers():
        whole = means[key]
        torch.testing.assert_close(whole[: len(buffer)] if buffer.ndim else whole, buffer)


@pytest.mark.parametrize(
    ("name", "n_params", "least", "most"),
    [
        ("ofa-mbv3-w1.0", 7_678_880, 3.41, 7.66),
        ("ofa-mbv3-w1.2", 10_715_752, 4.60, 10.70),
        ("ofa-proxyless-w1.3", 7_956_882, 3.72, 7.94),
        ("alphanet", 23_404_656, 8.95, 23.40),
    ],
)
@pytest.mark.slow
def test_there_are_as_many_parameters_as_in_the_originals(
    name: str, n_params: int, least: float, most: float
) -> None:
    space = SPACES[name]
    supernet = Supernet(space, 1000, torch.Generator())
    assert params(supernet) == n_params
    ends = [params(supernet.extract(arch)) / 1e6 for arch in (space.smallest, space.largest)]
    assert [round(end, 2) for end in ends] == [least, most]


@pytest.mark.slow
def test_kernels_pass_through_the_middle_size_and_are_cropped_after_each_matrix() -> None:
    supernet = random_supernet(SPACES["ofa-mbv3-w1.0"])
    block = supernet.net.get_submodule("stages.1.0")
    assert isinstance(block, Block)
    conv = block.depth.conv
    large = conv.weight[:5]
    middle = (large[:, 0, 1:6, 1:6].reshape(5, 25) @ conv.matrices["7to5"].T).reshape(5, 5, 5)
    small = (middle[:, 1:4, 1:4].reshape(5, 9) @ conv.matrices["5to3"].T).reshape(5, 1, 3, 3)
    torch.testing.assert_close(conv.cut(5, 3)["weight"], small)
    assert torch.equal(conv.cut(5, 7)["weight"], large)


@pytest.mark.slow
def test_without_matrices_small_kernels_are_the_centres() -> None:
    supernet = random_supernet(SPACES["alphanet"])
    block = supernet.net.get_submodule("stages.1.0")
    assert isinstance(block, Block) and not block.depth.conv.matrices
    assert torch.equal(block.depth.conv.cut(5, 3)["weight"], block.depth.conv.weight[:5, :, 1:4, 1:4])


def test_a_new_head_is_small_and_unbiased_and_nothing_else_changes() -> None:
    supernet = random_supernet(SPACES["tiny-mbv3-w1.0"])
    before = {key: tensor.clone() for key, tensor in supernet.state_dict().items()}
    supernet.draw_head(100, torch.Generator().manual_seed(1))
    after = supernet.state_dict()
    assert {key for key in after if not torch.equal(after[key], before[key])} == {
        "net.classifier.weight",
        "net.classifier.bias",
    }
    head = supernet.net.classifier
    assert supernet.n_classes == 100 and head.weight.shape == (100, 256) and not head.bias.any()
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.02)


def test_the_same_seed_draws_the_same_weights_and_leaves_torchs_own_generator_alone() -> None:
    state = torch.get_rng_state()
    one, other = (Supernet(SPACES["tiny-alphanet"], 10, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_impossible_architecture_is_refused_before_anything_runs() -> None:
    supernet = Supernet(SPACES["tiny-mbv3-w1.0"], 10, torch.Generator())
    wrong = replace(SPACES["tiny-mbv3-w1.0"].smallest, stem=15)
    for use in (supernet.extract, lambda arch: supernet(images(1, 16), arch)):
        with pytest.raises(InvalidInput, match=r"tiny-mbv3-w1\.0: stem width 15 is impossible; must be 16"):
            use(wrong)


def test_a_classifier_of_one_class_is_a_slip() -> None:
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        Supernet(SPACES["tiny-mbv3-w1.0"], 1, torch.Generator())


def test_an_extracted_network_shares_no_memory() -> None:
    supernet = random_supernet(SPACES["tiny-mbv3-w1.0"])
    before = {key: tensor.clone() for key, tensor in supernet.state_dict().items()}
    for tensor in supernet.extract(SPACES["tiny-mbv3-w1.0"].largest).state_dict().values():
        tensor.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in supernet.state_dict().items())


def test_cumulative_statistics_of_a_part_are_the_mean_over_its_batches() -> None:
    norm = BatchNorm(4, momentum=None).train()
    nn.init.ones_(norm.weight), nn.init.zeros_(norm.bias)
    norm.reset_running_stats()
    for value in (1.0, 3.0):
        norm(torch.full((2, 3, 2, 2), value))
    assert norm.running_mean is not None and norm.running_mean.tolist() == [2.0, 2.0, 2.0, 0.0]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
def test_memory_does_not_grow_over_ten_thousand_architectures() -> None:
    space, rng = SPACES["tiny-proxyless"], np.random.default_rng(0)
    supernet, batch = random_supernet(space), images(1, 16)
    known: set[int] = set()
    held = {}
    with torch.inference_mode():
        while len(known) < 10_000:
            arch = space.sample(rng)
            known.add(hash(arch))
            supernet(batch, arch)
            if len(known) in (3_000, 10_000):
                gc.collect()
                held[len(known)] = (len(gc.get_objects()), resident_bytes())
    (objects, size), (more_objects, larger) = held[3_000], held[10_000]
    assert more_objects - objects < 1_000
    assert larger - size < 8 * 2**20
