from pathlib import Path

import numpy as np
import pytest

from encas.cascade import Cascade, Evaluated, PoolReference, Searched, Stage
from encas.errors import InvalidInput
from encas.evaluation import with_interval
from encas.front import Candidate, Front, FrontFile, Single
from encas.search.curves import Drawing

POOL = PoolReference(path="/pool", sha256="0" * 64)
Points = list[tuple[float, float]]


def candidate(accuracy: float, macs: float, reported: float | None) -> Candidate:
    found = Evaluated(n=100, accuracy=accuracy, macs=macs, exit_fractions=(0.75, 0.25))
    stages = (Stage(member=f"member{accuracy:g}", threshold=0.5), Stage(member="last"))
    cascade = Cascade(stages=stages, evaluated={"val": found})
    if reported is not None:
        other = with_interval(found.model_copy(update={"accuracy": reported}))
        searched = Searched(split="val", report_fraction=0.5, report_sha256="0" * 64)
        update = {"searched": searched, "evaluated": {"val": found, "val-report": other}}
        cascade = cascade.model_copy(update=update)
    return Candidate(error=1 - accuracy, cost=macs, cascade=cascade)


def make_front(name: str, points: Points, *, seed: int = 0, reported: float | None = None) -> Front:
    """Candidates of (million MACs, accuracy)."""
    file = FrontFile(
        pool=POOL,
        split="val",
        objective="macs",
        unit="MACs",
        algorithm="random",
        seed=seed,
        seconds=1,
        singles=(Single(member="a", error=0.4, cost=1e6, report_error=None if reported is None else 0.45),),
        candidates=tuple(candidate(accuracy, 1e6 * macs, reported) for macs, accuracy in points),
    )
    return Front(Path(name), file)


def test_a_front_is_drawn_by_what_was_kept_out_of_the_search() -> None:
    front = make_front("one", [(1, 0.5), (4, 0.75)], reported=0.6)
    drawing = Drawing.of([front])
    (curve,) = drawing.curves
    assert curve.cost.tolist() == [1, 4]
    assert curve.accuracy.tolist() == [60, 60]
    assert curve.searched is not None and curve.searched.tolist() == [50, 75]
    interval = front.figures(front.candidates[0].cascade).interval
    assert interval is not None
    assert (curve.low[0], curve.high[0]) == (100 * interval.low, 100 * interval.high)
    assert curve.texts[1] == (
        "cascade 2 of 2: 60.00% at 4 MMACs\n"
        f"expect {interval.low:.2%} to {interval.high:.2%} on 100 new samples\n"
        "member0.75: above 0.5 (75.0%)\nlast: the rest (25.0%)"
    )
    assert drawing.singles.accuracy.tolist() == [pytest.approx(55)]
    assert "kept out of the search" in drawing.title
    assert drawing.bands == "where 95 of 100 tests will be"


def test_a_front_without_intervals_has_no_band() -> None:
    drawing = Drawing.of([make_front("one", [(1, 0.5), (4, 0.75)])])
    (curve,) = drawing.curves
    assert curve.accuracy.tolist() == [50, 75]
    assert (len(curve.low), curve.searched, drawing.bands) == (0, None, "")
    assert curve.texts[0].startswith("cascade 1 of 2: 50.00% at 1 MMACs\nmember0.5: above 0.5")
    assert "on the split they were searched on (val)" in drawing.title


def test_fronts_that_only_their_seeds_tell_apart_become_a_median_and_a_band() -> None:
    fronts = [
        make_front("one", [(1, 0.5), (4, 0.75)], seed=1),
        make_front("two", [(2, 0.5), (4, 0.5625)], seed=2),
        make_front("three", [(1, 0.25), (3, 0.625)], seed=3),
    ]
    drawing = Drawing.of(fronts)
    (curve,) = drawing.curves
    # Below 2 million MACs the second has nothing to offer; at 3 they offer 50, 50 and 62.5 %.
    assert curve.cost.tolist() == [2, 3, 4]
    assert curve.accuracy.tolist() == [50, 50, 62.5]
    assert curve.low.tolist() == [25, 50, 56.25]
    assert curve.high.tolist() == [50, 62.5, 75]
    assert curve.is_step
    assert curve.name == "one and 2 more seeds (random): median"
    assert curve.texts[1].endswith("median 50.00% at 3 MMACs\nlowest 50.00%, highest 62.50%")
    assert drawing.bands == "all seeds"


def test_fronts_of_other_settings_stay_apart() -> None:
    one, other = make_front("one", [(1, 0.5)]), make_front("two", [(2, 0.75)], seed=1)
    settings = other.file.model_copy(update={"settings": {"evaluations": 7}})
    drawing = Drawing.of([one, Front(other.path, settings), make_front("three", [(1, 0.5)], seed=2)])
    assert [curve.name for curve in drawing.curves] == [
        "one and 1 more seeds (random): median",
        "two: 1 cascades (random)",
    ]


def test_a_chosen_cascade_is_found_or_the_error_says_so() -> None:
    front = make_front("one", [(1, 0.5), (4, 0.75)])
    drawing = Drawing.of([front], front.candidates[1].cascade)
    assert drawing.curves[0].chosen == 1
    with pytest.raises(
        InvalidInput, match="cascade 'other': is no candidate of a front that is drawn on its own: one"
    ):
        Drawing.of([front], Cascade(stages=(Stage(member="other"),)))


def test_ticks_and_range_hold_all_costs() -> None:
    drawing = Drawing.of([make_front("one", [(0.3, 0.5), (40, 0.75)])])
    assert drawing.ticks == [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]
    low, high = 10 ** np.array(drawing.range)
    assert 0.2 < low < 0.3 and 40 < high < 60


def test_costs_of_nothing_leave_no_logarithm() -> None:
    front = make_front("one", [(0, 0.5)])
    single = front.file.singles[0].model_copy(update={"cost": 0.0})
    drawing = Drawing.of([Front(front.path, front.file.model_copy(update={"singles": (single,)}))])
    assert drawing.range == (0, 1)
