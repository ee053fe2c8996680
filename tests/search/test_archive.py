import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from encas.search.archive import Archive
from encas.search.pareto import non_dominated


def archive_of(
    points: list[list[float]], genomes: list[list[int]] | None = None, **settings: float
) -> Archive:
    archive = Archive(len(genomes[0]) if genomes else 1, len(points[0]), **settings)  # type: ignore[arg-type]
    archive.offer(np.array(genomes or [[i] for i in range(len(points))]), np.array(points, float))
    return archive


def contents(archive: Archive) -> list[list[float]]:
    return sorted(archive.objectives.tolist())


def test_what_is_dominated_stays_out_and_what_becomes_dominated_goes() -> None:
    archive = archive_of([[1, 3], [3, 1], [3, 3], [2, 2]])
    assert contents(archive) == [[1, 3], [2, 2], [3, 1]]
    archive.offer(np.array([[9]]), np.array([[1.0, 1.0]]))
    assert contents(archive) == [[1, 1]]
    assert archive.genomes.tolist() == [[9]]


def test_the_verdict_tells_new_from_known_from_dominated() -> None:
    archive = archive_of([[1, 3]])
    verdict = archive.offer(np.array([[7], [8], [9], [7]]), np.array([[3.0, 1], [1, 3], [2, 4], [3, 1]]))
    assert verdict.not_dominated.tolist() == [True, True, False, True]
    assert verdict.new.tolist() == [True, False, False, False]


def test_differences_up_to_the_tolerance_do_not_count() -> None:
    archive = archive_of([[1, 1]], tolerance=0.125)
    assert not archive.offer(np.array([[5]]), np.array([[0.875, 1.125]])).new[0]
    # Better by more than the tolerance in one, worse by less in the other: it dominates.
    assert archive.offer(np.array([[6]]), np.array([[0.75, 1.125]])).new[0]
    assert contents(archive) == [[0.75, 1.125]]


def test_of_equal_points_the_one_further_from_the_others_stays() -> None:
    genomes = [[0, 0, 0, 0], [0, 0, 0, 1]]
    archive = archive_of([[1, 3], [3, 1]], genomes)
    # Distance 1 for the member at (3, 1); 4 for the newcomer, who takes its place.
    archive.offer(np.array([[1, 1, 1, 1]]), np.array([[3.0, 1.0]]))
    assert sorted(archive.genomes.tolist()) == [[0, 0, 0, 0], [1, 1, 1, 1]]
    # Distance 3: no further, so the member stays.
    archive.offer(np.array([[1, 1, 1, 0]]), np.array([[3.0, 1.0]]))
    assert sorted(archive.genomes.tolist()) == [[0, 0, 0, 0], [1, 1, 1, 1]]


def test_the_best_of_an_objective_is_found() -> None:
    archive = archive_of([[1, 3], [2, 2], [3, 1]])
    assert archive.objectives[archive.best(0)].tolist() == [1, 3]
    assert archive.objectives[archive.best(1)].tolist() == [3, 1]


def test_three_objectives_and_one_objective_work_too() -> None:
    assert contents(archive_of([[1, 2, 3], [3, 2, 1], [3, 2, 3]])) == [[1, 2, 3], [3, 2, 1]]
    assert contents(archive_of([[3], [1], [2]])) == [[1]]


def test_a_grid_thins_a_full_archive_and_goes_when_it_has_become_small() -> None:
    archive = Archive(1, 2, target_size=100)
    x = np.linspace(0, 1, 126)
    archive.offer(np.arange(126)[:, None], np.column_stack([x, 1 - x]))
    assert archive.is_discretised
    assert 90 <= len(archive) <= 100
    # A second crowd falls into boxes that are taken.
    archive.offer(np.arange(125)[:, None], np.column_stack([x[:-1] + 0.003, 0.997 - x[:-1]]))
    assert len(archive) <= 125
    # 50 points that dominate all others leave fewer than 75.
    y = np.linspace(0, 1, 50)
    archive.offer(np.arange(50)[:, None], np.column_stack([y - 2, -1 - y]))
    assert contents(archive) == sorted(np.column_stack([y - 2, -1 - y]).tolist())
    assert not archive.is_discretised


points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40)


@settings(max_examples=50)
@given(points)
def test_the_archive_is_the_front_of_all_that_was_offered(offered: list[tuple[int, int]]) -> None:
    objectives = np.array(offered, float)
    archive = archive_of(objectives.tolist())
    assert contents(archive) == sorted(objectives[non_dominated(objectives)].tolist())


@settings(max_examples=50)
@given(points, st.integers(0, 40))
def test_offering_in_parts_changes_nothing(offered: list[tuple[int, int]], at: int) -> None:
    objectives, genomes = np.array(offered, float), np.arange(len(offered))[:, None]
    whole, parts = Archive(1, 2), Archive(1, 2)
    whole.offer(genomes, objectives)
    parts.offer(genomes[:at], objectives[:at])
    parts.offer(genomes[at:], objectives[at:])
    assert (whole.genomes == parts.genomes).all()
    assert (whole.objectives == parts.objectives).all()
