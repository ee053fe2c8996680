import inspect
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from encas.cascade import Cascade
from encas.cli import app
from encas.cli.search import search as search_command
from encas.evaluation import evaluate
from encas.files import sha256_of
from encas.front import Front
from encas.pool import Latency, Pool
from encas.search.algorithms import ALGORITHMS
from encas.search.run import search as python_search

Run = Any

pytestmark = pytest.mark.slow  # the search has to be compiled for it


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Call the command line; returns exit code, stdout and stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        result = CliRunner().invoke(app, [str(word) for word in words])
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.fixture
def front(run: Run, pool_path: Path, tmp_path: Path) -> Path:
    code, _, _ = run("search", "--pool", pool_path, "--out", tmp_path / "front", "--evaluations", 1000)
    assert code == 0
    return tmp_path / "front"


def test_search_prints_a_table_that_fits_and_says_what_to_do_next(
    run: Run, pool_path: Path, tmp_path: Path
) -> None:
    code, out, err = run("search", "--pool", pool_path, "--out", tmp_path / "f", "--evaluations", 500)
    assert code == 0
    lines = out.splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if "counted on 180 samples of val that" in line)]
    assert len(table) == 2 + 8
    assert "on 600 others" in table[0]
    told = "cascades from 400 evaluations (400 different cascades, 2 sweeps of a threshold) in"
    assert told in lines[len(table) + 1]
    assert max(len(line) for line in table) <= 80
    assert lines[-1].startswith(f"next: encas pick {tmp_path / 'f'} --min-accuracy 0.")
    assert "search: 500/500" in err
    assert "hypervolume" in err


def test_what_search_says_to_do_next_works(run: Run, pool_path: Path, tmp_path: Path) -> None:
    _, out, _ = run("search", "--pool", pool_path, "--out", tmp_path / "f", "--evaluations", 500)
    words = out.splitlines()[-1].removeprefix("next: encas ").split()
    words[-1] = str(tmp_path / words[-1])
    assert run(*words)[0] == 0
    assert (tmp_path / "cascade.json").exists()


def test_several_seeds_go_into_folders_of_their_own_and_are_not_searched_again(
    run: Run, pool_path: Path, tmp_path: Path
) -> None:
    words = ("search", "--pool", pool_path, "--out", tmp_path / "f", "--evaluations", 300, "--seed", 4)
    code, out, _ = run(*words, "--seeds", 2)
    assert code == 0 and out.splitlines()[-1].startswith("next: encas plot ")
    fronts = [tmp_path / "f/seed-4", tmp_path / "f/seed-5"]
    assert [Front.open(place).file.seed for place in fronts] == [4, 5]
    run("search", "--pool", pool_path, "--out", tmp_path / "one", "--evaluations", 300, "--seed", 5)
    assert Front.open(fronts[1]).candidates == Front.open(tmp_path / "one").candidates
    before = [(place / "front.json").stat().st_mtime_ns for place in fronts]
    assert run(*words, "--seeds", 3)[0] == 0
    assert [(place / "front.json").stat().st_mtime_ns for place in fronts] == before
    # Another search is searched anew.
    assert run(*words, "--seeds", 2, "--max-stages", 2)[0] == 0
    assert Front.open(fronts[0]).file.settings["max_stages"] == 2
    code, _, err = run(*words, "--seeds", 2, "--refine-on-device", 3)
    assert code == 1 and "--refine-on-device runs one search here" in err


def test_search_in_json_is_the_front(run: Run, pool_path: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "search", "--pool", pool_path, "--out", tmp_path / "f", "--evaluations", 300, "--seed", 2, "--json"
    )
    assert code == 0
    content = json.loads(out)
    assert content["seed"] == 2
    assert len(content["candidates"]) == len(Front.open(tmp_path / "f").candidates)


def test_search_takes_every_option(run: Run, pool_path: Path, tmp_path: Path) -> None:
    pool = Pool.open(pool_path)
    timing = Latency(machine="desk", provider="cpu", batch=8, latency_s=0.5, p95_s=1, n=3)
    pool.with_latency({name: [timing] for name in pool.names})
    options = "--algorithm random --objective latency:cpu:8 --split test --max-stages 3 --evaluations 200"
    options += " --seed 4 --workers 2 --seed-singles"
    code, out, _ = run("search", "--pool", pool_path, "--out", tmp_path / "f", *options.split())
    assert code == 0
    assert "ms" in out.splitlines()[0]
    file = Front.open(tmp_path / "f").file
    assert (file.algorithm, file.objective, file.split, file.seed) == ("random", "latency:cpu:8", "test", 4)
    assert file.settings["max_stages"] == 3
    assert file.settings["seed_singles"]


def test_a_search_that_ends_early_says_so(run: Run, pool_path: Path, tmp_path: Path) -> None:
    code, _, err = run("search", "--pool", pool_path, "--out", tmp_path / "f", "--max-stages", 1)
    assert code == 0
    assert "ended after 9 evaluations" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--evaluations", "0"], "evaluations: must be at least 1, got 0"),
        (["--objective", "latency"], "no such latency is recorded for hidden004 and 7 more members"),
        (["--objective", "joule"], "objective 'joule': must be macs, latency"),
        (
            ["--algorithm", "magic"],
            "algorithm 'magic': must be one of mo-gomea, mo-gomea-2018, nsga2, nsga3,",
        ),
        (["--split", "train"], "no split 'train'; it has: val, test"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    run: Run, pool_path: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    code, out, err = run("search", "--pool", pool_path, "--out", tmp_path / "f", *options)
    assert (code, out) == (1, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "f" / "front.json").exists()


def test_a_missing_pool_is_one_line(run: Run, tmp_path: Path) -> None:
    code, _, err = run("search", "--pool", tmp_path / "nowhere")
    assert code == 1
    assert err.startswith(f"encas: {tmp_path / 'nowhere'}: no such folder; make a pool")


@pytest.mark.parametrize("budget", ["5e3", "5k", "5000", "0.005M"])
def test_a_budget_may_be_written_in_several_ways(run: Run, front: Path, tmp_path: Path, budget: str) -> None:
    code, out, _ = run("pick", front, "--max-macs", budget, "-o", tmp_path / "c.json")
    assert code == 0
    cascade = Cascade.read(tmp_path / "c.json")
    assert cascade == Front.open(front).pick(max_macs=5000)
    assert f"picked: {cascade}" in out
    assert out.splitlines()[-1].startswith("next: encas evaluate")


@pytest.mark.parametrize("budget", ["-5", "0", "many", "M", "inf", "nan", "5X"])
def test_a_budget_that_is_no_number_is_a_usage_error(run: Run, front: Path, budget: str) -> None:
    code, _, err = run("pick", front, "--max-macs", budget)
    assert code == 2
    assert "positive number" in err


def test_pick_without_a_wish_is_a_usage_error(run: Run, front: Path) -> None:
    code, _, err = run("pick", front)
    assert code == 2
    assert "--min-accuracy" in err


def test_pick_says_what_there_is_when_nothing_fits(run: Run, front: Path, tmp_path: Path) -> None:
    code, _, err = run("pick", front, "--max-macs", "1", "-o", tmp_path / "c.json")
    assert code == 1
    assert "the front goes from accuracy" in err
    assert not (tmp_path / "c.json").exists()
    code, _, err = run("pick", front, "--max-latency-ms", "1", "-o", tmp_path / "c.json")
    assert code == 1
    assert "knows no latency" in err


def test_pick_in_json_is_the_cascade(run: Run, front: Path, tmp_path: Path) -> None:
    code, out, _ = run("pick", front, "--min-accuracy", "0.9", "-o", tmp_path / "c.json", "--json")
    assert code == 0
    assert json.loads(out)["format"] == "encas-cascade/1"


def test_pick_reports_what_was_kept_out_of_the_search(run: Run, front: Path, tmp_path: Path) -> None:
    code, out, _ = run("pick", front, "--min-accuracy", "0.8", "-o", tmp_path / "c.json")
    assert code == 0
    reported = Cascade.read(tmp_path / "c.json").reported
    assert reported is not None and reported.interval is not None
    assert reported.accuracy >= 0.8
    figures = [line for line in out.splitlines() if "samples of val" in line]
    assert figures[0].startswith("180 samples of val, kept out of the search")
    assert f"{reported.accuracy:.2%}" in figures[0]
    assert figures[1].startswith("420 samples of val, searched on")
    assert f"expect {reported.interval.low:.2%} to {reported.interval.high:.2%} on 600 new samples" in out


def test_a_search_of_the_whole_split_says_that_its_figures_flatter(
    run: Run, pool_path: Path, tmp_path: Path
) -> None:
    out_path, options = tmp_path / "f", ["--evaluations", "300", "--report-fraction", "0"]
    assert run("search", "--pool", pool_path, "--out", out_path, *options)[0] == 0
    _, out, _ = run("pick", out_path, "--max-macs", "10k", "-o", tmp_path / "c.json")
    assert "600 samples of val, searched on" in out
    assert "nothing was kept out of the search: these figures flatter" in out


def test_evaluate_shows_the_gap_to_what_was_searched_on(run: Run, front: Path, tmp_path: Path) -> None:
    run("pick", front, "--min-accuracy", "0.85", "-o", tmp_path / "c.json")
    code, out, err = run("evaluate", tmp_path / "c.json")
    assert (code, err) == (0, "")
    cascade = Cascade.read(tmp_path / "c.json")
    content = json.loads(run("evaluate", tmp_path / "c.json", "--json")[1])
    accuracy, reported = content["cascade"]["accuracy"], cascade.reported
    assert reported is not None and reported.interval is not None
    assert content["cascade"]["interval"]["n"] == 600
    assert content["gaps"]["searched on"] == pytest.approx(accuracy - cascade.evaluated["val"].accuracy)
    assert content["gaps"]["kept out of the search"] == pytest.approx(accuracy - reported.accuracy)
    gap = 100 * content["gaps"]["searched on"]
    assert f"420 samples searched on: {cascade.evaluated['val'].accuracy:.2%}" in out
    assert f"{gap:+.2f} points" in out
    is_expected = reported.interval.low <= accuracy <= reported.interval.high
    assert ("  as expected: expect" in out) == is_expected
    code, _, err = run("evaluate", tmp_path / "c.json", "--split", "val")
    assert "the cascade was searched on this split, so these figures flatter" in err


@pytest.fixture
def cascade_path(digits_cascade: Cascade, pool_path: Path, tmp_path: Path) -> Path:
    path = tmp_path / "cascade.json"
    from encas.cascade import PoolReference

    reference = PoolReference(path=str(pool_path), sha256=Pool.open(pool_path).sha256)
    digits_cascade.model_copy(update={"pool": reference}).write(path)
    return path


def test_evaluate_compares_with_the_single_members(
    run: Run, cascade_path: Path, pool_path: Path, digits_cascade: Cascade
) -> None:
    before = sha256_of(cascade_path)
    code, out, err = run("evaluate", cascade_path)
    assert (code, err) == (0, "")
    found = evaluate(digits_cascade, Pool.open(pool_path), "test")
    assert f"{found.accuracy:.2%}" in out
    for member, fraction in zip(("hidden016", "hidden064", "hidden512"), found.exit_fractions, strict=True):
        assert f"{fraction:7.2%} of the 600 samples leave after {member}" in out
    assert "best single member of no more cost: hidden" in out
    assert "cheapest single member of no less accuracy" in out or "no single member is so accurate" in out
    assert sha256_of(cascade_path) == before


def test_evaluate_in_json_names_the_members(run: Run, cascade_path: Path, pool_path: Path) -> None:
    code, out, _ = run("evaluate", cascade_path, "--pool", pool_path, "--split", "val", "--json")
    assert code == 0
    content = json.loads(out)
    cascade, best = content["cascade"], content["single_members"]
    assert content["split"] == "val"
    assert best["no_more_cost"]["macs"] <= cascade["macs"]
    assert best["no_more_cost"]["accuracy"] <= cascade["accuracy"]
    if best["no_less_accuracy"] is not None:
        assert best["no_less_accuracy"]["accuracy"] >= cascade["accuracy"]


def test_evaluate_writes_only_where_told(run: Run, cascade_path: Path, tmp_path: Path) -> None:
    code, out, _ = run("evaluate", cascade_path, "-o", tmp_path / "tested.json")
    assert code == 0
    assert out.splitlines()[-1] == f"next: encas export {tmp_path / 'tested.json'}"
    written = Cascade.read(tmp_path / "tested.json")
    assert set(written.evaluated) == {"test"}
    assert written.stages == Cascade.read(cascade_path).stages


def test_evaluate_says_when_the_pool_is_another(run: Run, cascade_path: Path) -> None:
    text = cascade_path.read_text()
    sha256 = json.loads(text)["pool"]["sha256"]
    cascade_path.write_text(text.replace(sha256, "0" * 64))
    code, _, err = run("evaluate", cascade_path)
    assert code == 0
    assert "is not as it was when the cascade was found" in err


def test_evaluate_needs_a_pool_that_has_the_members(
    run: Run, digits_cascade: Cascade, pool_path: Path, tmp_path: Path
) -> None:
    digits_cascade.write(tmp_path / "c.json")
    code, _, err = run("evaluate", tmp_path / "c.json")
    assert code == 1
    assert "state it: --pool POOL" in err
    renamed = (tmp_path / "c.json").read_text().replace("hidden064", "hidden999")
    (tmp_path / "c.json").write_text(renamed)
    code, _, err = run("evaluate", tmp_path / "c.json", "--pool", pool_path)
    assert code == 1
    assert "no member 'hidden999'" in err


def test_plot_overlays_fronts(run: Run, front: Path, pool_path: Path, tmp_path: Path) -> None:
    run("search", "--pool", pool_path, "--out", tmp_path / "other", "--evaluations", 300)
    for name in ("fronts.png", "fronts.html"):
        code, out, _ = run("plot", front, tmp_path / "other", "-o", tmp_path / name)
        assert (code, out) == (0, f"wrote {tmp_path / name}\n")
    page = (tmp_path / "fronts.html").read_text()
    assert '"front: ' in page
    assert '"other: ' in page
    code, _, err = run("plot", front, "-o", tmp_path / "fronts.gif")
    assert code == 2
    assert ".png or .html" in err


def test_plot_marks_a_cascade_that_was_picked(run: Run, front: Path, tmp_path: Path) -> None:
    run("pick", front, "--min-accuracy", "0.8", "-o", tmp_path / "c.json")
    options = ["--cascade", tmp_path / "c.json", "-o", tmp_path / "front.html"]
    assert run("plot", front, *options)[0] == 0
    assert '"name":"chosen"' in (tmp_path / "front.html").read_text()
    content = json.loads((tmp_path / "c.json").read_text())
    member = content["stages"][0]["member"]
    content["stages"] = [{"member": member, "threshold": 0.123}, {"member": member}]
    (tmp_path / "c.json").write_text(json.dumps(content))
    code, _, err = run("plot", front, *options)
    assert code == 1
    assert "is no candidate of a front that is drawn on its own" in err


def test_every_command_shows_an_example(run: Run) -> None:
    for command in ("search", "pick", "evaluate", "plot"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert f"Example: encas {command}" in " ".join(out.split())


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_keeps_what_was_evaluated(pool_path: Path, tmp_path: Path) -> None:
    words = ["search", "--pool", str(pool_path), "--out", str(tmp_path / "front"), "--evaluations", "3000000"]
    process = subprocess.Popen(
        [Path(sys.executable).with_name("encas"), *words], stderr=subprocess.PIPE, text=True
    )
    deadline_s = time.monotonic() + 60
    while not (tmp_path / "front").exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("encas: stopped; nothing half-written is left")
    assert (tmp_path / "front" / "checkpoint.npz").exists()


def test_a_search_by_latency_is_refined_on_this_machine(run: Run, digits_files: Path, tmp_path: Path) -> None:
    words: list[object] = [
        "--data",
        digits_files / "digits.npz",
        "--preprocess",
        digits_files / "preprocess.yml",
    ]
    for name in ("hidden016", "hidden512"):
        words += ["--member", f"onnx:{digits_files}/networks/{name}.onnx"]
    assert run("pool", "record", tmp_path / "pool", *words)[0] == 0
    assert run("pool", "measure", tmp_path / "pool", "--batch", 1, "--provider", "cpu")[0] == 0
    searching: list[object] = [
        "search",
        "--pool",
        tmp_path / "pool",
        "--out",
        tmp_path / "front",
        "--evaluations",
        300,
    ]
    code, out, err = run(*searching, "--objective", "latency:cpu:1", "--refine-on-device", 2)
    assert code == 0, err
    refinement = Front.open(tmp_path / "front").file.refinement
    assert refinement is not None
    told = [line for line in err.splitlines() if line.startswith("refining: round ")]
    assert told[0].startswith("refining: round 1: predicted times of 2 cascades are ")
    assert len(told) == len(refinement.rounds) >= 2
    assert "cascades from" in out
    code, out, err = run(*searching, "--refine-on-device", 2)
    assert (code, out) == (1, "")
    assert err.startswith("encas: objective 'macs': only a search by latency can be refined on the device")
    assert err.count("\n") == 1


def test_the_command_line_and_python_keep_as_much_out_and_offer_the_same_algorithms(run: Run) -> None:
    assert inspect.signature(python_search).parameters["report_fraction"].default == 0.3
    assert inspect.signature(search_command).parameters["report_fraction"].default == 0.3
    _, out, _ = run("search", "--help")
    assert all(name in out for name in ALGORITHMS)


def test_thresholds_are_refined_when_that_is_said(run: Run, pool_path: Path, tmp_path: Path) -> None:
    for option, is_refined in (("--refine-thresholds", True), ("--no-refine-thresholds", False)):
        words = ("search", "--pool", pool_path, "--out", tmp_path / "f", "--evaluations", 400, option)
        code, out, _ = run(*words, "--json")
        assert code == 0
        assert (json.loads(out)["evaluations"]["sweeps"] > 0) is is_refined
