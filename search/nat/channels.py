"""The middle channels of blocks by their importance, so that narrow networks get the best ones."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from encas.search.nat.network import BatchNorm, Block, Net, SqueezeExcite

Beside = Callable[[Tensor], Sequence[Tensor]]


@torch.no_grad()
def sort_channels(net: Net, beside: Beside = lambda _parameter: ()) -> None:
    """Sort the channels between a block's first and last convolution, the most important first.

    The importance of a channel is the L1 norm of the weights that read it (once-for-all, arXiv:1908.09791).
    All that belongs to it moves along, so the largest network computes what it did; so do the channels
    inside squeeze and excitation. Blocks that do not widen have the channels of the block before.

    Args:
        net: The network of a supernetwork.
        beside: What has the shape of a parameter and must be sorted in the same way, such as momentum.
    """
    for block in net.modules():
        if isinstance(block, Block) and block.expand is not None:
            for tensor, dim, order in _moves(block):
                for one in (tensor, *beside(tensor)):
                    one.copy_(one.index_select(dim, order))


def _moves(block: Block) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Tensors, the dimension of each that is sorted, and the new order."""
    assert block.expand is not None and block.expand.bn is not None
    order = _by_importance(block.project.conv.weight)
    yield block.expand.conv.weight, 0, order
    yield block.depth.conv.weight, 0, order
    yield block.project.conv.weight, 1, order
    for norm in (block.expand.bn, block.depth.bn):
        yield from ((tensor, 0, order) for tensor in _of(norm))
    if block.se is not None:
        yield from _inside(block.se, order)


def _inside(se: SqueezeExcite, order: Tensor) -> Iterator[tuple[Tensor, int, Tensor]]:
    assert se.reduce.bias is not None and se.expand.bias is not None
    squeezed = _by_importance(se.expand.weight)
    yield from ((se.reduce.weight, 1, order), (se.expand.weight, 0, order), (se.expand.bias, 0, order))
    yield from (
        (se.reduce.weight, 0, squeezed),
        (se.reduce.bias, 0, squeezed),
        (se.expand.weight, 1, squeezed),
    )


def _of(norm: BatchNorm) -> list[Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return [norm.weight, norm.bias, norm.running_mean, norm.running_var]


def _by_importance(weight: Tensor) -> Tensor:
    """Order the inputs of a 1x1 convolution; equal ones stay as they are."""
    return torch.argsort(weight.abs().sum((0, 2, 3)), descending=True, stable=True)
