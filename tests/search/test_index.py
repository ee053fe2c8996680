import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from encas.search.index import Index


def test_genomes_are_numbered_as_they_come_and_known_again() -> None:
    index = Index(2)
    assert index.number(np.array([[5, 1], [1, 5], [5, 1]])).tolist() == [0, 1, 0]
    assert index.number(np.array([[7, 7], [1, 5]])).tolist() == [2, 1]
    assert index.since(1).tolist() == [[1, 5], [7, 7]]
    assert index.find(np.array([[7, 7], [7, 8]])).tolist() == [2, -1]
    assert len(index) == 3


def test_numbering_ends_before_the_genome_that_would_be_too_many() -> None:
    index = Index(1)
    assert index.number(np.array([[3], [4], [3], [5], [4]]), at_most=2).tolist() == [0, 1, 0]
    assert index.find(np.array([[5]])).tolist() == [-1]
    assert index.number(np.array([[4], [3]]), at_most=2).tolist() == [1, 0]


genomes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 700)), min_size=1, max_size=60)


@settings(max_examples=50)
@given(st.lists(genomes, min_size=1, max_size=5))
def test_it_answers_as_a_dictionary_does(batches: list[list[tuple[int, int]]]) -> None:
    index, expected = Index(2), dict[tuple[int, int], int]()
    for batch in batches:
        numbers = [expected.setdefault(genome, len(expected)) for genome in batch]
        assert index.number(np.array(batch)).tolist() == numbers


def test_it_grows() -> None:
    index = Index(3)
    numbers = np.random.default_rng(0).permutation(40_000)
    everything = np.column_stack(np.unravel_index(numbers, (25, 40, 40)))
    for start in range(0, 40_000, 3000):
        index.number(everything[start : start + 3000])
    assert index.find(everything).tolist() == list(range(40_000))
