"""`encas experiment` on a small cut: two supernetworks, a joint run, searches, claims and figures."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from encas.cli import app

pytest.importorskip("torch")
pytest.importorskip("pymoo")

DATA = {
    "train": {"path": "digits.npz", "rows": ":200"},
    "val": {"path": "digits.npz", "rows": "200:280"},
    "test": {"path": "digits.npz", "rows": "280:360"},
    "classes": 10,
}
LOOP = {
    "iterations": 2,
    "first": 6,
    "candidates": 4,
    "epochs": 0.1,
    "batch": 16,
    "surrogate_evaluations": 100,
    "predictor_members": 3,
    "calibration_images": 16,
}
REST = {"data": DATA, "start": {"epochs": 0.2, "batch": 16}, "loop": LOOP}
FINAL = {"final": {"networks": 3, "calibration_images": 16}}
EXPERIMENT = {
    "title": "small",
    "seed": 1,
    "runs": 1,
    "nat": {"a": {"config": "a.yml"}, "b": {"config": "a.yml", "changes": {"space": "tiny-proxyless"}}},
    "joint": {"joint": {"config": "joint.yml"}},
    "searches": {
        "encas1": {"pools": ["best"], "evaluations": 300},
        "encas2": {"pools": ["a", "b"], "evaluations": 300, "traced": True},
        "clones": {"pools": ["best"], "clones": 5, "evaluations": 300},
        "joint_encas": {"pools": ["joint"], "evaluations": 300},
    },
    "claims": [{"better": "encas2", "than": "best"}, {"better": "joint_encas", "than": "joint"}],
    "figures": [
        {"name": "fronts", "title": "fronts", "shows": ["best", "encas2", "joint"]},
        {"name": "growth", "title": "growth", "kind": "evaluations", "shows": ["encas2"]},
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    folder = tmp_path_factory.mktemp("experiment")
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    np.savez(folder / "digits.npz", images=images[:400], labels=digits.target[:400])
    joint = {"supernets": [{"space": "tiny-alphanet"}, {"space": "tiny-proxyless"}], **REST, **FINAL}
    for name, value in (
        ("a", {"space": "tiny-alphanet", **REST, **FINAL}),
        ("joint", joint),
        ("experiment", EXPERIMENT),
    ):
        (folder / f"{name}.yml").write_text(yaml.safe_dump(value))
    return folder


def run(folder: Path, *options: str) -> dict[str, object]:
    words = [
        "experiment",
        str(folder / "experiment.yml"),
        "--data",
        str(folder),
        "--out",
        str(folder / "out"),
    ]
    done = CliRunner().invoke(app, [*words, "--json", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_an_experiment_is_run_once_and_reported_again(folder: Path) -> None:
    found = run(folder)
    rows = {row["part"]: row for row in found["rows"]}  # type: ignore[attr-defined]
    assert set(rows) == {"a", "b", "joint", "encas1", "encas2", "clones", "joint_encas"}
    assert all(row["runs"] == 1 and 0 < row["test_own"][1] <= row["test_own"][2] < 1 for row in rows.values())
    # On val a search of all networks cannot come out behind the networks themselves.
    assert rows["encas2"]["val_own"][0] >= max(rows[name]["val_own"][0] for name in "ab")
    tests = found["tests"]
    assert len(tests) == 2 * 3  # type: ignore[arg-type]
    assert all(test["n"] == 1 and test["p"] <= test["p_holm"] <= 1 for test in tests)  # type: ignore[attr-defined]
    out = folder / "out"
    assert {path.name for path in (out / "figures").iterdir()} == {"fronts.png", "growth.png"}
    page = (out / "report.html").read_text()
    assert 'id="fronts"' in page and 'id="growth"' in page and "<script src" not in page

    before = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    (out / "results" / "encas1-0.json").unlink()
    assert run(folder)["tests"] == tests
    after = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    assert {path.name for path in after if after[path] != before[path]} == {"encas1-0.json"}


@pytest.mark.slow
def test_a_folder_of_another_experiment_is_refused(folder: Path) -> None:
    run(folder)
    other = folder / "other.yml"
    other.write_text(yaml.safe_dump({**EXPERIMENT, "seed": 2}))
    words = ["experiment", str(other), "--data", str(folder), "--out", str(folder / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "is of another experiment" in done.stderr
