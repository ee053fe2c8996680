"""Thresholds with a statistical guarantee: what leaving early loses against running all stages.

Cascades stand in a row from the one that never leaves early, which loses nothing, over that with the
thresholds that were found, to the one that always leaves at once. Samples that nothing was chosen by decide
how far along the row the guarantee holds.

Source: Angelopoulos et al., Learn then Test, arXiv:2110.01052; Angelopoulos et al., Conformal Risk Control,
ICLR 2024; for early exits Jazbec et al., Fast yet Safe, NeurIPS 2024, arXiv:2405.20915.
"""

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, hypergeom

from encas.cascade import Cascade, confidence_of, run_step
from encas.certificate import Certificate, Loss, Method
from encas.errors import InvalidInput
from encas.evaluation import evaluate
from encas.held_out import HeldOut
from encas.pool import Pool

_STEPS = 500  # from never leaving early to the thresholds that were found, and as many beyond


@dataclass(frozen=True)
class ThresholdPath:
    """What s cascades of k stages make of n samples, from the safest to the boldest."""

    step: NDArray[np.float64]  # (s,) 0 to 2, see `Certificate.step`
    thresholds: NDArray[np.float64]  # (s, k - 1)
    exit_stage: NDArray[np.int8]  # (s, n)
    labels: NDArray[np.intp]  # (k, n) answers of those who leave after each stage

    @classmethod
    def of(
        cls, cascade: Cascade, pool: Pool, split: str, rows: NDArray[np.intp] | None = None
    ) -> "ThresholdPath":
        """Run all stages on a split's recorded outputs, or on those of some rows."""
        labels, confidences = _stages(cascade, pool, split, rows)
        step, thresholds = _thresholds(cascade)
        exit_stage = np.full((len(step), labels.shape[1]), len(labels) - 1, np.int8)
        for j in reversed(range(len(labels) - 1)):
            exit_stage[confidences[j] > thresholds[:, j, None].astype(np.float32)] = j
        return cls(step, thresholds, exit_stage, labels)

    def losses(self, kind: Loss, truth: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(s, n) which samples are lost; consistency does not look at the truth."""
        of_all = self.labels[-1]
        is_lost = self.labels != (of_all if kind == "consistency" else truth)
        if kind == "accuracy":
            is_lost &= of_all == truth
        samples = np.arange(self.labels.shape[1])
        return np.array([is_lost[stages, samples] for stages in self.exit_stage])

    def savings(self, macs: NDArray[np.int64]) -> NDArray[np.float64]:
        """(s,) share of the cost of all stages that is saved, given the (k,) cost of each."""
        ends = np.cumsum(macs) / max(macs.sum(), 1)
        return np.array([1 - ends[stages].mean() for stages in self.exit_stage])


def certify(
    cascade: Cascade,
    pool: Pool,
    *,
    risk: float = 0.01,
    confidence: float = 0.95,
    loss: Loss = "accuracy",
    method: Method = "learn-then-test",
    split: str = "test",
) -> Cascade:
    """Move a cascade's thresholds to where the guarantee still holds.

    Args:
        cascade: At least two stages.
        pool: All members must have recorded outputs on the split.
        risk: Largest share of samples that may be lost, see `Certificate`.
        confidence: Of all certificates by "learn-then-test" at most one in 1 / (1 - confidence) is wrong.
            Conformal risk control does not use it: there the mean loss over many certificates is at most
            `risk`.
        loss: "accuracy" or "consistency"; the second needs no labels, so unlabelled samples serve too.
        method: "learn-then-test" or "conformal-risk-control".
        split: Samples that neither the search nor anybody has chosen the cascade by. Of a split that was
            searched on, those are taken that were kept out.

    Returns:
        The cascade with other thresholds, its certificate, and its figures on these samples.

    Raises:
        InvalidInput: The samples were searched on, or are too few.
    """
    _check(cascade, risk, confidence)
    for setting, value, known in (("loss", loss, get_args(Loss)), ("method", method, get_args(Method))):
        if value not in known:
            raise InvalidInput(f"{setting} '{value}': must be one of {', '.join(known)}")
    name, rows = _samples(cascade, pool, split)
    path = ThresholdPath.of(cascade, pool, split, rows)
    truth = pool.labels(split) if rows is None else pool.labels(split)[rows]
    losses = path.losses(loss, truth)
    n = losses.shape[1]
    # The proofs need losses that only grow along the row: what was lost once counts as lost from there on.
    n_lost = np.maximum.accumulate(losses, axis=0).sum(axis=1)
    if method == "learn-then-test":
        p_values = np.maximum(binomial_p_values(n_lost, n, risk), further_p_values(n_lost, n, risk))
        last = fixed_sequence(p_values, 1 - confidence)
    else:
        last = conformal_risk_control(n_lost, n, risk)
    if last < 0:
        raise InvalidInput(
            f"{pool.path}: {n} samples of '{name}' are too few to guarantee a risk of {risk:g}; "
            f"at least {_fewest(risk, confidence, method)} are needed"
        )
    thresholds = tuple(path.thresholds[last].tolist())
    macs = np.array([pool.member(member).macs for member in cascade.member_names])
    savings = path.savings(macs)
    certificate = Certificate(
        loss=loss,
        method=method,
        risk=risk,
        confidence=confidence if method == "learn-then-test" else None,
        split=name,
        n=n,
        n_lost=int(losses[last].sum()),
        p_value=float(p_values[last]) if method == "learn-then-test" else None,
        step=float(path.step[last]),
        thresholds=thresholds,
        saving=float(savings[last]),
        saving_before=float(savings[_STEPS]),
    )
    certified = _with_thresholds(cascade, thresholds)
    evaluated = {name: evaluate(certified, pool, split, rows)}
    return certified.model_copy(update={"evaluated": evaluated, "certificate": certificate})


def binomial_p_values(n_lost: NDArray[Any], n: int, risk: float) -> NDArray[np.float64]:
    """How probable so few losses of 0 or 1 are, at most, if the risk is higher than `risk`."""
    return np.asarray(binom.cdf(n_lost, n, risk))


def further_p_values(n_lost: NDArray[Any], n: int, risk: float) -> NDArray[np.float64]:
    """How probable so few losses are, at most, if of n further samples more than `risk` of them are lost.

    Put all 2 n samples in the order in which they get lost along the row. More of the further ones are lost
    than may be, before more than `n_lost` of the first n are, if among the first so many of this order at
    most `n_lost` are of the first n; and every order is equally probable.
    """
    too_many = int(np.floor(risk * n)) + 1
    return np.asarray(hypergeom.cdf(n_lost, 2 * n, np.minimum(n_lost + too_many, 2 * n), n))


def hoeffding_bentkus_p_values(mean: NDArray[Any], n: int, risk: float) -> NDArray[np.float64]:
    """Bound the same probability for the mean of n losses in [0, 1].

    Source: Angelopoulos et al., Learn then Test, arXiv:2110.01052, section 3.1.
    """
    low = np.minimum(np.asarray(mean, np.float64), risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(low > 0, low * np.log(low / risk), 0.0)
        second = np.where(low < 1, (1 - low) * np.log((1 - low) / (1 - risk)), 0.0)
    hoeffding = np.exp(-n * (first + second))
    # A sum that is whole but for rounding shall not count one more.
    bentkus = np.e * binom.cdf(np.ceil(n * np.asarray(mean) - 1e-9), n, risk)
    return np.asarray(np.minimum(np.minimum(hoeffding, bentkus), 1.0), np.float64)


def fixed_sequence(p_values: NDArray[np.float64], delta: float) -> int:
    """Test one after the other until the first that fails; the last that passed, or -1.

    The order was fixed before anybody saw the samples, so all may be tested at the full `delta`.
    """
    failed = np.flatnonzero(p_values > delta)
    return int(failed[0]) - 1 if len(failed) else len(p_values) - 1


def conformal_risk_control(n_lost: NDArray[Any], n: int, risk: float) -> int:
    """Find the last of s cascades whose mean loss, with one more sample lost, is at most `risk`; or -1.

    Args:
        n_lost: (s,) of n samples; must only grow.
        n: How many there are.
        risk: In (0, 1).
    """
    return int(np.searchsorted((np.asarray(n_lost) + 1) / (n + 1), risk, side="right")) - 1


def _check(cascade: Cascade, risk: float, confidence: float) -> None:
    for name, value in (("risk", risk), ("confidence", confidence)):
        if not 0 < value < 1:
            raise InvalidInput(f"{name}: must be between 0 and 1, got {value:g}")
    if len(cascade.stages) < 2:
        raise InvalidInput(
            f"cascade '{cascade}': has one stage, so no threshold; there is nothing to certify"
        )


def _samples(cascade: Cascade, pool: Pool, split: str) -> tuple[str, NDArray[np.intp] | None]:
    """Name the samples to rest on, and their rows if they are not the whole split."""
    searched = cascade.searched
    if searched is None or searched.split != split:
        return split, None
    if searched.report_fraction == 0:
        raise InvalidInput(
            f"split '{split}': the cascade was chosen by these samples, so they guarantee nothing; name "
            "another with --split, or search with --report-fraction"
        )
    return searched.report, HeldOut.again(pool, searched).rows


def _stages(
    cascade: Cascade, pool: Pool, split: str, rows: NDArray[np.intp] | None
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """(k, n) answers and confidences of every sample after every stage."""
    total = np.empty((0, 0), np.float32)
    labels, confidences = [], []
    for j, name in enumerate(cascade.member_names):
        probs = pool.probs(name, split)
        step = run_step(cascade, j, total, probs if rows is None else probs[rows])
        total = step.total
        labels.append(step.mean.argmax(axis=1))
        confidences.append(step.confidence)
    return np.array(labels), np.array(confidences)


def _thresholds(cascade: Cascade) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(s,) steps and (s, k - 1) thresholds, falling from where nobody leaves to where everybody does."""
    found = np.array([stage.threshold for stage in cascade.stages[:-1]], np.float64)
    sure = np.array([[1.0, 0.0]], np.float32)
    top = np.ceil(float(confidence_of(sure, cascade.confidence)[0]))
    step = np.arange(2 * _STEPS + 1) / _STEPS
    up, down = np.minimum(step, 1)[:, None], np.maximum(step - 1, 0)[:, None]
    thresholds = (top - up * (top - np.minimum(found, top))) * (1 - down)
    thresholds = np.round(thresholds, 6)
    thresholds[step == 1] = found
    return step, thresholds


def _with_thresholds(cascade: Cascade, thresholds: tuple[float, ...]) -> Cascade:
    stages = tuple(
        stage.model_copy(update={"threshold": threshold})
        for stage, threshold in zip(cascade.stages, (*thresholds, None), strict=True)
    )
    return cascade.model_copy(update={"stages": stages})


def _fewest(risk: float, confidence: float, method: Method) -> int:
    """Samples of which none may be lost."""
    if method == "conformal-risk-control":
        return int(np.ceil(1 / risk)) - 1
    none, too_many = np.zeros(1, np.intp), 1
    # More samples help where one more of them may be lost.
    while further_p_values(none, (n := int(np.ceil(round(too_many / risk, 6)))), risk) > 1 - confidence:
        too_many += 1
    return n
