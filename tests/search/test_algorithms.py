import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import encas.search
from encas.cascade import Cascade, Stage
from encas.evaluation import evaluate
from encas.front import Front
from encas.pool import Member, Pool
from encas.search.algorithm import Algorithm
from encas.search.algorithms import ALGORITHMS, AlgorithmName, algorithm_of, landscape_of, most_stages
from encas.search.evaluate import Evaluator

pytest.importorskip("pymoo")

BUDGET = 1500
ASKING = tuple(name for name in ALGORITHMS if name != "greedy")  # greedy builds, and asks for nothing

# Where nothing is said, all samples are searched on: then what a front says is easily counted.
search = partial(encas.search.search, report_fraction=0)


class Stopped(Exception):
    pass


def figures(front: Front) -> dict[str, Any]:
    return front.file.model_dump(mode="json", exclude={"seconds"})


def asking(
    pool: Pool, name: AlgorithmName, seed: int = 3
) -> tuple[Algorithm, Evaluator, np.ndarray[Any, Any]]:
    members = pool.members_with("val")
    costs = np.array([member.macs for member in members], np.float64)
    evaluator = Evaluator.open(pool, "val", members, costs, max_stages=most_stages(name, 4))
    landscape = landscape_of(name, evaluator, pool.names)
    seeds = landscape.singles()[:0]
    return algorithm_of(name, landscape, evaluator, BUDGET, seed, seeds), evaluator, landscape.space.n_values


@pytest.mark.parametrize("name", ALGORITHMS)
class TestEveryAlgorithm:
    @pytest.mark.slow
    def test_its_front_is_one_and_says_what_its_cascades_do(
        self, pool_path: Path, name: AlgorithmName
    ) -> None:
        pool = Pool.open(pool_path)
        front = search(pool, evaluations=BUDGET, algorithm=name, seed=2)
        assert front.file.algorithm == name
        points = [(candidate.cost, -candidate.error) for candidate in front.candidates]
        assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(points))
        for candidate in front.candidates:
            found = evaluate(candidate.cascade, pool, "val")
            assert candidate.cascade.evaluated == {"val": found}
            assert candidate.error == pytest.approx(1 - found.accuracy, abs=1e-12)
            assert candidate.cost == pytest.approx(found.macs)

    @pytest.mark.slow
    def test_the_same_seed_gives_the_same_front_for_any_number_of_workers(
        self, pool_path: Path, name: AlgorithmName
    ) -> None:
        pool = Pool.open(pool_path)
        one, other = (
            search(pool, evaluations=BUDGET, algorithm=name, seed=7, workers=workers) for workers in (1, 2)
        )
        assert figures(one) == figures(other)

    @pytest.mark.parametrize("budget", [60, 333])
    def test_it_keeps_its_budget(self, pool_path: Path, name: AlgorithmName, budget: int) -> None:
        front = search(Pool.open(pool_path), evaluations=budget, algorithm=name)
        assert 0 < front.file.evaluations["phenotypes"] <= front.file.evaluations["genotypes"] <= budget

    @pytest.mark.slow
    def test_it_ends_where_there_is_little_to_find(self, tmp_path: Path, name: AlgorithmName) -> None:
        rng = np.random.default_rng(0)
        pool = Pool.open_or_create(tmp_path / "pool", 3).with_split("val", rng.integers(3, size=40))
        for macs in (100, 200, 300):
            member = Member(name=f"net{macs}", source="imported", macs=macs)
            pool = pool.with_outputs(member, "val", rng.dirichlet([1, 1, 1], size=40), "by hand")
        front = search(pool, evaluations=100_000, algorithm=name, max_stages=2)
        assert front.file.evaluations["genotypes"] < 100_000
        assert all(len(candidate.cascade.stages) <= 2 for candidate in front.candidates)

    def test_one_member_is_its_own_front(self, tmp_path: Path, name: AlgorithmName) -> None:
        pool = Pool.open_or_create(tmp_path / "pool", 2).with_split("val", np.array([0, 1]))
        member = Member(name="a", source="imported", macs=100)
        pool = pool.with_outputs(member, "val", np.array([[0.75, 0.25], [0.5, 0.5]]), "by hand")
        front = search(pool, algorithm=name)
        assert [(str(c.cascade), c.error, c.cost) for c in front.candidates] == [("a", 0.5, 100)]

    @pytest.mark.slow
    def test_interrupted_it_comes_to_the_same_end(
        self, pool_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: AlgorithmName
    ) -> None:
        monkeypatch.setattr("encas.search.drive._SHOW_EVERY_S", 0.0)
        pool = Pool.open(pool_path)

        def stop(done: int, words: str) -> None:
            del done, words
            raise Stopped

        settings: dict[str, Any] = {"evaluations": BUDGET, "algorithm": name, "seed": 5}
        with pytest.raises(Stopped):
            search(pool, **settings, out=tmp_path / "front", progress=stop, checkpoint_every_s=0)
        resumed = search(pool, **settings, out=tmp_path / "front")
        assert figures(resumed) == figures(search(pool, **settings))
        assert not (tmp_path / "front" / "checkpoint.npz").exists()


@pytest.mark.parametrize("name", ASKING)
class TestEveryAlgorithmThatAsks:
    @pytest.mark.slow
    def test_genes_are_within_their_alphabets(self, pool_path: Path, name: AlgorithmName) -> None:
        algorithm, evaluator, n_values = asking(Pool.open(pool_path), name)
        for _ in range(12):
            genomes = algorithm.ask()
            assert genomes.shape[1] == len(n_values)
            assert (genomes >= 0).all() and (genomes < n_values).all()
            if not len(genomes):
                break
            rng = np.random.default_rng(len(genomes))
            algorithm.tell(rng.random((len(genomes), 2)) * [1.0, evaluator.costs.max()])

    @pytest.mark.slow
    def test_it_draws_from_its_own_generator_only(self, pool_path: Path, name: AlgorithmName) -> None:
        pool = Pool.open(pool_path)
        asked = []
        for noise in (1, 2):
            np.random.seed(noise)  # noqa: NPY002 - the global generator is what must not matter
            algorithm, _, _ = asking(pool, name)
            rows = []
            for _ in range(4):
                rows.append(algorithm.ask())
                algorithm.tell(np.column_stack([rows[-1].sum(axis=1), -rows[-1][:, 0]]).astype(float))
            asked.append(np.concatenate(rows))
        assert np.array_equal(asked[0], asked[1])


@pytest.mark.slow
def test_a_checkpoint_is_not_taken_for_cascades_that_answer_in_another_way(
    pool_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encas.search.drive._SHOW_EVERY_S", 0.0)
    pool = Pool.open(pool_path)

    def stop(done: int, words: str) -> None:
        del done, words
        raise Stopped

    with pytest.raises(Stopped):
        search(
            pool,
            evaluations=900,
            algorithm="grid-mean",
            out=tmp_path / "f",
            progress=stop,
            checkpoint_every_s=0,
        )
    front = search(pool, evaluations=900, algorithm="grid-last", out=tmp_path / "f")
    assert figures(front) == figures(search(pool, evaluations=900, algorithm="grid-last"))


@pytest.mark.slow
def test_each_kind_of_cascade_is_what_its_authors_mean(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    kinds = {}
    for name in ALGORITHMS:
        cascades = [c.cascade for c in search(pool, evaluations=BUDGET, algorithm=name).candidates]
        kinds[name] = {(cascade.combine, cascade.confidence) for cascade in cascades}
        if name == "ensemble":
            assert all(s.threshold == 1 for cascade in cascades for s in cascade.stages[:-1])
            assert max(len(cascade.stages) for cascade in cascades) > 1
    mean, last = ("mean", "max-probability"), ("last", "max-probability")
    for name in ("mo-gomea", "nsga2", "nsga3", "random"):
        assert kinds.pop(name) == {mean, last}
    assert kinds == {
        "mo-gomea-2018": {mean},
        "greedy": {("last", "logit-gap")},
        "grid-last": {last},
        "grid-mean": {mean},
        "ensemble": {mean},
    }


def test_a_grid_of_pairs_holds_the_best_pair(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    front = search(pool, evaluations=10_000, algorithm="grid-last", max_stages=2)
    cheap, dear = pool.names[0], pool.names[-1]
    for threshold in (0.3, 0.5, 0.8):
        cascade = Cascade(
            stages=(Stage(member=cheap, threshold=threshold), Stage(member=dear)), combine="last"
        )
        found = evaluate(cascade, pool, "val")
        assert any(
            c.accuracy >= found.accuracy - 1e-12 and c.cost <= found.macs + 1e-6 for c in front.candidates
        )
