import re
from pathlib import Path

import numpy as np
import pytest

from encas.search.algorithm import Genomes, Objectives
from encas.search.checkpoint import Checkpoint
from encas.search.drive import PATIENCE, Watch, drive
from encas.search.exhaustive import Exhaustive
from encas.search.gomea import MoGomea
from encas.search.ledger import Evaluations, Ledger
from encas.search.pareto import hypervolume

UNIT = np.array([0.5, 2.0])


def objectives_of(genomes: Genomes) -> Objectives:
    return np.column_stack([genomes[:, 0], genomes[:, 1]]) / 10


def same(genomes: Genomes) -> Genomes:
    return genomes


def ledger(budget: int) -> Ledger:
    return Ledger(same, objectives_of, budget, Evaluations.none(2))


class Repeating:
    """Asks for the same 100 genomes for ever."""

    def __init__(self) -> None:
        self.asked = 0
        self.told: list[Objectives] = []

    def ask(self) -> Genomes:
        self.asked += 100
        return np.arange(200).reshape(100, 2)

    def tell(self, objectives: Objectives) -> None:
        self.told.append(objectives)


class Clock:
    """Every look at it takes a quarter of a second."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.25
        return self.now_s


def test_a_budget_ends_the_search() -> None:
    held = ledger(1234)
    drive(MoGomea(np.array([1000, 1000]), 2, np.random.default_rng(0)), held, UNIT, Watch(held, (1, 1)))
    assert held.n_genotypes == 1234


def test_an_algorithm_that_has_finished_ends_the_search() -> None:
    held = ledger(1_000_000)
    drive(Exhaustive(np.array([30, 40])), held, UNIT, Watch(held, (1, 1)))
    assert held.n_genotypes == 1200


def test_finding_nothing_new_for_long_ends_the_search() -> None:
    held, algorithm = ledger(1000), Repeating()
    drive(algorithm, held, UNIT, Watch(held, (1, 1)))
    assert held.n_genotypes == 100
    assert PATIENCE < algorithm.asked <= PATIENCE + 300


@pytest.mark.slow
def test_a_space_without_anything_new_ends_a_search_by_mo_gomea() -> None:
    held = ledger(1000)
    drive(MoGomea(np.array([17, 27]), 2, np.random.default_rng(0)), held, UNIT, Watch(held, (1, 1)))
    assert held.n_genotypes == 17 * 27


def test_the_algorithm_is_told_objectives_in_its_own_unit() -> None:
    held, algorithm = ledger(1000), Repeating()
    drive(algorithm, held, UNIT, Watch(held, (1, 1)))
    assert algorithm.told[0].tolist() == (objectives_of(algorithm.ask()) / [0.5, 2.0]).tolist()


def test_progress_adds_up_and_tells_speed_and_hypervolume() -> None:
    held, told = ledger(500), []
    watch = Watch(held, (1.0, 1.0), lambda n, words: told.append((n, words)), clock=Clock())
    drive(MoGomea(np.array([1000, 1000]), 2, np.random.default_rng(0)), held, UNIT, watch)
    assert len(told) > 2
    assert sum(n for n, _ in told) == 500
    share = hypervolume(held.evaluations.objectives, (1.0, 1.0))
    assert re.fullmatch(rf"[\d,]+/s, hypervolume {share:.4f}", told[-1][1])


def test_checkpoints_are_kept_when_due(tmp_path: Path) -> None:
    held = ledger(500)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz", "p")
    watch = Watch(held, (1, 1), checkpoint=checkpoint, keep_every_s=2.0, clock=Clock())
    drive(MoGomea(np.array([1000, 1000]), 2, np.random.default_rng(0)), held, UNIT, watch)
    kept = checkpoint.read(2)
    assert 0 < len(kept.genomes) <= 500
    assert (kept.objectives == objectives_of(kept.genomes)).all()


def test_an_interruption_keeps_everything_and_goes_on_outwards(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz", "p")

    def interrupted(genomes: Genomes) -> Objectives:
        if held.n_genotypes > 300:
            raise KeyboardInterrupt
        return objectives_of(genomes)

    held = Ledger(same, interrupted, 1000, Evaluations.none(2))
    algorithm = MoGomea(np.array([1000, 1000]), 2, np.random.default_rng(0))
    with pytest.raises(KeyboardInterrupt):
        drive(algorithm, held, UNIT, Watch(held, (1, 1), checkpoint=checkpoint))
    assert len(checkpoint.read(2).genomes) == held.n_genotypes > 300
