"""Costs beside what their authors published, and beside what torch counts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from encas.search.nat.encoding import decode
from encas.search.nat.layout import layout_of
from encas.search.nat.macs import count_like_ptflops, count_macs
from encas.search.nat.network import Net
from encas.search.nat.space import Arch
from encas.search.nat.spaces import SPACES

# AttentiveNAS-A0 to A6: resolution; widths of stem, stages and head; kernels, expands and depths of stages.
PUBLISHED = {
    "A0": (203, 192, (16, 16, 24, 32, 64, 112, 192, 216, 1792), "3333333", "1444466", "1333331"),
    "A1": (279, 224, (16, 16, 24, 32, 64, 112, 192, 216, 1984), "3335353", "1444466", "1333331"),
    "A2": (317, 224, (16, 16, 24, 32, 64, 112, 200, 224, 1984), "3333353", "1454466", "1333341"),
    "A3": (357, 224, (16, 16, 24, 32, 64, 112, 208, 224, 1984), "3335333", "1444466", "2334351"),
    "A4": (444, 256, (16, 16, 24, 32, 64, 112, 192, 216, 1984), "3335353", "1445466", "1334351"),
    "A5": (491, 256, (16, 16, 24, 32, 72, 112, 192, 216, 1792), "3335333", "1454466", "1333461"),
    "A6": (709, 288, (16, 16, 24, 32, 64, 112, 216, 224, 1984), "3333353", "1465466", "1334461"),
}


def published(name: str) -> Arch:
    space = SPACES["attentivenas"]
    _, resolution, (stem, *widths, head), kernels, expands, depths = PUBLISHED[name]
    genes = [space.resolutions.index(resolution), space.stem_widths.index(stem)]
    for j, stage in enumerate(space.stages):
        choices = (stage.widths, stage.depths, stage.kernels, stage.expands)
        chosen = (widths[j], int(depths[j]), int(kernels[j]), int(expands[j]))
        genes += [of.index(one) for of, one in zip(choices, chosen, strict=True) if len(of) > 1]
    return decode(space, [*genes, space.head_widths.index(head)])


@pytest.mark.parametrize("name", PUBLISHED)
def test_macs_are_those_that_attentivenas_publishes(name: str) -> None:
    found = count_macs(SPACES["attentivenas"], published(name), 1000)
    assert round(found / 1e6) == PUBLISHED[name][0]


@pytest.mark.parametrize(
    ("name", "resolution", "least", "most"),
    [
        ("ofa-mbv3-w1.0", 128, 41.5, 188.2),
        ("ofa-mbv3-w1.0", 192, 89.8, 417.3),
        ("ofa-mbv3-w1.0", 224, 121.3, 566.2),
        ("ofa-mbv3-w1.0", 256, 157.6, 738.0),
        ("ofa-mbv3-w1.2", 160, 100.3, 433.6),
        ("ofa-mbv3-w1.2", 192, 142.8, 621.3),
        ("ofa-mbv3-w1.2", 256, 251.1, 1099.1),
        ("ofa-proxyless-w1.3", 192, 195.5, 738.7),
        ("ofa-proxyless-w1.3", 224, 265.5, 1004.9),
        ("ofa-proxyless-w1.3", 256, 346.3, 1312.0),
        ("alphanet", 192, 203.4, 870.3),
    ],
)
def test_the_spaces_reach_from_and_to_the_known_costs(
    name: str, resolution: int, least: float, most: float
) -> None:
    space = SPACES[name]
    ends = [replace(arch, resolution=resolution) for arch in (space.smallest, space.largest)]
    assert [round(count_macs(space, arch, 1000) / 1e6, 1) for arch in ends] == [least, most]


def test_the_largest_alphanet_costs_as_much_as_is_known() -> None:
    assert round(count_macs(SPACES["alphanet"], SPACES["alphanet"].largest, 1000) / 1e6, 1) == 1939.3


def test_genes_of_proxyless_reach_down_to_a_higher_cost() -> None:
    """For the last block, which costs most, has no gene."""
    space = SPACES["ofa-proxyless-w1.3"]
    arch = decode(space, (0, 0) + 5 * (1, 1, 0, 0))
    assert round(count_macs(space, arch, 1000) / 1e6, 1) == 215.7


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in SPACES if not name.startswith("tiny")]
TINY = [name for name in SPACES if name.startswith("tiny")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TINY, *LARGE])
def test_macs_are_half_of_what_torch_counts(name: str) -> None:
    space, rng = SPACES[name], np.random.default_rng(1)
    for arch in [space.smallest, *(space.sample(rng) for _ in range(3))]:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            Net(layout_of(space, arch), 7).eval()(torch.empty(1, 3, arch.resolution, arch.resolution))
        assert 2 * count_macs(space, arch, 7) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "arch", "mmacs"),
    [
        ("ofa-mbv3-w1.0", replace(SPACES["ofa-mbv3-w1.0"].largest, resolution=224), 591.07),
        ("ofa-proxyless-w1.3", replace(SPACES["ofa-proxyless-w1.3"].largest, resolution=224), 1043.98),
        ("alphanet", published("A1"), 290.06),
    ],
)
def test_the_figures_of_the_papers_tables_are_those_of_ptflops(name: str, arch: Arch, mmacs: float) -> None:
    """Counted by ptflops 0.6.4 on the original networks."""
    assert round(count_like_ptflops(SPACES[name], arch, 1000) / 1e6, 2) == mmacs
