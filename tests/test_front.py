import json
from pathlib import Path

import pytest

from encas.cascade import Cascade, Evaluated, PoolReference, Searched, Stage
from encas.cost import Unit
from encas.errors import InvalidInput
from encas.evaluation import with_interval
from encas.files import write_bytes
from encas.front import Candidate, Front, FrontFile, Single


def candidate(member: str, error: float, cost: float, macs: float) -> Candidate:
    evaluated = Evaluated(n=100, accuracy=1 - error, macs=macs, exit_fractions=(1.0,))
    cascade = Cascade(stages=(Stage(member=member),), evaluated={"val": evaluated})
    return Candidate(error=error, cost=cost, cascade=cascade)


def make_front(path: Path, unit: Unit = "MACs") -> Front:
    """Three candidates: 60 % at 1, 80 % at 2 and 90 % at 4 million MACs, or at as many milliseconds."""
    per_macs = 1.0 if unit == "MACs" else 1e-9
    reference = PoolReference(path=str(path.parent.resolve() / "pool"), sha256="0" * 64)
    candidates = [
        candidate(name, error, macs * per_macs, macs)
        for name, error, macs in (("a", 0.4, 1e6), ("b", 0.2, 2e6), ("c", 0.1, 4e6))
    ]
    file = FrontFile(
        pool=reference,
        split="val",
        objective="macs" if unit == "MACs" else "latency:cpu:1",
        unit=unit,
        algorithm="random",
        seed=0,
        seconds=1.5,
        singles=(Single(member="a", error=0.4, cost=1e6),),
        candidates=tuple(
            c.model_copy(update={"cascade": c.cascade.model_copy(update={"pool": reference})})
            for c in candidates
        ),
    )
    return Front(path, file)


def test_a_front_comes_back_from_its_folder(tmp_path: Path) -> None:
    front = make_front(tmp_path / "front")
    front.write()
    content = json.loads((tmp_path / "front" / "front.json").read_text())
    assert content["format"] == "encas-front/1"
    assert content["pool"]["path"] == "../pool"
    assert content["candidates"][0]["cascade"]["pool"]["path"] == "../pool"
    assert Front.open(tmp_path / "front") == front
    assert Front.open(tmp_path / "front" / "front.json") == front


def test_a_cascade_picked_from_a_front_knows_its_pool(tmp_path: Path) -> None:
    make_front(tmp_path / "front").write()
    cascade = Front.open(tmp_path / "front").pick(max_macs=3e6)
    cascade.write(tmp_path / "elsewhere" / "cascade.json")
    read = Cascade.read(tmp_path / "elsewhere" / "cascade.json")
    assert read.pool is not None
    assert Path(read.pool.path) == (tmp_path / "pool").resolve()


def test_a_budget_picks_the_most_accurate_within_it(tmp_path: Path) -> None:
    front = make_front(tmp_path)
    assert front.pick(max_macs=3e6).member_names == ("b",)
    assert front.pick(max_macs=2e6).member_names == ("b",)
    assert front.pick(max_macs=1e9).member_names == ("c",)


def test_an_accuracy_picks_the_cheapest_that_reaches_it(tmp_path: Path) -> None:
    front = make_front(tmp_path)
    assert front.pick(min_accuracy=0.7).member_names == ("b",)
    assert front.pick(min_accuracy=0.5, max_macs=3e6).member_names == ("a",)


def test_what_was_kept_out_of_the_search_decides_what_is_accurate_enough(tmp_path: Path) -> None:
    front = make_front(tmp_path)
    candidates = []
    # Where they were searched 60, 80 and 90 %; on what was kept out 62, 75 and 70 %.
    for candidate, accuracy in zip(front.candidates, (0.62, 0.75, 0.7), strict=True):
        cascade = candidate.cascade
        found = cascade.evaluated["val"]
        reported = found.model_copy(update={"accuracy": accuracy, "macs": found.macs / 2})
        update = {
            "searched": Searched(split="val", report_fraction=0.5, report_sha256="0" * 64),
            "evaluated": {"val": found, "val-report": with_interval(reported)},
        }
        candidates.append(candidate.model_copy(update={"cascade": cascade.model_copy(update=update)}))
    front = Front(front.path, front.file.model_copy(update={"candidates": tuple(candidates)}))
    assert front.pick(min_accuracy=0.7).member_names == ("b",)
    # The budget too is that of the samples kept out, but the best within it is the best of the search.
    assert front.pick(max_macs=2e6).member_names == ("c",)
    with pytest.raises(InvalidInput, match=r"0\.6200 at 1 MMACs to 0\.7500 at 2 MMACs"):
        front.pick(min_accuracy=0.76)
    front.write()
    assert Front.open(tmp_path).candidates[1].cascade.reported == front.candidates[1].cascade.reported


def test_a_front_without_intervals_still_opens(tmp_path: Path) -> None:
    make_front(tmp_path / "front").write()
    path = tmp_path / "front" / "front.json"
    content = json.loads(path.read_text())
    for candidate in content["candidates"]:  # as they were written before there were intervals
        del candidate["cascade"]["searched"]
        del candidate["cascade"]["evaluated"]["val"]["interval"]
    for single in content["singles"]:
        del single["report_error"]
    write_bytes(path, json.dumps(content).encode())
    front = Front.open(path)
    assert front == make_front(tmp_path / "front")
    assert front.pick(min_accuracy=0.7).reported is None


def test_latency_picks_from_a_front_of_latencies(tmp_path: Path) -> None:
    assert make_front(tmp_path, "s").pick(max_latency_ms=3).member_names == ("b",)
    assert make_front(tmp_path, "s").pick(max_macs=1e6).member_names == ("a",)
    with pytest.raises(InvalidInput, match="was searched by macs and knows no latency"):
        make_front(tmp_path).pick(max_latency_ms=3)


def test_a_wish_that_nothing_fulfils_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"from accuracy 0\.6000 at 1 MMACs to 0\.9000 at 4 MMACs"):
        make_front(tmp_path).pick(max_macs=1e5)
    with pytest.raises(InvalidInput, match=r"0\.9000 at 4 ms"):
        make_front(tmp_path, "s").pick(min_accuracy=0.99)


def test_no_wish_is_the_callers_slip(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="state max_macs"):
        make_front(tmp_path).pick()


def test_a_folder_without_a_front_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"holds no front\.json; make a front with 'encas search"):
        Front.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "encas-front/9"}, "format"),
        ({"unit": "joule"}, "unit"),
        ({"seconds": -1}, "seconds"),
        ({"more": 1}, "more"),
        ({"candidates": []}, "candidates"),
        ({"candidates": [{"error": 2, "cost": 1, "cascade": {"stages": [{"member": "a"}]}}]}, "error"),
    ],
)
def test_a_file_that_is_no_front_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    make_front(tmp_path / "front").write()
    content = json.loads((tmp_path / "front" / "front.json").read_text())
    write_bytes(tmp_path / "front" / "front.json", json.dumps({**content, **change}).encode())
    with pytest.raises(InvalidInput, match=message) as caught:
        Front.open(tmp_path / "front")
    assert str(tmp_path / "front" / "front.json") in str(caught.value)
