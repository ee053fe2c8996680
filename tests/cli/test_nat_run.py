"""`encas nat CONFIG` as a process that is killed, or meets a full disk, and goes on."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("pymoo")

ENCAS = Path(sys.executable).with_name("encas")
CONFIG = {
    "space": "tiny-alphanet",
    "data": {
        "train": {"path": "digits.npz", "rows": ":200"},
        "val": {"path": "digits.npz", "rows": "200:240"},
        "test": {"path": "digits.npz", "rows": "240:260"},
        "classes": 10,
    },
    "start": {"epochs": 0.5, "batch": 16},
    "loop": {
        "iterations": 2,
        "first": 3,
        "candidates": 3,
        "epochs": 0.2,
        "batch": 16,
        "archive": "replaced",
        "surrogate_evaluations": 200,
        "predictor_members": 3,
        "calibration_images": 16,
        "averaged": 2,
    },
    "final": {"networks": 3, "calibration_images": 16},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    folder = tmp_path_factory.mktemp("nat")
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    np.savez(folder / "digits.npz", images=images[:260], labels=digits.target[:260])
    (folder / "config.yml").write_text(yaml.safe_dump(CONFIG))
    return folder


def start(folder: Path, name: str, most_bytes: int | None = None) -> "subprocess.Popen[str]":
    """Start the command, which may be forbidden to write files of more bytes."""
    options = ["--data", folder, "--run", folder / name / "run", "--pool", folder / name / "pool"]
    command = [str(word) for word in (ENCAS, "nat", folder / "config.yml", *options)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # for so small networks more cost more than they bring
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    if most_bytes is not None:  # long before it has imported what it needs
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    return process


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, complaints = process.communicate(timeout=600)
    return process.returncode, complaints


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> dict[str, object]:
    code, complaints = finish(start(folder, "whole"))
    assert code == 0, complaints
    return results(folder / "whole")


def results(place: Path) -> dict[str, object]:
    """All weights, statistics and probabilities byte by byte, and what was evaluated; no seconds."""
    found: dict[str, object] = {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.suffix in (".npy", ".npz", ".safetensors")
    }
    for path in place.rglob("evaluated.json"):
        found[str(path.relative_to(place))] = yaml.safe_load(path.read_text())["evaluations"]
    assert len(found) > 20
    return found


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_if_nothing_had_been(
    folder: Path, undisturbed: dict[str, object]
) -> None:
    rng = np.random.default_rng()
    n_kills = 0
    for _ in range(5):
        process = start(folder, "killed")
        n_writes, seen = int(rng.integers(1, 9)), files(folder / "killed")
        while process.poll() is None and n_writes:
            time.sleep(0.005)
            now = files(folder / "killed")
            n_writes -= now != seen
            seen = now
        time.sleep(rng.uniform(0, 0.1))
        if process.poll() is None:
            process.kill()
            n_kills += 1
        process.communicate()
    assert n_kills >= 2
    code, complaints = finish(start(folder, "killed"))
    assert code == 0, complaints
    assert results(folder / "killed") == undisturbed
    assert not list((folder / "killed").rglob(".*.tmp"))


def files(place: Path) -> set[str]:
    try:
        return {str(path) for path in place.rglob("*")}
    except FileNotFoundError:  # a temporary file that was there a moment ago
        return set()


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_with_more_space_it_goes_on(
    folder: Path, undisturbed: dict[str, object]
) -> None:
    told = []
    for most in (1_000, 500_000):
        code, complaints = finish(start(folder, "full", most))
        last = complaints.splitlines()[-1]
        assert code == 1 and "Traceback" not in complaints, complaints
        assert last.startswith("encas: ") and last.endswith(": File too large"), complaints
        told.append(Path(last.split(": ")[1]).name)
    assert told[0] == "config.json" and told[1].endswith(".safetensors")
    code, complaints = finish(start(folder, "full"))
    assert code == 0, complaints
    assert results(folder / "full") == undisturbed
