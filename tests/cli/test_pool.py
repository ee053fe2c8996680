import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from encas.cli import app
from encas.pool import Member, Pool

NAMES = (
    "hidden004",
    "hidden008",
    "hidden016",
    "hidden032",
    "hidden064",
    "hidden128",
    "hidden256",
    "hidden512",
)


def encas(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def command_line(*words: object) -> list[str]:
    """The same in a process of its own."""
    return [str(Path(sys.executable).parent / "encas"), *map(str, words)]


def line_of(result: Result) -> str:
    """The one line that an error is, after checking that it is one."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def record_words(files: Path, pool: Path, *names: str) -> list[object]:
    members = [word for name in names for word in ("--member", f"onnx:{files}/networks/{name}.onnx")]
    options = ["--data", files / "digits.npz", "--preprocess", files / "preprocess.yml"]
    return ["pool", "record", pool, *members, *options]


@pytest.fixture
def pool(digits_files: Path, tmp_path: Path) -> Path:
    """Two networks, recorded on the first 100 images."""
    words = record_words(digits_files, tmp_path / "pool", "hidden016", "hidden512")
    assert encas(*words, "--rows", ":100").exit_code == 0
    return tmp_path / "pool"


def test_recording_shows_cost_and_accuracy_and_what_comes_next(digits_files: Path, tmp_path: Path) -> None:
    words = record_words(digits_files, tmp_path / "pool", "hidden016", "hidden512")
    result = encas(*words, "--rows", "597:1197")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["member", "MMACs", "Mparams", "val", "%"]
    name, macs, params, accuracy = lines[3].split()
    assert (name, macs, params) == ("hidden512", "0.03789", "0.0384")
    assert float(accuracy) > 90
    assert lines[-2:] == [
        f"{tmp_path}/pool: 2 members, split 'val' with 600 images",
        f"next: encas search --pool {tmp_path}/pool",
    ]


def test_one_member_may_be_named_and_a_list_may_say_everything(digits_files: Path, tmp_path: Path) -> None:
    words = record_words(digits_files, tmp_path / "one", "hidden016")
    assert encas(*words, "--name", "tiny", "--rows", ":9").exit_code == 0
    assert Pool.open(tmp_path / "one").names == ("tiny",)
    (digits_files / "m.yml").write_text("- {source: onnx:networks/hidden016.onnx, name: small}\n")
    words = ["--members", digits_files / "m.yml", "--preprocess", digits_files / "preprocess.yml"]
    result = encas(
        "pool", "record", tmp_path / "two", *words, "--data", digits_files / "digits.npz", "--json"
    )
    told = json.loads(result.stdout)
    assert [(m["name"], m["macs"], list(m["accuracy"])) for m in told["members"]] == [
        ("small", 1184, ["val"])
    ]


def test_members_are_listed_with_what_is_known_of_them(pool: Path) -> None:
    assert encas("pool", "measure", pool, "--batch", "1", "4", "--member", "hidden016").exit_code == 0
    result = encas("pool", "list", pool)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines()[:4])) <= 80
    assert result.stdout.splitlines()[0].split() == ["member", "MMACs", "Mparams", "val", "%", "ms", "cpu:1"]
    assert "2 members, 10 classes, splits: val (100)" in result.stdout
    told = json.loads(encas("pool", "list", pool, "--json").stdout)
    assert [entry["batch"] for entry in told["members"][0]["latency"]] == [1, 4]
    assert told["members"][1]["accuracy"]["val"] > 0.9


def test_a_whole_pool_has_nothing_wrong(pool: Path) -> None:
    result = encas("pool", "check", pool)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, f"{pool}: 2 members, nothing wrong")
    assert json.loads(encas("pool", "check", pool, "--json").stdout) == {"problems": []}


def test_every_problem_of_a_pool_gets_a_line(pool: Path) -> None:
    probs = pool / "val/probs/hidden016.npy"
    probs.write_bytes(probs.read_bytes()[:-1])
    (pool / "val/probs/hidden512.npy").unlink()
    result = encas("pool", "check", pool)
    assert result.exit_code == 1
    assert [line.split(": ")[1] for line in result.stdout.splitlines()] == [
        "not a whole .npy file",
        "no such file",
    ]
    assert result.stderr == f"encas: {pool}: 2 problems found; record or import these members again\n"


@pytest.mark.slow
def test_measuring_writes_the_times_of_this_machine(pool: Path) -> None:
    result = encas("pool", "measure", pool, "--batch", "1", "--provider", "cpu")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"next: encas search --pool {pool} --objective latency:cpu:1"
    for member in Pool.open(pool).file.members:
        (entry,) = member.latency
        assert (entry.provider, entry.batch, entry.precision) == ("cpu", 1, "fp32")
        assert 0 < entry.latency_s <= entry.p95_s


def test_a_function_that_a_pool_names_is_not_run_unasked(pool: Path) -> None:
    code = Member(name="evil", source="torch:antigravity:fly", macs=1)
    Pool.open(pool).with_outputs(code, "val", np.full((100, 10), 0.1), "by hand")
    line = line_of(encas("pool", "measure", pool))
    assert "member 'evil' would run the Python function antigravity:fly; add --allow-code" in line
    assert Pool.open(pool).member("hidden016").latency == ()


def test_pools_are_merged(pool: Path, digits_files: Path, tmp_path: Path) -> None:
    words = record_words(digits_files, tmp_path / "more", "hidden064")
    assert encas(*words, "--rows", ":100").exit_code == 0
    result = encas("pool", "merge", tmp_path / "all", pool, tmp_path / "more")
    assert f"{tmp_path}/all: 3 members from 2 pools" in result.stdout
    assert Pool.open(tmp_path / "all").problems() == []


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Outputs of two networks that were computed elsewhere."""
    (tmp_path / "probs").mkdir()
    for name in ("a", "b"):
        np.save(tmp_path / f"probs/{name}.npy", np.array([[0.75, 0.25], [0.5, 0.5]]))
    (tmp_path / "labels.txt").write_text("0\n1\n")
    (tmp_path / "costs.csv").write_text("name,macs\na,10\nb,2000\n")
    return tmp_path


def import_words(folder: Path) -> list[object]:
    files = ["--labels", folder / "labels.txt", "--costs", folder / "costs.csv"]
    return ["pool", "import", folder / "pool", "--probs", folder / "probs", *files]


def test_outputs_are_imported(elsewhere: Path) -> None:
    result = encas(*import_words(elsewhere), "--split", "test")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"next: encas search --pool {elsewhere}/pool --split test"
    assert Pool.open(elsewhere / "pool").names == ("a", "b")


def test_a_missing_folder_is_named(digits_files: Path, tmp_path: Path, elsewhere: Path) -> None:
    words = record_words(digits_files, tmp_path / "pool", "hidden016")
    words[words.index(digits_files / "digits.npz")] = tmp_path / "nowhere"
    assert line_of(encas(*words)) == f"encas: {tmp_path}/nowhere: no such file or folder\n"
    for command in ("list", "check", "measure"):
        assert "nowhere: no such folder; make a pool with" in line_of(
            encas("pool", command, tmp_path / "nowhere")
        )
    (elsewhere / "probs").rename(elsewhere / "moved")
    assert "probs: no such folder; one .npy file per member" in line_of(encas(*import_words(elsewhere)))
    assert not (tmp_path / "pool").exists()


def test_labels_of_the_wrong_length_are_named(elsewhere: Path) -> None:
    (elsewhere / "labels.txt").write_text("0\n1\n1\n")
    line = line_of(encas(*import_words(elsewhere)))
    assert "labels.txt: 2 labels are needed, one for each row of" in line
    assert line.endswith("found 3\n")
    assert not (elsewhere / "pool").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [([0.6, 0.6], "row 1 is no probability distribution"), ([np.nan, 1], "row 1 holds NaN or infinity")],
)
def test_probabilities_that_are_none_are_named(elsewhere: Path, row: list[float], message: str) -> None:
    np.save(elsewhere / "probs/b.npy", np.array([[0.75, 0.25], row]))
    assert f"b.npy: {message}" in line_of(encas(*import_words(elsewhere)))
    assert not (elsewhere / "pool").exists()


def test_a_truncated_npy_is_named(elsewhere: Path) -> None:
    file = elsewhere / "probs/b.npy"
    file.write_bytes(file.read_bytes()[:-3])
    assert "b.npy: not a whole .npy file" in line_of(encas(*import_words(elsewhere)))
    assert not (elsewhere / "pool").exists()


def test_a_member_twice_is_named(digits_files: Path, elsewhere: Path, tmp_path: Path) -> None:
    words = record_words(digits_files, tmp_path / "pool", "hidden016", "hidden016")
    assert "member 'hidden016' is named twice" in line_of(encas(*words))
    (elsewhere / "costs.csv").write_text("name,macs\na,10\nb,1\na,10\n")
    assert "costs.csv: member 'a' stands there twice" in line_of(encas(*import_words(elsewhere)))
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--member", "resnet18"], "source 'resnet18': must be timm:NAME"),
        (["--member", "onnx:nowhere.onnx"], "nowhere.onnx: no such file"),
        (["--member", "timm:a", "--name", "a b"], "--member timm:a: name: "),
        (["--member", "timm:a", "--device", "tpu"], "--device 'tpu': must be cpu or cuda"),
        (["--member", "timm:a", "--rows", "many"], "rows 'many': must be a slice"),
        (["--member", "timm:a", "--member", "timm:b", "--name", "c"], "belong to a single --member"),
        ([], "no member is named; add --member SOURCE or --members FILE"),
    ],
)
def test_options_that_do_not_fit_get_one_line(
    digits_files: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    line = line_of(encas("pool", "record", tmp_path / "pool", "--data", digits_files / "digits.npz", *words))
    assert message in line
    assert not (tmp_path / "pool").exists()


@pytest.mark.slow
def test_a_full_disk_leaves_no_half_written_member(digits_files: Path, small_disk: Path) -> None:
    words = record_words(digits_files, small_disk / "pool", *NAMES)
    done = subprocess.run(command_line(*words), capture_output=True, text=True, check=False)
    check_stopped(done, small_disk / "pool", "No space left on device")


@pytest.mark.slow
def test_a_file_that_may_not_grow_leaves_no_half_written_member(digits_files: Path, tmp_path: Path) -> None:
    """The system's limit on the size of files stops the second split, whose probabilities are longer."""
    words = record_words(digits_files, tmp_path / "pool", "hidden004", "hidden008")
    assert encas(*words, "--rows", ":100").exit_code == 0
    done = subprocess.run(
        command_line(*words, "--split", "test"),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    check_stopped(done, tmp_path / "pool", "File too large")


def check_stopped(done: subprocess.CompletedProcess[str], pool: Path, reason: str) -> None:
    *_, last = done.stderr.splitlines()
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert last.startswith(f"encas: {pool}/") and last.endswith(f": {reason}"), last
    assert 0 < len(Pool.open(pool).names) < len(NAMES)
    assert Pool.open(pool).problems() == []
    assert list(pool.rglob(".*")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB; four of the networks' outputs fit."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_ctrl_c_stops_with_one_line_and_keeps_what_was_done(digits_files: Path, tmp_path: Path) -> None:
    preprocess = yaml.safe_load((digits_files / "preprocess.yml").read_text())
    members = [
        # Each prepares images in its own way, so that each is recorded by itself; so many that a busy machine
        # does not record them all before the signal arrives.
        {
            "name": f"{name}-{j}",
            "source": f"onnx:networks/{name}.onnx",
            "preprocess": {**preprocess, "divisor": 255.0 + j},
        }
        for j in range(10)
        for name in NAMES
    ]
    (digits_files / "m.yml").write_text(yaml.safe_dump(members))
    pool = tmp_path / "pool"
    words = ["--members", digits_files / "m.yml", "--data", digits_files / "digits.npz", "--batch", "1"]
    process = subprocess.Popen(
        command_line("pool", "record", pool, *words), stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not ((pool / "pool.json").exists() and Pool.open(pool).names):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.splitlines()[-1].startswith("encas: stopped; nothing half-written is left")
    assert "Traceback" not in stderr
    assert 0 < len(Pool.open(pool).names) < len(members)
    assert Pool.open(pool).problems() == []
    assert list(pool.rglob(".*")) == []


@pytest.mark.slow
def test_variants_are_shown_beside_the_members_they_were_made_of(pool: Path) -> None:
    result = encas("pool", "quantize", pool, "--member", "hidden512", "--calibration", "50")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["hidden512", "hidden512.int8"]
    assert lines[4:] == [f"{pool}: 3 members, 1 of them new", f"next: encas pool measure {pool}"]
    assert "quantizing: 101/101" in result.stderr
    assert encas("pool", "measure", pool, "--batch", "1", "--provider", "cpu").exit_code == 0
    told = json.loads(encas("pool", "list", pool, "--json").stdout)
    assert [(m["name"], m["precision"], m["latency"][0]["precision"]) for m in told["members"]] == [
        ("hidden016", "fp32", "fp32"),
        ("hidden512", "fp32", "fp32"),
        ("hidden512.int8", "int8", "int8"),
    ]
    assert "ask for 32 to 100" in line_of(encas("pool", "quantize", pool, "--calibration", "101"))
    assert "'gpu': must be cpu or cuda" in line_of(encas("pool", "quantize", pool, "--device", "gpu"))


@pytest.mark.slow
def test_members_with_a_temperature_are_shown_beside_the_others(pool: Path) -> None:
    result = encas("pool", "temper", pool, "--member", "hidden512")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["hidden512", "hidden512.tempered"]
    assert lines[4:] == [f"{pool}: 3 members, 1 of them new", f"next: encas search --pool {pool}"]
    assert "tempering: 101/101" in result.stderr
    told = json.loads(encas("pool", "temper", pool, "--json").stdout)
    assert [m["variant"] is not None for m in told["members"]] == [False, True, False, True]
    assert "has a temperature already" in line_of(
        encas("pool", "temper", pool, "--member", "hidden512.tempered")
    )
    assert "'gpu': must be cpu or cuda" in line_of(encas("pool", "temper", pool, "--device", "gpu"))
