from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from encas.cascade import Cascade, Stage, exit_fractions
from encas.errors import InvalidInput
from encas.evaluation import evaluate, recorded_answers
from encas.held_out import HeldOut
from encas.pool import Member, Pool
from encas.search import certify
from encas.search.certificates import (
    ThresholdPath,
    binomial_p_values,
    conformal_risk_control,
    fixed_sequence,
    further_p_values,
    hoeffding_bentkus_p_values,
)

TWO = Cascade(stages=(Stage(member="hidden016", threshold=0.4), Stage(member="hidden512")))


# --- the numbers ---


@pytest.mark.parametrize("risk", [0.01, 0.1, 0.37])
def test_p_values_are_those_of_mapie(risk: float) -> None:
    methods = pytest.importorskip("mapie.risk_control.methods")
    n, n_lost = 1000, np.array([0, 1, 4, 9, 10, 60, 100, 370, 999, 1000])
    theirs = methods.compute_hoeffding_bentkus_p_value(n_lost / n, n, risk)[:, 0]
    np.testing.assert_allclose(hoeffding_bentkus_p_values(n_lost / n, n, risk), theirs, rtol=1e-9)
    # Of losses of 0 or 1 the binomial distribution is exact; MAPIE takes Hoeffding's bound where it is lower.
    theirs = methods.compute_hoeffding_bentkus_p_value(n_lost / n, n, risk, binary=True)[:, 0]
    ours = binomial_p_values(n_lost, n, risk)
    np.testing.assert_allclose(ours[ours < 0.3], theirs[ours < 0.3], rtol=1e-9)


def test_the_binomial_p_value_can_be_counted_by_hand() -> None:
    # None or one of ten at a risk of a half: 1 and 10 of 1,024.
    np.testing.assert_allclose(binomial_p_values(np.array([0, 1]), 10, 0.5), [1 / 1024, 11 / 1024])


def test_bounds_for_any_losses_are_never_below_those_for_losses_of_0_or_1() -> None:
    n_lost = np.arange(0, 40)
    exact = binomial_p_values(n_lost, 1000, 0.05)
    assert np.all(hoeffding_bentkus_p_values(n_lost / 1000, 1000, 0.05) >= exact - 1e-12)


def test_a_fixed_sequence_ends_at_the_first_failure() -> None:
    assert fixed_sequence(np.array([0.01, 0.05, 0.06, 0.0]), 0.05) == 1
    assert fixed_sequence(np.array([0.01, 0.02]), 0.05) == 1
    assert fixed_sequence(np.array([0.2, 0.0]), 0.05) == -1


def test_conformal_risk_control_counts_one_sample_more() -> None:
    n_lost = np.array([0, 1, 2, 5])
    # Of 20 samples 1, 2, 3 and 6 are counted as lost.
    assert conformal_risk_control(n_lost, 19, 0.15) == 2
    assert conformal_risk_control(n_lost, 19, 0.149) == 1
    assert conformal_risk_control(n_lost, 19, 0.3) == 3
    assert conformal_risk_control(n_lost, 19, 0.049) == -1


def test_p_values_of_further_samples_can_be_counted_by_hand() -> None:
    # Of 2 + 2 samples more than none of the second two is lost, and none of the first: the first that gets
    # lost is one of the second two, or with one of the first lost, at least one of the first two lost is.
    np.testing.assert_allclose(further_p_values(np.array([0, 1]), 2, 0.4), [1 / 2, 5 / 6])


def test_further_samples_are_harder_to_guarantee_than_all_there_are() -> None:
    n_lost = np.arange(0, 45)
    assert np.all(further_p_values(n_lost, 5000, 0.01) > binomial_p_values(n_lost, 5000, 0.01))


# --- the path of thresholds ---


def test_the_path_goes_from_all_stages_over_the_cascade_to_its_first_stage(
    digits_cascade: Cascade, pool_path: Path
) -> None:
    pool = Pool.open(pool_path)
    path = ThresholdPath.of(digits_cascade, pool, "val")
    assert path.thresholds[0].tolist() == [1, 1]
    assert path.thresholds[500].tolist() == [0.8, 0.8]
    assert path.thresholds[-1].tolist() == [0, 0]
    assert np.all(np.diff(path.thresholds, axis=0) <= 0)
    assert np.all(np.diff(path.exit_stage.astype(int), axis=0) <= 0)
    truth = pool.labels("val")
    for row in (0, 250, 500, 750, 1000):
        stages = tuple(
            stage.model_copy(update={"threshold": t})
            for stage, t in zip(digits_cascade.stages, (*path.thresholds[row].tolist(), None), strict=True)
        )
        answers = recorded_answers(Cascade(stages=stages), pool, "val")
        np.testing.assert_array_equal(path.exit_stage[row], answers.exit_stage)
        of_all = path.labels[-1]
        consistency, accuracy = (path.losses(kind, truth)[row] for kind in ("consistency", "accuracy"))
        np.testing.assert_array_equal(consistency, answers.label != of_all)
        np.testing.assert_array_equal(accuracy, (of_all == truth) & (answers.label != truth))
        macs = np.array([pool.member(name).macs for name in digits_cascade.member_names])
        assert path.savings(macs)[row] == pytest.approx(1 - answers.macs.mean() / macs.sum())


def test_a_cascade_by_logit_gaps_starts_where_nobody_is_sure_enough(pool_path: Path) -> None:
    cascade = TWO.model_copy(update={"combine": "last", "confidence": "logit-gap"})
    path = ThresholdPath.of(cascade, Pool.open(pool_path), "val")
    assert set(path.exit_stage[0]) == {1}
    assert set(path.exit_stage[-1]) <= {0, 1}
    assert not path.losses("consistency", np.zeros(600, np.int64))[0].any()


# --- certificates ---


def test_a_certificate_says_what_was_seen(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    certified = certify(TWO, pool, risk=0.02, confidence=0.9, loss="consistency", split="test")
    certificate = certified.certificate
    assert certificate is not None
    assert (certificate.split, certificate.n, certificate.risk, certificate.confidence) == (
        "test",
        600,
        0.02,
        0.9,
    )
    assert certificate.thresholds == (certified.stages[0].threshold,)
    assert certified.stages[0].threshold != TWO.stages[0].threshold
    everything = certified.model_copy(
        update={"stages": (Stage(member="hidden016", threshold=1.0), Stage(member="hidden512"))}
    )
    here, there = (recorded_answers(cascade, pool, "test") for cascade in (certified, everything))
    assert certificate.n_lost == np.sum(here.label != there.label)
    assert certificate.p_value is not None and certificate.p_value <= 0.1
    assert certificate.saving == pytest.approx(1 - here.macs.mean() / there.macs.mean())
    before = recorded_answers(TWO, pool, "test")
    assert certificate.saving_before == pytest.approx(1 - before.macs.mean() / there.macs.mean())
    assert certified.evaluated == {"test": evaluate(certified, pool, "test")}
    assert "at most 2 % answered otherwise than by all stages (confidence 0.9, learn-then-test" in str(
        certificate
    )


@pytest.mark.slow
def test_more_risk_saves_more_and_consistency_costs_more(pool_path: Path) -> None:
    pool = Pool.open(pool_path)

    def saving(**settings: Any) -> float:
        found = certify(TWO, pool, split="test", **settings).certificate
        assert found is not None
        return found.saving

    risks = [saving(risk=risk) for risk in (0.01, 0.05, 0.1)]
    assert risks == sorted(risks) and risks[0] < risks[-1]
    assert saving(risk=0.05, confidence=0.999) < saving(risk=0.05)
    assert saving(risk=0.05, loss="consistency") <= saving(risk=0.05)
    in_the_mean = certify(TWO, pool, risk=0.05, method="conformal-risk-control").certificate
    assert in_the_mean is not None
    assert (in_the_mean.confidence, in_the_mean.p_value) == (None, None)
    assert "(in the mean, conformal-risk-control" in str(in_the_mean)
    assert (in_the_mean.n_lost + 1) / 601 <= 0.05


def test_consistency_does_not_look_at_the_labels(pool_path: Path, tmp_path: Path) -> None:
    pool = Pool.open(pool_path)
    unlabelled = Pool.open_or_create(tmp_path / "traffic", pool.n_classes)
    unlabelled = unlabelled.with_split("test", np.zeros(600, np.int64))
    for name in TWO.member_names:
        member = Member(name=name, source="imported", macs=pool.member(name).macs)
        unlabelled = unlabelled.with_outputs(member, "test", pool.probs(name, "test"), "numpy")
    one, other = (certify(TWO, some, risk=0.05, loss="consistency") for some in (pool, unlabelled))
    assert one.certificate == other.certificate


def test_of_a_searched_split_only_what_was_kept_out_can_guarantee(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    held_out = HeldOut.of(pool, "val", 0.5)
    cascade = TWO.model_copy(update={"searched": held_out.searched})
    certified = certify(cascade, pool, risk=0.05, split="val")
    assert certified.certificate is not None
    assert (certified.certificate.split, certified.certificate.n) == ("val-report", 300)
    assert certified.evaluated == {"val-report": evaluate(certified, pool, "val", held_out.rows)}
    whole = TWO.model_copy(update={"searched": HeldOut.of(pool, "val", 0).searched})
    with pytest.raises(InvalidInput, match="split 'val': the cascade was chosen by these samples"):
        certify(whole, pool, risk=0.05, split="val")


def test_a_certified_cascade_can_be_written_and_its_thresholds_not_be_touched(
    pool_path: Path, tmp_path: Path
) -> None:
    certified = certify(TWO, Pool.open(pool_path), risk=0.05)
    certified.write(tmp_path / "c.json")
    assert Cascade.read(tmp_path / "c.json") == certified
    text = (tmp_path / "c.json").read_text()
    threshold = f'"threshold": {certified.stages[0].threshold}'
    assert threshold in text
    (tmp_path / "c.json").write_text(text.replace(threshold, '"threshold": 0.1'))
    with pytest.raises(InvalidInput, match="certificate is about other thresholds than the stages have"):
        Cascade.read(tmp_path / "c.json")


def test_exit_fractions_of_a_certified_cascade_are_those_of_its_path(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    certified = certify(TWO, pool, risk=0.05)
    assert certified.certificate is not None
    path = ThresholdPath.of(TWO, pool, "test")
    row = round(certified.certificate.step * 500)
    found = exit_fractions(path.exit_stage[row].astype(np.intp), 2)
    assert certified.evaluated["test"].exit_fractions == found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"risk": 0.0}, "risk: must be between 0 and 1, got 0"),
        ({"confidence": 1.0}, "confidence: must be between 0 and 1, got 1"),
        ({"loss": "speed"}, "loss 'speed': must be one of accuracy, consistency"),
        ({"method": "magic"}, "method 'magic': must be one of learn-then-test, conformal-risk-control"),
        ({"risk": 0.004}, "600 samples of 'test' are too few to guarantee a risk of 0.004; at least 1000"),
        ({"risk": 0.001, "method": "conformal-risk-control"}, "at least 999 are needed"),
        ({"split": "train"}, "no split 'train'"),
    ],
)
def test_what_cannot_be_guaranteed_is_one_line(pool_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        certify(TWO, Pool.open(pool_path), **settings)
    assert "\n" not in str(caught.value)


def test_one_stage_has_nothing_to_certify(pool_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has one stage, so no threshold"):
        certify(Cascade(stages=(Stage(member="hidden016"),)), Pool.open(pool_path))


# --- the guarantee ---


def lost_along_the_path(pool_path: Path, loss: Any) -> NDArray[np.float64]:
    """(s, 600) what is lost of the test split, and stays lost."""
    pool = Pool.open(pool_path)
    losses = ThresholdPath.of(TWO, pool, "test").losses(loss, pool.labels("test"))
    return np.maximum.accumulate(losses, axis=0).astype(np.float64)


def ends(lost: NDArray[np.float64], n: int, risk: float, delta: float, *, further: bool = True) -> list[int]:
    """Where the certificates end that rest on (s, times) losses of n samples."""
    counts = np.arange(n + 1)
    p_values = binomial_p_values(counts, n, risk)
    if further:
        p_values = np.maximum(p_values, further_p_values(counts, n, risk))
    return [fixed_sequence(p_values[column], delta) for column in lost.round().astype(int).T]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["accuracy", "consistency"])
def test_the_risk_is_exceeded_as_rarely_as_stated(pool_path: Path, loss: Any) -> None:
    lost = lost_along_the_path(pool_path, loss)
    true = lost.mean(axis=1)  # these 600 stand for all there are; certificates rest on draws from them
    rng, times, n, risk, delta = np.random.default_rng(1), 1000, 400, 0.05, 0.1
    # How often each sample is drawn: what is lost is then a product of matrices.
    drawn = lost @ rng.multinomial(n, np.full(600, 1 / 600), size=times).T
    bound = delta + 2 * np.sqrt(delta * (1 - delta) / times)
    exceeded = true[ends(drawn, n, risk, delta, further=False)] > risk
    assert 0.01 < exceeded.mean() <= bound
    assert np.mean(true[ends(drawn, n, risk, delta)] > risk) <= exceeded.mean()
    controlled = [conformal_risk_control(column, n, risk) for column in drawn.T]
    assert 0.5 * risk < true[controlled].mean() <= risk


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["accuracy", "consistency"])
def test_as_many_further_samples_lose_no_more_than_stated_as_rarely(pool_path: Path, loss: Any) -> None:
    lost = lost_along_the_path(pool_path, loss)
    rng, times, n, risk, delta = np.random.default_rng(2), 1000, 300, 0.05, 0.1
    first = np.array([rng.permutation(600) < n for _ in range(times)], np.float64)
    found = ends(lost @ first.T, n, risk, delta)
    further = (lost @ (1 - first.T))[found, np.arange(times)] / n
    assert 0.02 < np.mean(further > risk) <= delta + 2 * np.sqrt(delta * (1 - delta) / times)
