from dataclasses import replace

import numpy as np
import pytest

from encas.errors import InvalidInput
from encas.search.nat.space import Arch, StageArch
from encas.search.nat.spaces import SPACES, space_named

SMALL = SPACES["tiny-alphanet"].smallest


def test_equal_architectures_are_equal_values() -> None:
    space = SPACES["tiny-mbv3-w1.0"]
    first, second = (space.sample(np.random.default_rng(3)) for _ in range(2))
    assert first == second and hash(first) == hash(second) and first is not second


def test_the_smallest_has_the_least_of_everything() -> None:
    stages = (StageArch(16, (3,), (1,)), StageArch(24, (3,), (2,)), StageArch(48, (3,), (2,)))
    assert Arch(16, 16, stages, 192) == SMALL


@pytest.mark.parametrize("name", SPACES)
def test_what_is_drawn_is_in_the_space(name: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        SPACES[name].check(SPACES[name].sample(rng))


def test_the_spaces_are_as_large_as_published() -> None:
    """OFA: (9^2 + 9^3 + 9^4)^5 for each of 17 resolutions; AttentiveNAS: 4.4e11."""
    assert SPACES["ofa-mbv3-w1.0"].n_archs == 17 * 7371**5
    assert SPACES["attentivenas"].n_archs == pytest.approx(4.40e11, rel=1e-3)


STAGE = SMALL.stages[1]


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (replace(SMALL, resolution=17), "resolution 17 is impossible; must be 16, 20, 24, 28, 32"),
        (replace(SMALL, stem=17), "stem width 17 is impossible; must be 16, 24"),
        (replace(SMALL, head=1), "head width 1 is impossible; must be 192, 256"),
        (replace(SMALL, stages=SMALL.stages[:2]), "number of stages 2 is impossible; must be 3"),
        (replace(STAGE, width=25), "stage 1: width 25 is impossible; must be 24, 32"),
        (replace(STAGE, kernels=(7,)), "stage 1: kernel 7 is impossible; must be 3, 5"),
        (replace(STAGE, expands=(9,)), "stage 1: expand 9 is impossible; must be 2, 3, 4"),
        (replace(STAGE, kernels=(), expands=()), "stage 1: depth 0 is impossible; must be 1, 2, 3"),
        (replace(STAGE, kernels=(3, 3)), "stage 1: number of expands 1 is impossible; must be 2"),
        (StageArch(24, (3, 5), (2, 2)), "stage 1: all blocks must have the same kernel and expand"),
    ],
)
def test_an_impossible_architecture_is_one_clear_line(arch: Arch | StageArch, message: str) -> None:
    if isinstance(arch, StageArch):
        arch = replace(SMALL, stages=(SMALL.stages[0], arch, SMALL.stages[2]))
    with pytest.raises(InvalidInput) as caught:
        SPACES["tiny-alphanet"].check(arch)
    assert str(caught.value) == f"tiny-alphanet: {message}"


def test_a_space_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidInput, match="space 'resnet': there is none; must be one of ofa-"):
        space_named("resnet")
