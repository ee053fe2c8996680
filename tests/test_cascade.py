import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from encas.cascade import (
    Answers,
    Cascade,
    Combine,
    Confidence,
    PoolReference,
    Stage,
    as_recorded,
    confidence_of,
    exit_fractions,
    run_cascade,
)
from encas.errors import InvalidInput
from encas.files import write_bytes


def floats(rows: Any) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


def cascade(
    thresholds: Sequence[float], combine: Combine = "mean", confidence: Confidence = "max-probability"
) -> Cascade:
    """A cascade of the members a, b, c ... with thresholds between them."""
    names = "abcdefgh"[: len(thresholds) + 1]
    stages = [Stage(member=name, threshold=t) for name, t in zip(names, [*thresholds, None], strict=True)]
    return Cascade(stages=tuple(stages), combine=combine, confidence=confidence)


def run(what: Cascade, probs: Any, macs: Sequence[int] | None = None) -> Answers:
    """Run over (k, n, c) probabilities."""
    probs = np.asarray(probs, np.float32)
    return run_cascade(what, lambda stage, rows: probs[stage, rows], probs.shape[1], macs or [1] * len(probs))


# --- semantics, by hand ---


def test_the_sure_leave_and_the_others_are_averaged() -> None:
    answers = run(
        cascade([0.7]),
        [[[0.75, 0.25], [0.5, 0.5], [0.625, 0.375]], [[0.0, 1.0], [0.25, 0.75], [0.125, 0.875]]],
        macs=[10, 100],
    )
    assert answers.exit_stage.tolist() == [0, 1, 1]
    assert answers.probs.tolist() == [[0.75, 0.25], [0.375, 0.625], [0.375, 0.625]]
    assert answers.label.tolist() == [0, 1, 1]
    assert answers.confidence.tolist() == [0.75, 0.625, 0.625]
    assert answers.macs.tolist() == [10, 110, 110]
    assert exit_fractions(answers.exit_stage, 2) == (1 / 3, 2 / 3)


def test_a_sample_at_the_threshold_stays() -> None:
    answers = run(cascade([0.75]), [[[0.75, 0.25], [0.7505, 0.2495]], [[0.5, 0.5], [0.5, 0.5]]])
    assert answers.exit_stage.tolist() == [1, 0]


def test_the_threshold_is_compared_as_float32() -> None:
    # 0.1 in float32 is a little more than 0.1: a confidence of exactly that float32 is not above it.
    probs = np.full((1, 10), as_recorded(np.array([0.1]))[0])
    at = Cascade(stages=(Stage(member="a", threshold=float(probs[0, 0])), Stage(member="b")))
    assert run(at, [probs, probs]).exit_stage.tolist() == [1]


def test_three_stages_divide_by_three() -> None:
    answers = run(cascade([1, 1]), [[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]], [[0.0, 0.5, 0.5]]])
    assert answers.probs.tolist() == [[np.float32(1) / np.float32(3), 0.5, np.float32(0.5) / np.float32(3)]]
    assert answers.label.tolist() == [1]
    assert answers.exit_stage.tolist() == [2]


def test_the_mean_decides_whether_to_leave_not_the_latest_member() -> None:
    # After stage 1 the mean is (0.5, 0.5) although member b alone is sure.
    answers = run(cascade([0.9, 0.9]), [[[0.875, 0.125]], [[0.125, 0.875]], [[0.0, 1.0]]])
    assert answers.exit_stage.tolist() == [2]


def test_the_first_of_equally_probable_classes_wins() -> None:
    assert run(cascade([]), [[[0.25, 0.375, 0.375]]]).label.tolist() == [1]


def test_last_replaces_instead_of_averaging() -> None:
    probs = [[[0.5, 0.5]], [[0.25, 0.75]], [[1.0, 0.0]]]
    answers = run(cascade([0.7, 0.7], combine="last"), probs)
    assert answers.exit_stage.tolist() == [1]
    assert answers.probs.tolist() == [[0.25, 0.75]]
    assert run(cascade([0.7, 0.7]), probs).exit_stage.tolist() == [2]


def test_the_logit_gap_is_the_logarithm_of_the_ratio() -> None:
    probs = floats([[0.5, 0.125, 0.375], [0.25, 0.5, 0.25], [1, 0, 0]])
    gap = confidence_of(probs, "logit-gap")
    np.testing.assert_allclose(gap[:2], np.log([4 / 3, 2]), rtol=1e-6)
    assert gap[2] == pytest.approx(25 * np.log(2))  # as if the zero were half the smallest float16
    answers = run(cascade([0.5], combine="last", confidence="logit-gap"), [probs, probs])
    assert answers.exit_stage.tolist() == [1, 0, 0]


def test_one_class_is_always_sure() -> None:
    assert confidence_of(np.ones((2, 1), np.float32), "logit-gap").tolist() == pytest.approx(
        [25 * np.log(2)] * 2
    )
    assert run(cascade([0.99]), [[[1.0]], [[1.0]]]).exit_stage.tolist() == [0]


def test_nobody_asks_a_member_that_nobody_reaches() -> None:
    asked = []

    def member_probs(stage: int, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        asked.append((stage, rows.tolist()))
        return floats([[0.75, 0.25], [0.5, 0.5], [0.5, 0.5]])[rows] if stage == 0 else floats([[1, 0]] * 2)

    run_cascade(cascade([0.6, 0.6]), member_probs, 3, [1, 1, 1])
    assert asked == [(0, [0, 1, 2]), (1, [1, 2])]


def test_no_samples_give_no_answers() -> None:
    answers = run(cascade([0.5]), np.zeros((2, 0, 3)))
    assert len(answers) == 0
    assert exit_fractions(answers.exit_stage, 2) == (0.0, 0.0)


# --- properties ---


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[float], NDArray[np.float32]]:
    """Thresholds of a grid that probabilities can hit, and (k, n, c) probabilities."""
    k, n, c = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 4))
    weights = draw(st.lists(st.integers(1, 8), min_size=k * n * c, max_size=k * n * c))
    raw = np.array(weights, np.float32).reshape(k, n, c)
    thresholds = draw(st.lists(st.sampled_from([0, 0.25, 0.5, 0.75, 1]), min_size=k - 1, max_size=k - 1))
    return thresholds, as_recorded(raw / raw.sum(axis=2, keepdims=True))


@settings(max_examples=50)
@given(problems())
def test_thresholds_of_one_make_a_plain_ensemble(problem: tuple[list[float], NDArray[np.float32]]) -> None:
    thresholds, probs = problem
    answers = run(cascade([1.0] * len(thresholds)), probs)
    total = probs[0]
    for more in probs[1:]:
        total = total + more
    assert (answers.probs == total / np.float32(len(probs))).all()
    assert (answers.exit_stage == len(probs) - 1).all()


@settings(max_examples=50)
@given(problems())
def test_thresholds_of_zero_leave_the_first_member_alone(
    problem: tuple[list[float], NDArray[np.float32]],
) -> None:
    thresholds, probs = problem
    answers = run(cascade([0.0] * len(thresholds)), probs)
    assert (answers.probs == probs[0]).all()
    assert (answers.exit_stage == 0).all()


@settings(max_examples=50)
@given(problems(), st.randoms())
def test_the_order_of_the_samples_changes_nothing(
    problem: tuple[list[float], NDArray[np.float32]], random: Any
) -> None:
    thresholds, probs = problem
    order = list(range(probs.shape[1]))
    random.shuffle(order)
    straight, shuffled = run(cascade(thresholds), probs), run(cascade(thresholds), probs[:, order])
    for name in ("probs", "label", "confidence", "exit_stage", "macs"):
        assert (getattr(straight, name)[order] == getattr(shuffled, name)).all()


@settings(max_examples=50)
@given(problems(), st.integers(0, 6))
def test_splitting_a_batch_changes_nothing(problem: tuple[list[float], NDArray[np.float32]], at: int) -> None:
    thresholds, probs = problem
    whole = run(cascade(thresholds), probs)
    parts = [run(cascade(thresholds), probs[:, rows]) for rows in (slice(0, at), slice(at, None))]
    filled = [part for part in parts if len(part)]
    for name in ("probs", "label", "confidence", "exit_stage", "macs"):
        assert (getattr(whole, name) == np.concatenate([getattr(part, name) for part in filled])).all()


@settings(max_examples=50)
@given(problems())
def test_who_left_was_sure_and_who_stayed_was_not(
    problem: tuple[list[float], NDArray[np.float32]],
) -> None:
    thresholds, probs = problem
    answers = run(cascade(thresholds), probs, macs=[1, 10, 100, 1000][: len(probs)])
    for i, stage in enumerate(answers.exit_stage):
        means = (
            np.add.accumulate(probs[:, i], axis=0) / np.arange(1, len(probs) + 1, dtype=np.float32)[:, None]
        )
        tops = means.max(axis=1)
        assert all(tops[j] <= thresholds[j] for j in range(stage))
        assert stage == len(thresholds) or tops[stage] > thresholds[stage]
        assert answers.macs[i] == int("1111"[: stage + 1])


# --- the file ---


def test_a_cascade_comes_back_from_its_file(tmp_path: Path) -> None:
    written = cascade([0.62]).model_copy(
        update={"pool": PoolReference(path=str((tmp_path / "pool").resolve()), sha256="0" * 64)}
    )
    written.write(tmp_path / "deep" / "cascade.json")
    content = json.loads((tmp_path / "deep" / "cascade.json").read_text())
    assert content["format"] == "encas-cascade/1"
    assert content["stages"] == [{"member": "a", "threshold": 0.62}, {"member": "b", "threshold": None}]
    assert content["pool"]["path"] == "../pool"
    assert Cascade.read(tmp_path / "deep" / "cascade.json") == written


def test_a_cascade_reads_as_a_sentence() -> None:
    assert str(cascade([0.62, 1])) == "a >0.62 b >1 c"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": []}, "stages"),
        ({"stages": [{"member": "a", "threshold": 0.5}]}, r"the last stage \(a\) answers always"),
        (
            {"stages": [{"member": "a", "threshold": 1.5}, {"member": "b", "threshold": None}]},
            r"stage 0 \(a\): the threshold must be a number in \[0, 1\], got 1.5",
        ),
        (
            {"stages": [{"member": "a", "threshold": -0.1}, {"member": "b", "threshold": None}]},
            r"must be a number in \[0, 1\], got -0.1",
        ),
        ({"stages": [{"member": "a"}, {"member": "b"}]}, "got null"),
        ({"stages": [{"member": "", "threshold": None}]}, "member"),
        ({"combine": "product"}, "combine"),
        ({"confidence": "entropy"}, "confidence"),
        ({"format": "encas-cascade/2"}, "format"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_file_that_is_no_cascade_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = {"format": "encas-cascade/1", "stages": [{"member": "a", "threshold": None}], **change}
    write_bytes(tmp_path / "cascade.json", json.dumps(content).encode())
    with pytest.raises(InvalidInput, match=message) as caught:
        Cascade.read(tmp_path / "cascade.json")
    assert str(caught.value).startswith(str(tmp_path / "cascade.json"))
    assert "\n" not in str(caught.value)


def test_a_logit_gap_may_be_above_one() -> None:
    assert cascade([2.5], confidence="logit-gap").stages[0].threshold == 2.5
