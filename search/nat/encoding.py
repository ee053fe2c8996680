"""Architectures as genes, which is how the searches see them; the layouts of genes are those of ENCAS.

Genes per block: the resolution's and the stem width's index, then for each stage with a choice of depth as
many genes as it can have blocks: 0 for none, otherwise 1 + the index of (expand, kernel), kernels running
faster. Stages of a fixed depth have no genes and keep their largest kernel and expand.

Genes per stage: an index for each choice that is one: resolution, stem width, for each stage width, depth,
kernel and expand; head width.
"""

from collections.abc import Iterator, Sequence
from itertools import islice, product, takewhile

from encas.errors import InvalidInput
from encas.search.nat.space import Arch, Space, Stage, StageArch

Genes = tuple[int, ...]


def gene_ranges(space: Space) -> tuple[range, ...]:
    """Values that each gene may have."""
    if space.genes_per == "stage":
        return tuple(range(len(choices)) for choices, _ in _choices(space, space.largest))
    ranges = [range(len(space.searched)), range(len(space.stem_widths))]
    for stage in space.stages:
        if _has_genes(stage):
            n_kinds = len(stage.expands) * len(stage.kernels)
            ranges += [range(int(j < stage.depths[0]), n_kinds + 1) for j in range(stage.depths[-1])]
    return tuple(ranges)


def decode(space: Space, genes: Sequence[int]) -> Arch:
    """Read genes; those of blocks after a missing one count for nothing.

    Raises:
        InvalidInput: Names the first gene that is out of its range.
    """
    ranges = gene_ranges(space)
    if len(genes) != len(ranges):
        raise InvalidInput(f"{space.name}: an architecture has {len(ranges)} genes, got {len(genes)}")
    for j, (gene, values) in enumerate(zip(genes, ranges, strict=True)):
        if gene not in values:
            raise InvalidInput(f"{space.name}: gene {j} is {gene}, must be {values[0]} to {values[-1]}")
    rest = iter(int(gene) for gene in genes)
    if space.genes_per == "stage":
        return space.pick(lambda choices: choices[next(rest) if len(choices) > 1 else 0])
    resolution, stem = space.searched[next(rest)], space.stem_widths[next(rest)]
    stages = tuple(_decode_stage(stage, rest) for stage in space.stages)
    return Arch(resolution, stem, stages, space.head_widths[0])


def encode(space: Space, arch: Arch) -> Genes:
    """Write an architecture as genes: always the same for the same architecture.

    Raises:
        InvalidInput: The space has no such architecture, or its genes cannot say it.
    """
    space.check(arch)
    if arch.resolution not in space.searched:
        lowest, highest = space.searched[0], space.searched[-1]
        raise InvalidInput(
            f"{space.name}: genes know resolutions {lowest} to {highest}, not {arch.resolution}"
        )
    if space.genes_per == "stage":
        return tuple(choices.index(chosen) for choices, chosen in _choices(space, arch))
    genes = [space.searched.index(arch.resolution), space.stem_widths.index(arch.stem)]
    for index, (stage, chosen) in enumerate(zip(space.stages, arch.stages, strict=True)):
        if _has_genes(stage):
            kinds = zip(chosen.expands, chosen.kernels, strict=True)
            genes += [1 + _kinds(stage).index(kind) for kind in kinds]
            genes += [0] * (stage.depths[-1] - len(chosen.kernels))
        elif chosen != _without_genes(stage):
            raise InvalidInput(
                f"{space.name}: genes know stage {index} with kernel {stage.kernels[-1]} and expand "
                f"{stage.expands[-1]} only, not {chosen.kernels[0]} and {chosen.expands[0]}"
            )
    return tuple(genes)


def as_text(genes: Sequence[int]) -> str:
    """Write genes with dots between them, as in 8.0.5.3."""
    return ".".join(map(str, genes))


def from_text(space: Space, text: str) -> Arch:
    """Read `smallest`, `largest`, or genes with dots between them.

    Raises:
        InvalidInput: It is none of these, or the space has no such architecture.
    """
    if text in ("smallest", "largest"):
        return space.smallest if text == "smallest" else space.largest
    try:
        genes = [int(part) for part in text.split(".")]
    except ValueError:
        raise InvalidInput(
            f"architecture '{text}': must be smallest, largest, or {len(gene_ranges(space))} numbers with "
            "dots between them"
        ) from None
    return decode(space, genes)


def _choices(space: Space, arch: Arch) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield what there is to choose from and what an architecture chooses, in the order of `Space.pick`."""
    all_choices = [(space.searched, arch.resolution), (space.stem_widths, arch.stem)]
    for stage, chosen in zip(space.stages, arch.stages, strict=True):
        all_choices += [(stage.widths, chosen.width), (stage.depths, len(chosen.kernels))]
        all_choices += [(stage.kernels, chosen.kernels[0]), (stage.expands, chosen.expands[0])]
    all_choices.append((space.head_widths, arch.head))
    yield from (choice for choice in all_choices if len(choice[0]) > 1)


def _has_genes(stage: Stage) -> bool:
    return len(stage.depths) > 1


def _kinds(stage: Stage) -> list[tuple[int, int]]:
    return list(product(stage.expands, stage.kernels))


def _decode_stage(stage: Stage, genes: Iterator[int]) -> StageArch:
    if not _has_genes(stage):
        return _without_genes(stage)
    of_stage = list(islice(genes, stage.depths[-1]))
    kinds = [_kinds(stage)[gene - 1] for gene in takewhile(bool, of_stage)]
    return StageArch(stage.widths[0], tuple(k for _, k in kinds), tuple(e for e, _ in kinds))


def _without_genes(stage: Stage) -> StageArch:
    depth = stage.depths[0]
    return StageArch(stage.widths[0], (stage.kernels[-1],) * depth, (stage.expands[-1],) * depth)
