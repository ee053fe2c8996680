import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

pytest.importorskip("onnxruntime")
pillow = pytest.importorskip("PIL.Image")

from encas.bundle import Bundle  # noqa: E402
from encas.cli import app  # noqa: E402
from encas.pool import Pool  # noqa: E402
from encas.runtime import CascadeExecutor  # noqa: E402

ENCAS = str(Path(sys.executable).with_name("encas"))


def encas(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def fails(result: Result, *parts: str) -> None:
    """Exit code 1 and one line on stderr, after what progress says."""
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("encas: ")]
    assert len(lines) == 1 and lines[0] == result.stderr.splitlines()[-1]
    for part in parts:
        assert part in lines[0]


@pytest.fixture
def shown(digits: Any) -> NDArray[np.uint8]:
    images: NDArray[np.uint8] = digits.images[digits.test][:40]
    return images


@pytest.fixture
def folder(shown: NDArray[np.uint8], digits: Any, tmp_path: Path) -> Path:
    """40 test images, in one folder per class."""
    for row, (image, label) in enumerate(zip(shown, digits.labels[digits.test], strict=False)):
        path = tmp_path / "images" / f"digit {label}" / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(image).save(path)
    return tmp_path / "images"


def row_of(file: str) -> int:
    return int(Path(file).stem)


def assert_right(rows: Iterable[dict[str, Any]], bundle_path: Path, shown: NDArray[np.uint8]) -> None:
    with CascadeExecutor(bundle_path, "cpu") as executor:
        answers = executor.run(shown)
    found = {row_of(row["file"]): row for row in rows}
    assert len(found) == len(shown)
    for row, answer in found.items():
        assert int(answer["class"]) == answers.label[row]
        assert answer["label"] == f"digit {answers.label[row]}"
        assert int(answer["exit_stage"]) == answers.exit_stage[row]
        assert int(answer["macs"]) == answers.macs[row]
        assert float(answer["confidence"]) == pytest.approx(answers.confidence[row], abs=5e-4)


def test_answers_as_json_lines(bundle_path: Path, folder: Path, shown: NDArray[np.uint8]) -> None:
    out = folder.parent / "answers.jsonl"
    result = encas("run", bundle_path, folder, "--out", out, "--batch", 7)
    assert result.exit_code == 0, result.output
    assert_right([json.loads(line) for line in out.read_text().splitlines()], bundle_path, shown)
    assert "40 images answered" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("next: ")


def test_answers_as_csv(bundle_path: Path, folder: Path, shown: NDArray[np.uint8]) -> None:
    out = folder.parent / "answers.csv"
    assert encas("run", bundle_path, folder, "-o", out).exit_code == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "class", "label", "confidence", "exit_stage", "macs", "error"]
    assert_right(rows, bundle_path, shown)


def test_answers_as_one_json_document(bundle_path: Path, folder: Path, shown: NDArray[np.uint8]) -> None:
    result = encas("run", bundle_path, folder, "--json")
    found = json.loads(result.stdout)
    assert_right(found["answers"], bundle_path, shown)
    summary = found["summary"]
    assert (summary["n"], summary["failed"]) == (40, 0)
    assert summary["macs"] == np.mean([row["macs"] for row in found["answers"]])
    assert sum(summary["exit_fractions"]) == pytest.approx(1)
    assert result.stderr == ""


def test_answers_in_a_table(bundle_path: Path, folder: Path) -> None:
    files = sorted(folder.rglob("*.png"))[:3]
    result = encas("run", bundle_path, *files)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["file", "label", "confidence", "exit", "stage"]
    assert max(len(line) for line in lines[:5]) <= 80


@pytest.mark.slow
def test_an_unreadable_image_gets_its_row_and_the_others_their_answers(
    bundle_path: Path, folder: Path, shown: NDArray[np.uint8]
) -> None:
    whole = (next(folder.rglob("*.png"))).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no image")
    out = folder.parent / "answers.jsonl"
    for batch in (1, 7, 64):
        result = encas("run", bundle_path, folder, folder / "gone.png", "--out", out, "--batch", batch)
        fails(result, "3 of 43 images could not be read", str(out))
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert_right([row for row in rows if "error" not in row], bundle_path, shown)
        errors = {Path(row["file"]).name: row["error"] for row in rows if "error" in row}
        assert set(errors) == {"cut.png", "text.jpg", "gone.png"}
        assert errors["gone.png"] == "no such file"
    with_table = encas("run", bundle_path, folder)
    fails(with_table, "2 of 42")
    assert with_table.stdout.count("cannot be read") == 2


def test_no_readable_image_at_all(bundle_path: Path, tmp_path: Path) -> None:
    result = encas("run", bundle_path, tmp_path / "a.png", "--json")
    fails(result, "1 of 1 images could not be read", "a.png: no such file")
    assert json.loads(result.stdout)["summary"]["macs"] is None


def test_what_cannot_begin_is_one_line_and_writes_nothing(
    bundle_path: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    (tmp_path / "empty").mkdir()
    fails(encas("run", tmp_path / "nowhere", folder, "-o", out), "nowhere: no such folder")
    fails(encas("run", bundle_path, tmp_path / "empty", "-o", out), "empty: holds no images")
    fails(encas("run", bundle_path, folder, "-o", tmp_path / "answers.txt"), "written as .jsonl or .csv")
    fails(encas("run", bundle_path, folder, "-o", out, "--provider", "tpu"), "must be cpu, cuda or tensorrt")
    with (bundle_path / "members" / "hidden016.onnx").open("ab") as file:
        file.write(b"x")
    fails(encas("run", bundle_path, folder, "-o", out), "changed since it was exported")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "empty", "images"]


def test_wrong_usage_is_exit_code_2(bundle_path: Path) -> None:
    assert encas("run", bundle_path).exit_code == 2
    assert encas("run", bundle_path, "a.png", "--batch", 0).exit_code == 2


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_answers(bundle_path: Path, folder: Path) -> None:
    out = folder.parent / "answers.jsonl"
    out.write_text("old\n")

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    done = subprocess.run(
        [ENCAS, "run", bundle_path, folder, "--out", out],
        capture_output=True,
        text=True,
        preexec_fn=no_room,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"encas: {out}: File too large"
    assert "Traceback" not in done.stderr
    assert out.read_text() == "old\n"
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(bundle_path: Path, folder: Path) -> None:
    out = folder.parent / "answers.jsonl"
    pipe = folder / "slow.png"
    os.mkfifo(pipe)  # reading it waits for a writer: the command is in the middle of its work for sure
    process = subprocess.Popen(
        [
            ENCAS,
            "run",
            bundle_path,
            *sorted(folder.rglob("digit*/*.png")),
            pipe,
            "--out",
            out,
            "--batch",
            "1",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: any(path.name.startswith(".answers") for path in out.parent.iterdir()))
    writer = os.open(pipe, os.O_WRONLY)  # returns once the command has opened the pipe
    time.sleep(0.2)  # a signal between opening and reading would wait for the end of the reading
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    os.close(writer)
    assert process.returncode == 1
    assert stderr.splitlines()[-1] == f"encas: stopped; {out} was not written"
    assert sorted(path.name for path in out.parent.iterdir()) == ["bundle", "images"]


def wait_until(what: Callable[[], bool], timeout_s: float = 60) -> None:
    end_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.mark.slow
def test_measure_counts_and_times(bundle_path: Path, folder: Path) -> None:
    result = encas("measure", bundle_path, "--data", folder, "--batch", 1, 8, "--json", "--provider", "cpu")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["format"] == "encas-cascade-measurement/1"
    assert found["accuracy"] > 0.9
    macs = {member.name: member.macs for member in Bundle.open(bundle_path).file.members}
    counted = sum(n * cost for n, cost in zip(found["stage_rows"], macs.values(), strict=True))
    assert found["macs"] == counted / 40
    assert [entry["batch"] for entry in found["batches"]] == [1, 8]
    assert set(found["members"][0]["members"]) == set(macs)


@pytest.mark.slow
def test_measure_writes_latencies_into_the_pool(bundle_path: Path, folder: Path, pool_path: Path) -> None:
    result = encas("measure", bundle_path, folder, "--batch", 4, "--pool", pool_path)
    assert result.exit_code == 0, result.output
    pool = Pool.open(pool_path)
    assert [member.name for member in pool.file.members if member.latency] == [
        "hidden016",
        "hidden064",
        "hidden512",
    ]
    assert [entry.batch for entry in pool.member("hidden512").latency] == [4]
    # The other members' networks are not known, so they cannot be measured.
    assert result.stdout.splitlines()[-1] == f"next: encas pool list {pool_path}"


@pytest.mark.slow
def test_measure_prints_lines_that_fit_80_columns(bundle_path: Path, folder: Path) -> None:
    result = encas("measure", bundle_path, "--data", folder, "--batch", 1)
    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines[:-1]) <= 80
    assert lines[-1] == f"next: encas serve {bundle_path}"
    assert [line.split()[0] for line in lines if "time of" in line or line.startswith("hidden")] == [
        "time",
        "hidden016",
        "hidden064",
        "hidden512",
    ]


def test_measure_says_what_is_wrong(bundle_path: Path, folder: Path, tmp_path: Path) -> None:
    fails(encas("measure", bundle_path), "holds no samples to measure on; name images, or --data")
    fails(encas("measure", bundle_path, folder, "--data", folder), "not both")
    fails(encas("measure", bundle_path, folder, "--pool", tmp_path / "gone"), "gone: no such folder")
    fails(encas("measure", bundle_path, "--data", tmp_path / "gone"), "gone: no such file or folder")
    (folder / "bad.png").write_text("no image")
    fails(encas("measure", bundle_path, folder), "bad.png: is no image")
    Pool.open_or_create(tmp_path / "other", 10).with_split("val", np.arange(10))
    fails(encas("measure", bundle_path, folder, "--pool", tmp_path / "other"), "no member 'hidden016'")
