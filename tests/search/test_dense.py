from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("numba")

from encas.cascade import Rows, run_cascade
from encas.pool import Member, Pool
from encas.search import dense
from encas.search.dense import Dense
from encas.search.genome import Space

M, N, C, STAGES = 3, 70_000, 4, 3


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """More samples than 16 bits can number; probabilities in eighths, so that many are tied."""
    rng = np.random.default_rng(0)
    pool = Pool.open_or_create(tmp_path_factory.mktemp("dense") / "pool", C)
    pool = pool.with_split("val", rng.integers(C, size=N))
    for name in "abc":
        probs = rng.multinomial(8, rng.dirichlet(np.ones(C), N)) / 8
        pool = pool.with_outputs(Member(name=name, source="imported", macs=1), "val", probs, "test")
    return pool


def rows_of(outputs: list[NDArray[np.float16]], stage: int, rows: Rows) -> NDArray[np.float16]:
    return outputs[stage][rows]


@pytest.mark.slow
@pytest.mark.parametrize("kept_bytes", [1 << 30, 0])
def test_single_samples_get_what_the_definition_says(
    pool: Pool, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "_KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(dense, "_BLOCK_BYTES", 500)
    rng, space = np.random.default_rng(1), Space(M, STAGES)
    # What leaves at the first stage never gets here.
    genomes = space.canonical(np.column_stack([rng.integers(1, M + 1, (40, STAGES)), np.full((40, 2), 50)]))
    genomes[:, STAGES + 1] = rng.integers(1, 51, 40)
    runner = Dense(pool, "val", pool.names)
    cascades, samples = rng.integers(40, size=200), rng.choice([0, 5, 65_535, 65_536, 65_541, N - 1], 200)
    right, reached = np.zeros(40, np.int64), np.zeros((40, STAGES), np.int64)
    for half in (slice(0, 100), slice(100, 200)):
        runner.run(genomes, cascades[half], samples[half], right, reached)
    labels = pool.labels("val")
    expected_right, expected_reached = np.zeros_like(right), np.zeros_like(reached)
    for cascade, sample in zip(cascades.tolist(), samples.tolist(), strict=True):
        described = space.cascade(genomes[cascade], pool.names)
        members = [pool.probs(name, "val")[sample : sample + 1] for name in described.member_names]
        answers = run_cascade(described, partial(rows_of, members), 1, [0] * STAGES)
        expected_right[cascade] += answers.label[0] == labels[sample]
        expected_reached[cascade, 1 : answers.exit_stage[0] + 1] += 1
    assert right.tolist() == expected_right.tolist()
    assert reached.tolist() == expected_reached.tolist()
