import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from encas.cascade import Cascade, PoolReference
from encas.cli import app
from encas.pool import Pool
from encas.search import certify


def run(*words: object) -> tuple[int, str, str]:
    """Call the command line; returns exit code, stdout and stderr."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def cascade_path(digits_cascade: Cascade, pool_path: Path, tmp_path: Path) -> Path:
    reference = PoolReference(path=str(pool_path), sha256=Pool.open(pool_path).sha256)
    digits_cascade.model_copy(update={"pool": reference}).write(tmp_path / "cascade.json")
    return tmp_path / "cascade.json"


def test_certify_writes_what_python_finds_and_says_what_is_guaranteed(
    cascade_path: Path, pool_path: Path, tmp_path: Path
) -> None:
    out_path = tmp_path / "new" / "certified.json"
    options = ["--pool", pool_path, "--risk", "0.02", "--confidence", "0.9", "--loss", "consistency"]
    code, out, err = run("certify", cascade_path, *options, "-o", out_path)
    assert (code, err) == (0, "")
    before, after = Cascade.read(cascade_path), Cascade.read(out_path)
    found = certify(before, Pool.open(pool_path), risk=0.02, confidence=0.9, loss="consistency")
    assert (after.stages, after.certificate) == (found.stages, found.certificate)
    assert after.certificate is not None
    lines = out.splitlines()
    assert lines[:3] == [f"before: {before}", f"certified: {after}", f"guaranteed: {after.certificate}"]
    assert f"{after.certificate.saving_before:.1%}" in lines[5]
    assert f"{after.certificate.saving:.1%}" in lines[6]
    assert lines[-1] == f"next: encas export {out_path}"
    assert max(len(line) for line in lines[3:7]) <= 80


def test_the_pool_and_the_settings_have_defaults(
    cascade_path: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("certify", cascade_path, "--json")
    assert code == 0
    certificate = json.loads(out)["certificate"]
    assert (certificate["risk"], certificate["confidence"], certificate["split"]) == (0.01, 0.95, "test")
    assert (certificate["loss"], certificate["method"]) == ("accuracy", "learn-then-test")
    assert Cascade.read("certified.json").certificate is not None


def test_evaluate_prints_the_certificate(cascade_path: Path, tmp_path: Path) -> None:
    assert run("certify", cascade_path, "--risk", "0.05", "-o", tmp_path / "c.json")[0] == 0
    _, out, _ = run("evaluate", tmp_path / "c.json", "--split", "val")
    assert "guaranteed: at most 5 % lost against all stages (confidence 0.95" in out


def test_what_cannot_be_guaranteed_is_one_line(cascade_path: Path, tmp_path: Path) -> None:
    code, out, err = run("certify", cascade_path, "--risk", "0.001", "-o", tmp_path / "c.json")
    assert (code, out) == (1, "")
    assert "600 samples of 'test' are too few to guarantee a risk of 0.001; at least 4000 are needed" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "c.json").exists()


def test_the_help_shows_an_example() -> None:
    code, out, _ = run("certify", "--help")
    assert code == 0
    assert "Example: encas certify" in " ".join(out.split())
