import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import encas.search
from encas.cascade import Cascade, Stage
from encas.errors import InvalidInput
from encas.evaluation import evaluate, evaluate_members, report
from encas.files import write_npy
from encas.front import Front
from encas.held_out import HeldOut
from encas.pool import Latency, Member, Pool
from encas.search.checkpoint import Checkpoint
from encas.search.genome import ANSWERS
from encas.search.pareto import hypervolume

# Where nothing is said, all samples are searched on: then what a front says is easily counted.
search = partial(encas.search.search, report_fraction=0)


def without_seconds(front: Front) -> dict[str, Any]:
    return front.file.model_dump(mode="json", exclude={"seconds"})


def make_pool(path: Path, probs: dict[str, Any], labels: list[int], n_classes: int) -> Pool:
    """Members cost 100, 200, ... MACs in the order of their names."""
    pool = Pool.open_or_create(path, n_classes).with_split("val", np.array(labels))
    for i, (name, rows) in enumerate(sorted(probs.items())):
        member = Member(name=name, source="imported", macs=100 * (i + 1))
        pool = pool.with_outputs(member, "val", np.asarray(rows, np.float32), "by hand")
    return pool


@pytest.mark.parametrize("algorithm", ["mo-gomea", "random"])
def test_a_search_finds_cascades_that_beat_single_members(pool_path: Path, algorithm: Any) -> None:
    pool = Pool.open(pool_path)
    front = search(pool, evaluations=2000, algorithm=algorithm)
    costs = [candidate.cost for candidate in front.candidates]
    errors = [candidate.error for candidate in front.candidates]
    assert costs == sorted(set(costs))
    assert errors == sorted(set(errors), reverse=True)
    members = evaluate_members(pool, "val")
    single = np.array([[1 - found.accuracy, found.macs] for found in members.values()])
    found = np.column_stack([errors, costs])
    reference = (1.0, float(single[:, 1].max()))
    assert hypervolume(found, reference) > hypervolume(single, reference) + 0.01
    assert any(len(candidate.cascade.stages) > 1 for candidate in front.candidates)


@pytest.mark.slow
def test_what_a_front_says_of_a_cascade_is_what_the_cascade_does(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    front = search(pool, evaluations=1500, seed=2)
    for candidate in front.candidates:
        found = evaluate(candidate.cascade, pool, "val")
        assert candidate.cascade.evaluated == {"val": found}
        assert candidate.accuracy == pytest.approx(found.accuracy, abs=1e-12)
        assert candidate.cost == pytest.approx(found.macs)
        assert found.exit_fractions[-1] > 0  # no stage is dragged along that nobody gets to
        assert candidate.cascade.pool is not None
        assert candidate.cascade.pool.sha256 == pool.sha256
        assert Path(candidate.cascade.pool.path) == pool_path.resolve()


@pytest.mark.slow
def test_what_is_kept_out_is_reported_on_and_not_searched_on(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    front = search(pool, evaluations=1500, seed=2, report_fraction=0.3)
    held_out = HeldOut.of(pool, "val", 0.3)
    assert (len(held_out.rest), len(held_out.rows)) == (420, 180)
    for candidate in front.candidates:
        cascade = candidate.cascade
        assert cascade.evaluated["val"] == evaluate(cascade, pool, "val", held_out.rest)
        assert candidate.accuracy == pytest.approx(cascade.evaluated["val"].accuracy, abs=1e-12)
        assert cascade.evaluated["val-report"] == report(cascade, pool, held_out)
        assert cascade.searched == held_out.searched
        assert front.figures(cascade) == cascade.reported == cascade.evaluated["val-report"]
    for single in front.file.singles:
        alone = Cascade(stages=(Stage(member=single.member),))
        assert single.report_error == 1 - evaluate(alone, pool, "val", held_out.rows).accuracy


@pytest.mark.slow
def test_what_was_kept_out_changes_nothing_in_the_search(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    before = search(pool, evaluations=800, report_fraction=0.3)
    kept_out = HeldOut.of(pool, "val", 0.3).rows
    for name in pool.names:
        rows = np.array(pool.probs(name, "val"))
        wrong = kept_out[rows[kept_out].argmax(axis=1) != pool.labels("val")[kept_out]]
        # As wrong as before, and less sure.
        rows[wrong] = 0.1
        rows[wrong, (pool.labels("val")[wrong] + 1) % 10] = 0.101
        write_npy(pool_path / "val" / "probs" / f"{name}.npy", rows)
    after = search(Pool.open(pool_path), evaluations=800, report_fraction=0.3)
    assert [str(c.cascade) for c in after.candidates] == [str(c.cascade) for c in before.candidates]
    assert [c.error for c in after.candidates] == [c.error for c in before.candidates]
    assert [c.cascade.reported for c in after.candidates] != [c.cascade.reported for c in before.candidates]


def test_the_front_records_what_was_done(pool_path: Path) -> None:
    front = search(Pool.open(pool_path), evaluations=500, seed=7, algorithm="random", max_stages=3)
    file = front.file
    assert (file.split, file.objective, file.unit, file.algorithm, file.seed) == (
        "val",
        "macs",
        "MACs",
        "random",
        7,
    )
    assert file.settings == {
        "evaluations": 500,
        "exhaustive": False,
        "max_stages": 3,
        "refine_thresholds": False,
        "report_fraction": 0,
        "seed_singles": False,
    }
    assert file.evaluations["genotypes"] == 500
    # Random genotypes often mean the same as others.
    assert 400 < file.evaluations["phenotypes"] < 500
    assert set(file.versions) == {"encas", "numpy"}
    members = evaluate_members(Pool.open(pool_path), "val")
    assert [single.member for single in file.singles] == list(members)
    for single in file.singles:
        assert 1 - single.error == pytest.approx(members[single.member].accuracy)
        assert single.cost == members[single.member].macs


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(
    pool_path: Path, tmp_path: Path
) -> None:
    pool = Pool.open(pool_path)
    files = []
    for name, seed, workers in (("a", 3, 1), ("b", 3, 2), ("c", 3, 3), ("d", 4, 1)):
        front = search(pool, evaluations=1500, seed=seed, workers=workers, out=tmp_path / name)
        text = (tmp_path / name / "front.json").read_text()
        files.append(text.replace(f'"seconds": {front.file.seconds}', '"seconds": 0'))
    assert files[0] == files[1] == files[2]
    assert files[0] != files[3]


@pytest.mark.slow
def test_a_front_is_written_with_its_pictures(pool_path: Path, tmp_path: Path) -> None:
    front = search(Pool.open(pool_path), evaluations=300, out=tmp_path / "deep" / "front")
    assert Front.open(tmp_path / "deep" / "front").file == front.file
    names = sorted(file.name for file in (tmp_path / "deep" / "front").iterdir())
    assert names == ["front.html", "front.json", "front.png"]


def test_without_out_nothing_is_written(
    pool_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    search(Pool.open(pool_path), evaluations=300)
    assert list(Path().iterdir()) == []


def test_latency_can_be_the_cost(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    # The cheapest network in MACs is the slowest on this machine.
    measured = {
        member.name: [
            Latency(machine="desk", provider="cpu", batch=2, latency_s=0.02 / (i + 1), p95_s=1, n=9)
        ]
        for i, member in enumerate(pool.file.members)
    }
    front = search(pool.with_latency(measured), evaluations=500, objective="latency:cpu")
    assert front.file.unit == "s"
    assert front.candidates[0].cascade.member_names == ("hidden512",)
    assert front.candidates[0].cost == pytest.approx(0.01 / 8)
    assert front.candidates[0].cascade.evaluated["val"].macs == pool.member("hidden512").macs


def test_single_members_can_be_evaluated_first(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    front = search(pool, evaluations=8, seed_singles=True, algorithm="random")
    assert front.file.evaluations == {"genotypes": 8, "phenotypes": 8, "sweeps": 0}
    assert {candidate.cascade.member_names for candidate in front.candidates} <= {(n,) for n in pool.names}
    assert front.candidates[-1].cascade.member_names == ("hidden512",)
    more = search(pool, evaluations=1000, seed_singles=True)
    assert more.candidates[-1].accuracy >= front.candidates[-1].accuracy


# --- searches with little to search ---


def test_one_stage_gives_a_front_of_single_members(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    front = search(pool, max_stages=1)
    assert front.file.settings["exhaustive"]
    assert front.file.evaluations == {"genotypes": 9, "phenotypes": 9, "sweeps": 0}
    # Each of these networks is more accurate than all smaller ones.
    assert [c.cascade.member_names for c in front.candidates] == [(name,) for name in pool.names]


@pytest.mark.slow
def test_a_small_space_is_evaluated_completely(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    probs = {name: rng.dirichlet([1, 1, 1], size=30) for name in ("a", "b")}
    pool = make_pool(tmp_path / "pool", probs, rng.integers(3, size=30).tolist(), 3)
    front = search(pool, max_stages=2, evaluations=2000)
    assert front.file.evaluations["genotypes"] == 3 * 3 * 51 * 2
    cascades = [Cascade(stages=(Stage(member=m),)) for m in "ab"] + [
        Cascade(stages=(Stage(member=m, threshold=g / 50), Stage(member=n)), combine=combine)
        for combine in ANSWERS
        for m in "ab"
        for n in "ab"
        for g in range(51)
    ]
    points = []
    for cascade in cascades:
        found = evaluate(cascade, pool, "val")
        points.append((1 - found.accuracy, found.macs))
    for candidate in front.candidates:
        assert not any(e < candidate.error - 1e-9 and c <= candidate.cost for e, c in points)
        assert not any(e <= candidate.error + 1e-9 and c < candidate.cost - 1e-9 for e, c in points)


def test_one_member_is_its_own_front(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", {"a": [[0.75, 0.25], [0.5, 0.5]]}, [0, 1], 2)
    front = search(pool)
    assert [str(candidate.cascade) for candidate in front.candidates] == ["a"]
    assert (front.candidates[0].error, front.candidates[0].cost) == (0.5, 100)


@pytest.mark.slow
def test_equal_members_give_the_cheapest(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).dirichlet([1, 1], size=20)
    pool = make_pool(tmp_path / "pool", dict.fromkeys("abc", rows), [0, 1] * 10, 2)
    front = search(pool, evaluations=2000)
    assert [str(candidate.cascade) for candidate in front.candidates] == ["a"]


def test_one_class_is_always_right(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", dict.fromkeys("ab", [[1.0]] * 3), [0, 0, 0], 1)
    front = search(pool, evaluations=500)
    assert [(c.error, c.cost, str(c.cascade)) for c in front.candidates] == [(0, 100, "a")]


def test_members_that_cost_nothing_are_searched_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pool = Pool.open_or_create(tmp_path / "pool", 2).with_split("val", np.array([0, 1] * 10))
    for name in "ab":
        pool = pool.with_outputs(
            Member(name=name, source="imported", macs=0), "val", rng.dirichlet([1, 1], size=20), "by hand"
        )
    front = search(pool, evaluations=500)
    assert len(front.candidates) == 1
    assert front.candidates[0].cost == 0


# --- what is refused ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluations": 0}, "evaluations: must be at least 1, got 0"),
        ({"max_stages": 0}, "max_stages: must be at least 1, got 0"),
        ({"workers": 0}, "workers: must be at least 1, got 0"),
        ({"seed": -1}, "seed: must be at least 0, got -1"),
        ({"algorithm": "magic"}, "algorithm 'magic': must be one of mo-gomea, mo-gomea-2018, nsga2, nsga3,"),
        ({"objective": "watt"}, "objective 'watt': must be macs"),
        ({"objective": "latency"}, "no such latency is recorded for hidden004 and 7 more members; measure"),
        ({"report_fraction": 1.0}, "report fraction 1: of the 600 samples of split 'val' some must be left"),
        ({"split": "train"}, "no split 'train'; it has: val, test"),
    ],
)
def test_wrong_settings_get_one_line(pool_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        search(Pool.open(pool_path), **{"evaluations": 100, **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_pool_that_changes_during_the_search_is_noticed(pool_path: Path, tmp_path: Path) -> None:
    pool = Pool.open(pool_path)

    def record_another(done: int, words: str) -> None:
        del done, words
        member = Member(name="new", source="imported", macs=5)
        Pool.open(pool_path).with_outputs(member, "val", pool.probs("hidden004", "val"), "copy")

    with pytest.raises(InvalidInput, match="changed while it was searched"):
        search(pool, evaluations=300, progress=record_another, out=tmp_path / "front")
    assert not (tmp_path / "front" / "front.json").exists()


def test_outputs_that_change_during_the_search_are_noticed(pool_path: Path, tmp_path: Path) -> None:
    pool = Pool.open(pool_path)

    def exchange(done: int, words: str) -> None:
        del done, words
        write_npy(pool_path / "val" / "probs" / "hidden064.npy", np.array(pool.probs("hidden004", "val")))

    with pytest.raises(InvalidInput, match=r"hidden064\.npy: has changed since the search began"):
        search(pool, evaluations=300, progress=exchange, out=tmp_path / "front")
    assert not (tmp_path / "front" / "front.json").exists()


def test_outputs_that_are_no_probabilities_are_refused(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    rows = np.array(pool.probs("hidden064", "val"))
    rows[17, 3] = np.nan
    write_npy(pool_path / "val" / "probs" / "hidden064.npy", rows)
    with pytest.raises(InvalidInput, match=r"hidden064.*row 17 holds NaN"):
        search(pool, evaluations=100)


def test_an_attribute_that_is_not_there_is_named() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        _ = encas.search.serach


# --- interruptions ---


class Stopped(Exception):
    """Stands for a power cut: unlike Ctrl-C, nothing is saved on the way out."""


def stop_after(n: int) -> Callable[[int, str], None]:
    seen = [0]

    def progress(done: int, words: str) -> None:
        del words
        seen[0] += done
        if seen[0] >= n:
            raise Stopped

    return progress


@pytest.mark.slow
def test_an_interrupted_search_goes_on_to_the_same_end(
    pool_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encas.search.drive._SHOW_EVERY_S", 0.0)
    pool = Pool.open(pool_path)
    whole = search(pool, evaluations=1500, seed=5, out=tmp_path / "whole")
    kept = []
    for n in (200, 700, 900):
        with pytest.raises(Stopped):
            search(
                pool,
                evaluations=1500,
                seed=5,
                out=tmp_path / "parts",
                progress=stop_after(n),
                checkpoint_every_s=0,
            )
        kept.append((tmp_path / "parts" / "checkpoint.npz").stat().st_size)
    assert kept == sorted(kept)
    resumed = search(pool, evaluations=1500, seed=5, out=tmp_path / "parts")
    assert without_seconds(resumed) == without_seconds(whole)
    assert not (tmp_path / "parts" / "checkpoint.npz").exists()


@pytest.mark.slow
def test_what_was_evaluated_is_not_evaluated_again(
    pool_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool.open(pool_path)
    monkeypatch.setattr("encas.search.drive._SHOW_EVERY_S", 0.0)
    with pytest.raises(Stopped):
        search(
            pool,
            evaluations=900,
            algorithm="mo-gomea-2018",
            out=tmp_path / "front",
            progress=stop_after(600),
            checkpoint_every_s=0,
        )
    with np.load(tmp_path / "front" / "checkpoint.npz") as arrays:
        n_kept = len(arrays["genomes"])
    evaluated = []
    from encas.search.evaluate import Evaluator

    of_canonical = Evaluator.of_canonical

    def counted(self: Evaluator, genomes: Any) -> Any:
        evaluated.append(len(genomes))
        return of_canonical(self, genomes)

    monkeypatch.setattr(Evaluator, "of_canonical", counted)
    front = search(pool, evaluations=900, algorithm="mo-gomea-2018", out=tmp_path / "front")
    assert n_kept >= 500
    # The single members, for comparison, come on top.
    assert sum(evaluated) == front.file.evaluations["phenotypes"] - n_kept + len(pool.names)


@pytest.mark.slow
def test_a_checkpoint_of_another_pool_is_not_used(pool_path: Path, tmp_path: Path) -> None:
    pool = Pool.open(pool_path)
    expected = search(pool, evaluations=300)
    path = tmp_path / "front" / "checkpoint.npz"
    path.parent.mkdir()
    np.savez(
        path, problem=np.array("another"), genomes=np.zeros((1, 9), np.uint16), objectives=np.zeros((1, 2))
    )
    front = search(pool, evaluations=300, out=tmp_path / "front")
    assert [c.error for c in front.candidates] == [c.error for c in expected.candidates]
    assert Checkpoint(path, "another").read(9).genomes.shape == (0, 9)


def start(pool_path: Path, out: Path) -> "subprocess.Popen[str]":
    code = (
        "import sys; from encas import Pool; from encas.search import search; pool = Pool.open(sys.argv[1]);"
        "search(pool, evaluations=25_000, seed=1, out=sys.argv[2], checkpoint_every_s=0.05)"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(pool_path), str(out)], text=True)


def front_without_seconds(path: Path) -> bytes:
    return re.sub(rb'"seconds": [^,\n]*', b"", (path / "front.json").read_bytes())


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_bytes(
    pool_path: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started_s = time.monotonic()
    assert start(pool_path, whole).wait() == 0
    takes_s = time.monotonic() - started_s
    rng, kills = np.random.default_rng(0), 0
    while kills < 20:
        process = start(pool_path, killed)
        time.sleep(rng.uniform(0.1, 0.9) * takes_s)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if not (killed / "checkpoint.npz").exists() and (killed / "front.json").exists():
            assert front_without_seconds(killed) == front_without_seconds(whole)
            shutil.rmtree(killed)  # it came to its end: kill another one
    assert start(pool_path, killed).wait() == 0
    assert front_without_seconds(killed) == front_without_seconds(whole)
    assert not (killed / "checkpoint.npz").exists()
