import numpy as np
import pytest

from encas.latency import Curve, MemberTime
from encas.preprocess import Preprocess
from encas.refinement import Corrections, Factors
from encas.search.device.cascades import Run
from encas.search.device.regression import Sample, fit

SMALL, LARGE = Preprocess(size=(8, 8)), Preprocess(size=(16, 16))
RUN_S = {"a": 1.0, "b": 4.0, "c": 10.0}


def time(run_s: float, preprocess: Preprocess) -> MemberTime:
    """Of a batch of 2; one sample takes three quarters as long, and 0.25 is saved by following itself."""
    return MemberTime(
        run=Curve.through([(1, 0.75 * run_s), (2, run_s)]),
        prepare=Curve.through([(2, 0.5)]),
        decode=Curve.through([(2, 0.25)]),
        preprocess=preprocess,
        gain=Curve.through([(2, 0.25)]),
    )


TIMES = {"a": time(1.0, SMALL), "b": time(4.0, SMALL), "c": time(10.0, LARGE)}
# One batch leaves at once; of the next one sample goes on to the end.
SURVIVORS = np.array([[2, 0, 0], [2, 1, 1]])


def test_parts_are_those_of_the_very_batches_that_ran() -> None:
    run = Run(batches_s=np.array([2.0, 14.0]), survivors=SURVIVORS)
    sample = Sample.of(("a", "b", "c"), list(TIMES.values()), run, 2)
    assert sample.run_s == (1.0, 1.5, 3.75)
    assert sample.rest_s == pytest.approx(0.25 + 0.5 + 0.125)
    assert sample.gain_s == 0.125  # the second batch follows one that left at once, the first does not
    assert sample.measured_s == 8.0
    assert sample.predicted_s(None) == pytest.approx(1.0 + 1.5 + 3.75 + 0.875 - 0.125)
    corrections = Corrections(members={"b": Factors(first=9.0, later=2.0)}, others=0.5, rest=3.0)
    assert sample.predicted_s(corrections) == pytest.approx(0.5 + 3.0 + 1.875 + 3 * 0.875 - 0.125)


def samples(first: dict[str, float], later: dict[str, float], rest: float) -> list[Sample]:
    """Cascades of one and two stages, that take what these factors say; one in three samples goes on."""
    found = []
    for one, one_s in RUN_S.items():
        for two in [None, *(name for name in RUN_S if name != one)]:
            members = (one,) if two is None else (one, two)
            run_s = (one_s,) if two is None else (one_s, RUN_S[two] / 3)
            taken_s = first[one] * one_s + rest * 0.5 - 0.1
            if two is not None:
                taken_s += later[two] * RUN_S[two] / 3
            found.append(Sample(members, run_s, rest_s=0.5, gain_s=0.1, measured_s=taken_s))
    return found


def test_a_machine_that_is_slower_as_a_whole_has_one_factor() -> None:
    same = dict.fromkeys(RUN_S, 1.3)
    found = fit(samples(same, same, 1.3))
    assert found.others == pytest.approx(1.3)
    assert found.rest == pytest.approx(1.3)
    assert [found.of(name).first for name in "abc"] == pytest.approx([1.3] * 3)
    assert found.of("never run") == Factors(first=found.others, later=found.others)


def test_members_and_positions_that_differ_are_told_apart() -> None:
    first, later = {"a": 0.8, "b": 1.0, "c": 1.1}, {"a": 1.0, "b": 1.2, "c": 1.4}
    given = samples(first, later, 1.0)
    found = fit(given)
    errors = [abs(sample.predicted_s(found) / sample.measured_s - 1) for sample in given]
    before = [abs(sample.predicted_s(None) / sample.measured_s - 1) for sample in given]
    assert max(errors) < 0.02
    assert max(before) > 0.1
    assert found.of("a").first < found.of("b").first < found.of("c").first
    assert found.of("c").later > found.of("c").first


def test_one_cascade_alone_corrects_all_members_alike() -> None:
    """What belongs to whom cannot be told from it; its own members get a little more of it."""
    found = fit([Sample(("a",), (1.0,), rest_s=1.0, gain_s=0.0, measured_s=4.0)])
    assert found.others == pytest.approx(2.0, rel=0.01)
    assert (found.of("a").first, found.rest) == pytest.approx((2.0, 2.0), rel=0.01)


def test_factors_stay_within_reason() -> None:
    found = fit([Sample(("a",), (1.0,), rest_s=0.0, gain_s=0.0, measured_s=1e-6)])
    assert found.of("a").first == 0.2
    assert fit([Sample(("a",), (1.0,), rest_s=0.0, gain_s=0.0, measured_s=1e6)]).of("a").first == 5.0
