import numpy as np

from encas.search.algorithm import Genomes
from encas.search.archive import Archive
from encas.search.children import children
from encas.search.near import Alphabets

N = 2000


def archive_of(genomes: Genomes) -> Archive:
    """Make an archive of genomes of which the first gene is the first objective, and the best is (0, 0)."""
    archive = Archive(genomes.shape[1], 2)
    archive.offer(genomes, np.column_stack([genomes[:, 0], -genomes[:, 0]]).astype(float))
    return archive


def ordered(n_values: list[int]) -> Alphabets:
    return Alphabets.of(np.array(n_values), [np.arange(n) for n in n_values])


def test_genes_come_from_two_near_members_or_are_moved_a_little() -> None:
    genomes = np.array([[v, 90 if v < 50 else 10] for v in range(0, 100, 5)])
    made = children(archive_of(genomes), ordered([100, 100]), N, np.random.default_rng(0))
    assert len(made) == len(np.unique(made, axis=0)) > 100
    # Of five that are near none is further than 20 places; a move is seldom further than 9.
    apart = np.abs(made[:, :1] - genomes[:, 0]).min(axis=1)
    assert (apart <= 12).all()
    assert np.mean((np.abs(made[:, 1] - 90) < 13) | (np.abs(made[:, 1] - 10) < 13)) == 1
    # Some are of members on both sides of 50.
    assert not ((made[:, 0] < 25) & (made[:, 1] < 25)).any()
    assert ((made[:, 0] < 50) & (made[:, 1] < 25)).any()


def test_none_is_one_of_its_parents_and_the_same_generator_draws_the_same() -> None:
    archive, alphabets = archive_of(np.array([[3, 3]])), ordered([7, 7])
    made = children(archive, alphabets, N, np.random.default_rng(5))
    assert not (made == 3).all(axis=1).any()
    assert np.array_equal(made, children(archive, alphabets, N, np.random.default_rng(5)))


def test_members_beside_wide_gaps_have_more_children() -> None:
    # Between 10 and 60 the front is open.
    archive = archive_of(np.array([[v] for v in (*range(11), *range(60, 71))]))
    rng, alphabets = np.random.default_rng(0), ordered([100])
    made = np.concatenate([children(archive, alphabets, 1, rng) for _ in range(400)])[:, 0]
    assert len(made) > 100
    # Four of the 22 members are within two places of the gap.
    assert np.mean((np.abs(made - 10) < 7) | (np.abs(made - 60) < 7)) > 0.7


def test_children_are_in_canonical_form() -> None:
    def descending(genomes: Genomes) -> Genomes:
        return -np.sort(-genomes, axis=1)

    def shuffled(genomes: Genomes, rng: np.random.Generator) -> Genomes:
        return rng.permuted(genomes, axis=1)

    archive = archive_of(np.array([[4, 2, 1], [5, 3, 0], [6, 6, 6]]))
    made = children(archive, ordered([9] * 3), N, np.random.default_rng(0), descending, shuffled)
    assert (np.diff(made, axis=1) <= 0).all()
