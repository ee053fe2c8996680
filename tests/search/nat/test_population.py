"""Architectures of several spaces as rows of genes."""

import numpy as np
import pytest

from encas.errors import InvalidInput
from encas.search.nat.macs import count_macs
from encas.search.nat.population import Population, mixed, numbers, texts
from encas.search.nat.spaces import SPACES

SMALL, WIDE = SPACES["tiny-mbv3-w1.0"], SPACES["tiny-mbv3-w1.2"]
ONE, BOTH = Population((SMALL,), 10), Population((SMALL, WIDE), 10)


def test_one_space_keeps_its_own_genes() -> None:
    assert texts(ONE.ends)[0] == "0.0.1.0.1.0.0.1.0.0"
    assert ONE.arch(ONE.ends[1]) == (0, SMALL.largest)
    assert ONE.apart((3, 0, 1)) == (0, (3, 0, 1))


def test_with_two_spaces_a_first_gene_says_which() -> None:
    assert (BOTH.bounds[0][0], BOTH.bounds[1][0]) == (0, 1)
    found = [BOTH.arch(row) for row in BOTH.ends]
    assert found == [(0, SMALL.smallest), (0, SMALL.largest), (1, WIDE.smallest), (1, WIDE.largest)]
    expected = [
        count_macs(SPACES[f"tiny-mbv3-w{w}"], arch, 10)
        for (_, arch), w in zip(found, (1.0, 1.0, 1.2, 1.2), strict=True)
    ]
    assert BOTH.macs(BOTH.ends).tolist() == expected
    assert BOTH.largest_macs == expected[3] > ONE.largest_macs


def test_genes_of_blocks_that_do_not_run_are_cleared_and_the_first_stays() -> None:
    genes = np.array([[1, 2, 0, 1, 0, 3, 0, 2, 4, 0, 5]])
    assert texts(BOTH.canonical(genes)) == ["1.2.0.1.0.3.0.0.4.0.0"]
    assert numbers("1.2.0.1") == (1, 2, 0, 1)


def test_spaces_with_other_genes_cannot_be_crossed() -> None:
    with pytest.raises(InvalidInput, match=r"tiny-alphanet has other genes than tiny-mbv3-w1\.0"):
        Population((SMALL, SPACES["tiny-alphanet"]), 10)


def test_mixed_genes_are_as_frequent_as_they_are_and_each_by_itself() -> None:
    genes = np.array([[0, 5], [0, 6], [0, 7], [1, 7]])
    drawn = mixed(genes, 4000, np.random.default_rng(0))
    assert abs((drawn[:, 0] == 1).mean() - 0.25) < 0.03
    assert abs((drawn[:, 1] == 7).mean() - 0.5) < 0.03
    assert (drawn == [1, 5]).all(axis=1).any()  # a combination that none has
