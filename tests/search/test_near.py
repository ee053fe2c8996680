import numpy as np
import pytest

from encas.search.near import Alphabets, nearest


def test_the_nearest_are_found_where_objectives_have_other_units() -> None:
    others = np.array([[0.0, 1000.0], [1.0, 0.0], [0.5, 400.0]])
    assert nearest(np.array([[0.9, 100.0], [0.0, 900.0]]), others, 2).tolist() == [[1, 2], [0, 2]]
    assert nearest(np.array([[0.9, 100.0]]), others[:1], 20).tolist() == [[0]]


def test_a_gene_moves_by_places_of_its_alphabet_and_the_ends_throw_back() -> None:
    alphabets = Alphabets.of(np.array([5, 2]), [np.array([4, 2, 0, 1, 3]), np.array([0, 1])])
    genomes, first = np.array([[4, 0]] * 4), np.zeros(4, np.intp)
    moved = alphabets.moved(genomes, first, np.array([0.2, 1.5, -1.5, 6.1]))
    # From place 0 to places 1, 2, 2 (back from -2) and 1 (back from 7).
    assert moved[:, 0].tolist() == [2, 0, 0, 2]
    assert alphabets.moved(genomes[:1], np.array([1]), np.array([-0.1])).tolist() == [[4, 1]]


def test_an_alphabet_holds_each_value_once() -> None:
    with pytest.raises(ValueError, match=r"alphabet of gene 1: must hold each of 0 \.\. 2 once"):
        Alphabets.of(np.array([2, 3]), [np.array([0, 1]), np.array([0, 1, 1])])
