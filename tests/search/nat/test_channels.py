"""Sorting channels: what the largest network computes stays, and narrow networks get the best of it."""

import pytest
import torch

from encas.search.nat.channels import sort_channels
from encas.search.nat.network import Block
from encas.search.nat.spaces import SPACES

from .nets import images, random_supernet

OFA = [
    "tiny-mbv3-w1.0",
    "tiny-mbv3-w1.2",
    "tiny-proxyless",
    pytest.param("ofa-mbv3-w1.0", marks=pytest.mark.slow),
    pytest.param("ofa-proxyless-w1.3", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", OFA)
@pytest.mark.parametrize("training", [False, True])
def test_the_largest_network_computes_what_it_did(name: str, training: bool) -> None:
    space = SPACES[name]
    supernet, batch = random_supernet(space).train(training), images(3, space.largest.resolution)
    with torch.no_grad():
        smallest = supernet(batch, space.smallest)
        # Training moves the running statistics, so both answers come from the same ones.
        state = {key: tensor.clone() for key, tensor in supernet.state_dict().items()}
        before = supernet(batch, space.largest)
        supernet.load_state_dict(state)
        sort_channels(supernet.net)
        changed = [
            key for key, tensor in supernet.state_dict().items() if not torch.equal(tensor, state[key])
        ]
        after = supernet(batch, space.largest)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    layers = {key.split(".", 4)[4] for key in changed}
    assert {"expand.conv.weight", "depth.conv.weight", "project.conv.weight"} <= layers
    assert {"expand.bn.running_var", "depth.bn.bias"} <= layers
    assert ("se.expand.bias" in layers) == ("mbv3" in name)
    assert not torch.allclose(supernet(batch, space.smallest), smallest, rtol=1e-3, atol=1e-3)


def test_every_smaller_kernel_and_depth_computes_what_it_did_too() -> None:
    space = SPACES["tiny-mbv3-w1.0"]
    arch = space.pick(min)
    widest = [stage.expands[-1] for stage in space.stages]
    stages = tuple(
        type(stage)(stage.width, stage.kernels, (expand,) * len(stage.kernels))
        for stage, expand in zip(arch.stages, widest, strict=True)
    )
    arch = type(arch)(16, arch.stem, stages, arch.head)
    supernet, batch = random_supernet(space), images(3, 16)
    with torch.no_grad():
        before = supernet(batch, arch)
        sort_channels(supernet.net)
        torch.testing.assert_close(supernet(batch, arch), before, rtol=1e-4, atol=1e-5)


def test_channels_stand_by_the_weights_that_read_them_and_what_stands_beside_moves_along() -> None:
    supernet = random_supernet(SPACES["tiny-mbv3-w1.0"])
    block = supernet.net.get_submodule("stages.3.1")
    assert isinstance(block, Block) and block.expand is not None and block.se is not None
    numbers = {
        id(block.depth.conv.weight): torch.arange(256.0)[:, None, None, None].expand(256, 1, 5, 5).clone()
    }
    old = block.depth.conv.weight.detach().clone()
    sort_channels(supernet.net, lambda tensor: [numbers[id(tensor)]] if id(tensor) in numbers else [])
    for weight in (block.project.conv.weight, block.se.expand.weight):
        importance = weight.detach().abs().sum((0, 2, 3))
        assert bool((importance[:-1] >= importance[1:]).all())
    order = next(iter(numbers.values()))[:, 0, 0, 0].long()
    assert order.tolist() != sorted(order.tolist())
    assert torch.equal(block.depth.conv.weight, old[order])


def test_sorting_twice_changes_nothing_more() -> None:
    supernet = random_supernet(SPACES["tiny-proxyless"])
    sort_channels(supernet.net)
    once = {key: tensor.clone() for key, tensor in supernet.state_dict().items()}
    sort_channels(supernet.net)
    assert all(torch.equal(tensor, once[key]) for key, tensor in supernet.state_dict().items())
