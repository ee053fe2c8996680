from pathlib import Path

import numpy as np
import pytest

from encas.evaluation import evaluate
from encas.pool import Pool
from encas.search.evaluate import Evaluator
from encas.search.landscape import Landscape


@pytest.mark.slow
def test_cascades_that_answer_in_either_way_do_what_the_landscape_says(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    members = pool.members_with("val")
    costs = np.array([member.macs for member in members], np.float64)
    evaluator = Evaluator.open(pool, "val", members, costs, max_stages=3)
    landscape = Landscape.either(evaluator, pool.names)
    drawn = np.random.default_rng(0).integers(landscape.space.n_values, size=(40, 6))
    genomes = landscape.space.canonical(drawn[drawn[:, :3].any(axis=1)])
    objectives, counts = landscape.evaluate(genomes), landscape.count(genomes)
    answers = set()
    for genome, (error, cost), right in zip(genomes, objectives.tolist(), counts.right, strict=True):
        cascade = landscape.space.cascade(genome, pool.names)
        found = evaluate(cascade, pool, "val")
        assert error == pytest.approx(1 - found.accuracy, abs=1e-12)
        assert cost == pytest.approx(found.macs)
        assert right == round(found.accuracy * found.n)
        answers.add(cascade.combine)
    assert answers == {"mean", "last"}
    assert (landscape.genomes([landscape.space.cascade(genomes[0], pool.names)]) == genomes[:1]).all()
