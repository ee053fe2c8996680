import numpy as np

from encas.search.genome import Space


def test_a_cascade_is_written_back_as_the_genome_that_it_came_from() -> None:
    space, names, rng = Space(5, 4), ("a", "b", "c", "d", "e"), np.random.default_rng(0)
    genomes = np.column_stack(
        [rng.integers(1, 6, (50, 1)), rng.integers(0, 6, (50, 3)), rng.integers(0, 51, (50, 3))]
    )
    for genome in space.canonical(genomes):
        assert space.genome(space.cascade(genome, names), names).tolist() == genome.tolist()
