"""What an architecture costs, in closed form."""

from encas.search.nat.layout import BlockLayout, Layout, layout_of
from encas.search.nat.space import Arch, Space


def count_macs(space: Space, arch: Arch, n_classes: int) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image, half of torch's `flop_counter`.

    AttentiveNAS and AlphaNet count the same and call it FLOPs.
    """
    layout = layout_of(space, arch)
    side = _halved(arch.resolution)
    macs = 3 * layout.stem * 9 * side**2
    for block in _blocks(layout):
        after = _halved(side) if block.stride == 2 else side
        macs += block.widens * block.n_in * block.n_mid * side**2
        macs += block.n_mid * (block.kernels[0] ** 2 + block.n_out) * after**2
        macs += 2 * block.n_mid * block.n_squeezed
        macs += block.projects * block.n_in * block.n_out * after**2
        side = after
    n_in = layout.stages[-1][-1].n_out
    if layout.n_final:
        macs += n_in * layout.n_final * side**2 + layout.n_final * layout.head
    else:
        macs += n_in * layout.head * side**2
    return macs + layout.head * n_classes


def count_like_ptflops(space: Space, arch: Arch, n_classes: int) -> int:
    """Count what ptflops 0.6.4 would, for comparison with the tables of the ENCAS paper.

    Besides multiply-accumulates: two for each number that is normalised, one for each that goes through a
    ReLU or ReLU6, and the biases; ptflops overlooks the originals' h-swish and swish.
    """
    layout = layout_of(space, arch)
    side = _halved(arch.resolution)
    extra = layout.stem * side**2 * _per_number(layout.act)
    for block in _blocks(layout):
        after = _halved(side) if block.stride == 2 else side
        extra += block.widens * block.n_mid * side**2 * _per_number(block.act)
        extra += block.n_mid * after**2 * _per_number(block.act) + 2 * block.n_out * after**2
        if block.n_squeezed:
            extra += 2 * block.n_squeezed + block.n_mid  # two biases and a ReLU
        side = after
    n_last = layout.n_final or layout.head
    extra += n_last * side**2 * _per_number(layout.act) + n_classes
    if space.shortcut == "project":
        extra += layout.n_final * side**2  # it sees the pooling of AttentiveNAS, not that of once-for-all
    return count_macs(space, arch, n_classes) + extra


def _per_number(act: str) -> int:
    return 3 if act in ("relu", "relu6") else 2


def _blocks(layout: Layout) -> list[BlockLayout]:
    return [block for stage in layout.stages for block in stage]


def _halved(side: int) -> int:
    return (side + 1) // 2
