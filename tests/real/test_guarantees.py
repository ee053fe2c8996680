"""What is stated of other samples, on the recorded outputs of six published CIFAR-10 networks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from encas.cascade import Cascade, Stage
from encas.evaluation import evaluate
from encas.pool import Member, Pool

pytest.importorskip("numba")

from encas.search import search
from encas.search.certificates import (
    ThresholdPath,
    binomial_p_values,
    fixed_sequence,
    further_p_values,
)

DATA = Path(__file__).resolve().parents[2] / "../shared/data/cifar10"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there"),
]


@pytest.fixture(scope="module")
def outputs() -> Any:
    found = np.load(DATA / "outputs.npz")
    logits = found["logits"].astype(np.float32)
    e = np.exp(logits - logits.max(axis=2, keepdims=True))
    probs = (e / e.sum(axis=2, keepdims=True)).astype(np.float16)
    names = [name.decode() for name in found["logits_names"]]
    return names, found["logits_macs"], probs, found["labels"].astype(np.int64)


def make_pool(path: Path, outputs: Any, splits: dict[str, NDArray[np.intp]]) -> Pool:
    names, macs, probs, labels = outputs
    pool = Pool.open_or_create(path, 10)
    for split, rows in splits.items():
        pool = pool.with_split(split, labels[rows])
        for name, of_one, answers in zip(names, macs.tolist(), probs, strict=True):
            member = Member(name=name, source="imported", macs=of_one)
            pool = pool.with_outputs(member, split, answers[rows], "recorded")
    return pool


def test_nine_of_ten_candidates_do_on_test_what_was_stated(outputs: Any, tmp_path: Path) -> None:
    held = []
    for seed in range(20):
        order = np.random.default_rng(100 + seed).permutation(10_000)
        pool = make_pool(tmp_path / str(seed), outputs, {"val": order[:5000], "test": order[5000:]})
        front = search(pool, evaluations=4000, seed=seed, report_fraction=0.3)
        for candidate in front.candidates:
            reported = candidate.cascade.reported
            assert reported is not None and reported.interval is not None
            test = evaluate(candidate.cascade, pool, "test").accuracy
            held.append(reported.interval.low <= test <= reported.interval.high)
    assert len(held) > 500
    assert np.mean(held) >= 0.9


@pytest.mark.parametrize("loss", ["accuracy", "consistency"])
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_certificates_hold_and_keep_most_of_what_is_saved(
    outputs: Any, tmp_path: Path, threshold: float, loss: Any
) -> None:
    pool = make_pool(tmp_path / "pool", outputs, {"all": np.arange(10_000)})
    cascade = Cascade(stages=(Stage(member="resnet20", threshold=threshold), Stage(member="resnet56")))
    path = ThresholdPath.of(cascade, pool, "all")
    losses = path.losses(loss, pool.labels("all")).astype(np.float32)
    n, times, risk, delta = 5000, 1000, 0.01, 0.05
    rng = np.random.default_rng(3)
    first = np.zeros((times, 10_000), np.float32)
    for row in first:
        row[rng.permutation(10_000)[:n]] = 1
    counts = np.arange(n + 1)
    p_values = np.maximum(binomial_p_values(counts, n, risk), further_p_values(counts, n, risk))
    lost = np.maximum.accumulate(losses, axis=0) @ first.T
    found = [fixed_sequence(p_values[column], delta) for column in lost.round().astype(int).T]
    rest = (losses @ (1 - first.T))[found, np.arange(times)] / n
    assert np.mean(rest > risk) <= delta + 2 * np.sqrt(delta * (1 - delta) / times)
    savings = path.savings(np.array([pool.member(name).macs for name in cascade.member_names]))
    assert np.mean(savings[found]) >= 0.8 * savings[len(savings) // 2]
