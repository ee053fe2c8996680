import numpy as np
import pytest

from encas.search.clusters import cluster, extreme_clusters, k_means, leaders

LINE = np.array([[0.0, 10.0], [1.0, 9.0], [5.0, 5.0], [6.0, 4.0], [9.0, 1.0], [11.0, -1.0]])


@pytest.mark.parametrize("seed", range(4))
def test_leaders_are_the_ends_and_then_the_middle(seed: int) -> None:
    chosen = leaders(LINE, 3, np.random.default_rng(seed))
    assert set(chosen[:2].tolist()) == {0, 5}  # the best of either objective, then the furthest from it
    assert chosen[2] in (2, 3)


def test_k_means_ends_at_the_centres() -> None:
    means = k_means(LINE, LINE[[0, 2, 5]])
    assert means.tolist() == [[0.5, 9.5], [5.5, 4.5], [10, 0]]


def test_a_mean_without_points_stays() -> None:
    means = k_means(LINE, np.array([[5.0, 5.0], [100.0, 100.0]]))
    assert means.tolist() == [[32 / 6, 28 / 6], [100, 100]]


def test_clusters_are_filled_to_twice_their_share_with_the_nearest() -> None:
    clusters = cluster(LINE, 3, np.random.default_rng(0))
    assert clusters.members.shape == (3, 4)  # 2 * 6 / 3
    by_mean = sorted(sorted(members) for members in clusters.members.tolist())
    assert by_mean == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]


def test_objectives_are_scaled_by_the_populations_ranges() -> None:
    stretched = LINE * [1, 1e6]
    straight = cluster(LINE, 3, np.random.default_rng(0))
    assert (straight.members == cluster(stretched, 3, np.random.default_rng(0)).members).all()


@pytest.mark.parametrize("seed", range(4))
def test_each_objective_gets_its_best_cluster(seed: int) -> None:
    means = np.array([[1.0, 9.0], [5.0, 5.0], [9.0, 1.0]])
    assert extreme_clusters(means, np.random.default_rng(seed)).tolist() == [0, -1, 1]


def test_a_cluster_is_extreme_for_one_objective_only() -> None:
    # Cluster 0 is best in both; whichever objective comes first takes it, the other takes the second best.
    means = np.array([[1.0, 1.0], [3.0, 2.0], [2.0, 3.0]])
    found = {tuple(extreme_clusters(means, np.random.default_rng(seed)).tolist()) for seed in range(20)}
    assert found == {(0, 1, -1), (1, -1, 0)}


def test_more_objectives_than_clusters_leave_some_without() -> None:
    assert sorted(extreme_clusters(np.zeros((2, 3)), np.random.default_rng(0)).tolist())[0] >= 0


def test_a_solution_mixes_in_a_cluster_that_holds_it() -> None:
    drawn = set()
    for seed in range(20):
        clusters = cluster(LINE, 3, np.random.default_rng(seed))
        for solution, chosen in enumerate(clusters.of):
            holding = [k for k in range(3) if solution in clusters.members[k]]
            assert chosen in holding
        drawn.add(tuple(clusters.of.tolist()))
    assert len(drawn) > 1


def test_a_solution_that_no_cluster_holds_mixes_in_the_nearest() -> None:
    # 4 clusters of 2 * 10 / 4 = 5 nearest; eight points in one place crowd each other out there.
    objectives = np.array([[0.0, 10.0], [10.0, 0.0], *[[5.0, 5.0]] * 8])
    clusters = cluster(objectives, 4, np.random.default_rng(0))
    held = set(clusters.members.ravel().tolist())
    lonely = [i for i in range(10) if i not in held]
    assert lonely
    for i in lonely:
        assert {2, 3} & set(clusters.members[clusters.of[i]].tolist())


def test_equal_solutions_are_clustered_too() -> None:
    clusters = cluster(np.ones((8, 2)), 3, np.random.default_rng(0))
    assert clusters.members.shape == (3, 5)
    assert sorted(clusters.extreme.tolist()) == [-1, 0, 1]
