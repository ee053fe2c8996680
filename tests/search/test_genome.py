import numpy as np
import pytest

from encas.search.genome import Space


def test_a_cascade_is_written_back_as_the_genome_that_it_came_from() -> None:
    space, names, rng = Space(5, 4), ("a", "b", "c", "d", "e"), np.random.default_rng(0)
    genomes = np.column_stack(
        [rng.integers(1, 6, (50, 1)), rng.integers(0, 6, (50, 3)), rng.integers(0, 51, (50, 3))]
    )
    for genome in space.canonical(genomes):
        assert space.genome(space.cascade(genome, names), names).tolist() == genome.tolist()


def test_the_way_to_answer_is_the_last_gene_and_means_nothing_for_one_member() -> None:
    space = Space(3, 2, either_answer=True)
    assert space.n_values.tolist() == [4, 4, 51, 2]
    assert space.canonical(np.array([[1, 2, 25, 1], [1, 0, 25, 1]])).tolist() == [[1, 2, 25, 1], [1, 0, 0, 0]]
    cascade = space.cascade(np.array([1, 2, 25, 1]), "abc")
    assert (cascade.combine, cascade.member_names) == ("last", ("a", "b"))
    assert space.genome(cascade, "abc").tolist() == [1, 2, 25, 1]
    assert space.cascade(np.array([1, 2, 25, 0]), "abc").combine == "mean"


def test_cascades_of_one_stage_answer_in_one_way() -> None:
    space = Space(3, 1, either_answer=True)
    assert space.canonical(np.array([[2, 1], [2, 0]])).tolist() == [[2, 0], [2, 0]]


def test_ensembles_answer_in_one_way() -> None:
    with pytest.raises(ValueError, match="an ensemble answers with the mean"):
        Space(3, 2, ensemble=True, either_answer=True)


def test_members_are_alike_by_cost_and_thresholds_by_value() -> None:
    alphabets = Space(3, 2, either_answer=True).alphabets(np.array([30.0, 10.0, 20.0]))
    assert [row.tolist() for row in alphabets] == [[0, 2, 3, 1]] * 2 + [list(range(51)), [0, 1]]


def test_loosened_genomes_mean_the_same_and_leave_gaps_at_every_place() -> None:
    space, rng = Space(5, 4, either_answer=True), np.random.default_rng(0)
    genomes = space.canonical(rng.integers(space.n_values, size=(200, space.n_genes)))
    loose = space.loosened(genomes, rng)
    assert (space.canonical(loose) == genomes).all()
    assert ((loose[:, :4] == 0).any(axis=0)).all()
    # No gap is guarded by 0.00: a member that is put there is reached.
    assert (loose[:, 4:7] > 0).all()


def test_a_gap_is_guarded_as_some_stage_of_the_cascade_is() -> None:
    loose = Space(5, 4).loosened(np.array([[1, 2, 0, 0, 30, 0, 0]]), np.random.default_rng(0))
    assert loose[0, 4:].tolist() == [30, 30, 30]
