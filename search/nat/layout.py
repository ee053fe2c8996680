"""The sizes of every layer, worked out from an architecture; networks, slices and MACs all go by them."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from encas.search.nat.space import Act, Arch, Space


@dataclass(frozen=True)
class BlockLayout:
    """Widen by a 1x1 convolution, convolve each channel, gate the channels, narrow by a 1x1 convolution."""

    n_in: int
    n_mid: int
    n_out: int
    widens: bool
    kernels: tuple[int, ...]  # falling; the first is used, the others are for smaller architectures
    stride: int
    act: Act
    n_squeezed: int  # channels inside squeeze and excitation; 0: without
    has_shortcut: bool
    projects: bool  # whether the shortcut has a convolution


@dataclass(frozen=True)
class Layout:
    """A whole network."""

    stem: int
    stages: tuple[tuple[BlockLayout, ...], ...]
    n_final: int  # channels of the convolution before the last pooling; 0: the head is that convolution
    head: int
    act: Act
    bn_eps: float
    kernel_matrices: bool


def round8(size: float) -> int:
    """Return the nearest multiple of 8, at least 8 and not more than a tenth below."""
    rounded = max(8, int(size + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * size else rounded


def layout_of(space: Space, arch: Arch) -> Layout:
    """Work out the network of an architecture.

    Raises:
        InvalidInput: The space has no such architecture.
    """
    space.check(arch)
    n_in, stages = arch.stem, []
    for stage, chosen in zip(space.stages, arch.stages, strict=True):
        blocks = []
        for index, (kernel, expand) in enumerate(zip(chosen.kernels, chosen.expands, strict=True)):
            n_mid = n_in if expand == 1 else round8(n_in * expand)
            stride, same = stage.stride if index == 0 else 1, n_in == chosen.width
            projecting = space.shortcut == "project"
            blocks.append(
                BlockLayout(
                    n_in=n_in,
                    n_mid=n_mid,
                    n_out=chosen.width,
                    widens=expand != 1,
                    kernels=(kernel,),
                    stride=stride,
                    act=stage.act,
                    n_squeezed=round8(n_mid // 4) if stage.se else 0,
                    has_shortcut=projecting or (stride == 1 and same),
                    projects=projecting and not same,
                )
            )
            n_in = chosen.width
        stages.append(tuple(blocks))
    return Layout(
        stem=arch.stem,
        stages=tuple(stages),
        n_final=round8(n_in * space.final_expand) if space.final_expand else 0,
        head=arch.head,
        act=space.act,
        bn_eps=space.bn_eps,
        kernel_matrices=False,
    )


def whole_layout(space: Space) -> Layout:
    """Work out the network that holds all others: the largest, and what only smaller ones need."""
    layout = layout_of(space, space.largest)
    before: Collection[int] = space.stem_widths
    stages = []
    for stage, blocks in zip(space.stages, layout.stages, strict=True):
        kernels = tuple(sorted(stage.kernels, reverse=True))
        first, *others = (replace(block, kernels=kernels) for block in blocks)
        # Widths that are equal in the largest network may differ in another.
        may_differ = len({*before, *stage.widths}) > 1
        stages.append((replace(first, projects=space.shortcut == "project" and may_differ), *others))
        before = stage.widths
    return replace(layout, stages=tuple(stages), kernel_matrices=space.kernel_matrices)
