from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("numba")

from encas.cascade import run_cascade
from encas.cost import Timed
from encas.errors import InvalidInput
from encas.evaluation import recorded_answers
from encas.latency import Curve, MemberTime, batch_time_s
from encas.pool import Member, Pool
from encas.preprocess import Preprocess
from encas.search.evaluate import Evaluator

N, M, STAGES = 60, 4, 4


def make_pool(path: Path, outputs: NDArray[np.float16], labels: NDArray[np.int64]) -> Pool:
    pool = Pool.open_or_create(path, outputs.shape[2]).with_split("val", labels)
    for index, probs in enumerate(outputs):
        member = Member(name=f"net{index}", source="imported", macs=10**index)
        pool = pool.with_outputs(member, "val", probs, "test")
    return pool


def coarse_outputs(n_classes: int, rng: np.random.Generator) -> NDArray[np.float16]:
    """Probabilities in eighths: many ties, and many confidences exactly at a threshold."""
    eighths = rng.multinomial(8, rng.dirichlet(np.full(n_classes, 0.4), (M, N)))
    return (eighths / 8).astype(np.float16)


def fine_outputs(n_classes: int, rng: np.random.Generator) -> NDArray[np.float16]:
    return rng.dirichlet(np.full(n_classes, 0.3), (M, N)).astype(np.float16)


def edge_outputs(n_classes: int, rng: np.random.Generator) -> NDArray[np.float16]:
    """Two classes each; one has the float16 number nearest to a threshold, or the number next to it."""
    value = (rng.integers(51, size=(M, N)) / 50).astype(np.float16)
    towards = np.choose(rng.integers(3, size=(M, N)), [np.float16(-1), np.float16(2), value])
    value = np.clip(np.nextafter(value, towards), 0, 1)
    first, second = rng.permuted(np.tile(np.arange(n_classes), (M, N, 1)), axis=2)[..., :2].transpose(2, 0, 1)
    outputs = np.zeros((M, N, n_classes), np.float16)
    np.put_along_axis(outputs, first[..., None], value[..., None], axis=2)
    np.put_along_axis(outputs, second[..., None], (1 - value)[..., None], axis=2)
    return outputs


@pytest.fixture(scope="module", params=[2, 10, 100, 1000])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A third of the samples of each kind."""
    n_classes = request.param
    rng = np.random.default_rng(n_classes)
    kinds = [make(n_classes, rng) for make in (coarse_outputs, fine_outputs, edge_outputs)]
    outputs = np.concatenate([kind[:, i::3] for i, kind in enumerate(kinds)], axis=1)
    return make_pool(tmp_path_factory.mktemp("pool") / "pool", outputs, rng.integers(n_classes, size=N))


def opened(pool: Pool, workers: int = 1) -> Evaluator:
    members = pool.members_with("val")
    costs = np.array([member.macs for member in members], np.float64)
    return Evaluator.open(pool, "val", members, costs, max_stages=STAGES, workers=workers)


def reference(pool: Pool, evaluator: Evaluator, genome: NDArray[np.intp]) -> tuple[float, float]:
    """Error and cost by the definition."""
    cascade = evaluator.space.cascade(genome, pool.names)
    outputs = [pool.probs(name, "val") for name in cascade.member_names]
    macs = [pool.member(name).macs for name in cascade.member_names]
    answers = run_cascade(cascade, lambda stage, rows: outputs[stage][rows], N, macs)
    return float(np.mean(answers.label != pool.labels("val"))), float(np.mean(answers.macs))


@pytest.mark.parametrize("n", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_genomes_get_what_the_definition_says(pool: Pool, n: int) -> None:
    evaluator = opened(pool)
    rng = np.random.default_rng(0)
    genomes = rng.integers(evaluator.space.n_values, size=(n, 2 * STAGES - 1))
    genomes = genomes[genomes[:, :STAGES].any(axis=1)]
    found = evaluator.objectives(genomes)
    expected = np.array([reference(pool, evaluator, genome) for genome in genomes])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.slow
def test_time_is_what_the_definition_says_of_the_exits(pool: Pool) -> None:
    times = [
        MemberTime(
            run=Curve.through([(1, 1.0 + i), (8, 3.0 + 4 * i)]),
            prepare=Curve.through([(1, 0.1 * i)]),
            decode=Curve.through([(1, 0.2)]),
            preprocess=Preprocess(size=(8 * (1 + i // 2), 8)),
            gain=Curve.through([(1, 0.05 * i)]),
        )
        for i in range(M)
    ]
    evaluator = Evaluator.open(pool, "val", pool.file.members, Timed.of(times, 8, N), max_stages=STAGES)
    genomes = np.random.default_rng(2).integers(evaluator.space.n_values, size=(100, 2 * STAGES - 1))
    genomes = genomes[genomes[:, :STAGES].any(axis=1)]
    expected = []
    for genome in genomes:
        cascade = evaluator.space.cascade(genome, pool.names)
        exits = recorded_answers(cascade, pool, "val").exit_stage
        stages = [times[pool.names.index(name)] for name in cascade.member_names]
        reached = [float(np.mean(exits >= stage)) for stage in range(len(stages))]
        expected.append(batch_time_s(stages, reached, 8) / 8)
    np.testing.assert_allclose(evaluator.objectives(genomes)[:, 1], expected, rtol=1e-9)


def test_the_number_of_workers_and_the_company_change_nothing(pool: Pool) -> None:
    alone, together = opened(pool), opened(pool, workers=3)
    genomes = np.random.default_rng(1).integers(alone.space.n_values, size=(50, 2 * STAGES - 1))
    expected = np.concatenate([alone.objectives(genome[None]) for genome in genomes])
    assert together.objectives(genomes).tobytes() == expected.tobytes()


def test_a_genome_without_members_is_the_worst_there_can_be(pool: Pool) -> None:
    evaluator = opened(pool)
    nothing = np.zeros((1, 2 * STAGES - 1), np.intp)
    assert evaluator.objectives(nothing).tolist() == [[1.0, STAGES * 1000.0]]


@pytest.mark.slow
@settings(max_examples=50)
@given(gene=st.integers(0, 50), shift=st.sampled_from([-1, 0, 1]))
def test_a_sample_at_a_threshold_stays_and_one_float16_above_leaves(
    tmp_path_factory: pytest.TempPathFactory, gene: int, shift: int
) -> None:
    at = np.float16(gene / 50)
    value = np.clip(np.nextafter(at, np.float16(2 * shift)) if shift else at, 0, 1)
    other = np.float16(1 - value)
    outputs = np.array([[[value, other]], [[0.5, 0.5]]], np.float16)
    pool = make_pool(tmp_path_factory.mktemp("edge") / "pool", outputs, np.array([0]))
    evaluator = Evaluator.open(pool, "val", pool.file.members, np.array([1.0, 10.0]), max_stages=2)
    leaves = max(np.float32(value), np.float32(other)) > np.float32(gene / 50)
    assert evaluator.objectives(np.array([[1, 2, gene]]))[0, 1] == (1.0 if leaves else 11.0)


def test_outputs_that_hold_nan_are_refused(tmp_path: Path) -> None:
    outputs = np.full((1, 3, 2), 0.5, np.float16)
    pool = make_pool(tmp_path / "pool", outputs, np.zeros(3, np.int64))
    broken = outputs[0].copy()
    broken[1] = np.nan
    np.save(tmp_path / "pool/val/probs/net0.npy", broken)
    with pytest.raises(InvalidInput, match="row 1 holds NaN"):
        opened(pool)
