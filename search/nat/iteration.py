"""What each iteration of a transfer writes: what was chosen, its worth, and how well that was guessed."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import kendalltau, spearmanr

from encas.files import FileModel
from encas.search.pareto import hypervolume, non_dominated

Numbers = NDArray[np.float64]


class Candidates(FileModel):
    """`candidates.json`."""

    format: str = "encas-candidates/1"
    genes: tuple[str, ...]  # as 3.0.1.2; with several supernetworks, the first says which
    guessed_errors: tuple[float, ...] | None = None
    search_s: float = 0  # seconds that fitting, searching and choosing took


class Evaluation(FileModel):
    """One architecture, with the weights of its iteration."""

    genes: str
    error: float = Field(ge=0, le=1)
    macs: int = Field(ge=0)


class Evaluated(FileModel):
    """`evaluated.json`."""

    format: str = "encas-evaluated/1"
    evaluations: tuple[Evaluation, ...]
    train_s: float
    evaluate_s: float


class Report(FileModel):
    """A line of `report.jsonl`; correlations are None where nothing was guessed."""

    iteration: int
    n: int  # evaluated
    hypervolume: float  # of the archive, against error 1 and the MACs of the largest network
    best_error: float
    rmse: float | None = None  # between guessed and true errors of this iteration's candidates
    spearman_rho: float | None = None
    kendall_tau: float | None = None
    search_s: float
    train_s: float
    evaluate_s: float


def report(
    iteration: int, archive: Sequence[Evaluation], chosen: Candidates, found: Evaluated, largest_macs: int
) -> Report:
    """Tell of an iteration, after which the archive is this one."""
    points = np.array([[one.error, one.macs] for one in archive])
    errors = np.array([one.error for one in found.evaluations])
    compared = {}
    if chosen.guessed_errors is not None and len(errors) > 2:
        guessed = np.array(chosen.guessed_errors)
        compared = {
            "rmse": float(np.sqrt(np.mean((guessed - errors) ** 2))),
            "spearman_rho": _correlation(spearmanr, guessed, errors),
            "kendall_tau": _correlation(kendalltau, guessed, errors),
        }
    return Report(
        iteration=iteration,
        n=len(errors),
        hypervolume=hypervolume(points, (1.0, 1.01 * largest_macs)),
        best_error=float(errors.min()),
        search_s=chosen.search_s,
        train_s=found.train_s,
        evaluate_s=found.evaluate_s,
        **compared,
    )


One = TypeVar("One", bound=Evaluation)


def next_archive(archive: list[One], found: list[One], rule: str) -> list[One]:
    """With weights that changed, old errors say little: then the candidates replace the archive."""
    if rule == "replaced":
        return found
    return list({one.genes: one for one in [*archive, *found]}.values())


def best(evaluations: Sequence[One], n: int) -> list[One]:
    """Up to n, by rising MACs: the cheapest and the dearest, and the best fronts of the rest."""
    by_macs = sorted(evaluations, key=lambda one: (one.macs, one.error, one.genes))
    chosen = by_macs[:1] + by_macs[1:][-1:]  # what everything else is compared with
    left = by_macs[1:-1]
    while left and len(chosen) < n:
        points = np.array([[one.error, one.macs] for one in left])
        front = set(non_dominated(points).tolist())
        chosen += [left[row] for row in sorted(front)][: n - len(chosen)]
        left = [one for row, one in enumerate(left) if row not in front]
    return sorted(chosen, key=lambda one: (one.macs, one.error, one.genes))


def _correlation(of: Callable[..., Any], guessed: Numbers, errors: Numbers) -> float | None:
    """None where one of the two is constant."""
    if np.ptp(guessed) == 0 or np.ptp(errors) == 0:
        return None
    return float(of(guessed, errors).statistic)
