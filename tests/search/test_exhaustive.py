import itertools

import numpy as np

from encas.search.exhaustive import Exhaustive


def test_exhaustive_search_asks_for_every_genome_once_and_ends() -> None:
    algorithm = Exhaustive(np.array([3, 1, 50, 60]))
    genomes = []
    while len(batch := algorithm.ask()):
        genomes += [tuple(genome) for genome in batch.tolist()]
        algorithm.tell(np.zeros((len(batch), 2)))
    assert genomes == list(itertools.product(range(3), range(1), range(50), range(60)))
