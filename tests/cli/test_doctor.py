import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

ENCAS = str(Path(sys.executable).with_name("encas"))


def doctor(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ENCAS, "doctor", *args],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def pretend(folder: Path, name: str, version: str) -> None:
    """Install nothing but the note that says a distribution is there."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_sound_installation_is_shown_and_is_exit_code_0() -> None:
    done = doctor()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert any(line.split()[:2] == ["numpy", "base"] for line in lines)
    assert "provider cpu: works" in lines
    assert lines[-1] == "nothing clashes; next: encas demo"


@pytest.mark.slow
def test_the_report_for_machines() -> None:
    report = json.loads(doctor("--json").stdout)
    assert report["format"] == "encas-doctor/1"
    assert report["clashes"] == []
    assert {"name": "cpu", "works": True, "why": None} in report["providers"]


@pytest.mark.slow
def test_it_works_where_nothing_but_the_base_can_be_imported() -> None:
    hidden = ("onnxruntime", "PIL", "torch", "psutil", "onnx", "timm", "numba", "scipy", "fastapi")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden})); sys.argv[0] = 'encas'; "
        "from encas.cli import app; app()"
    )
    done = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "provider cpu: onnxruntime is not installed; it comes with the extra 'cpu'" in done.stdout


@pytest.mark.slow
def test_a_clash_is_exit_code_1_and_one_line(tmp_path: Path) -> None:
    pretend(tmp_path, "onnxruntime", "1.32.0")
    pretend(tmp_path, "onnxruntime-gpu", "1.32.0")
    done = doctor(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("encas: onnxruntime and onnxruntime-gpu are both installed")
    assert "clash: onnxruntime and onnxruntime-gpu" in done.stdout


@pytest.mark.slow
def test_nothing_runs_where_both_builds_are_installed(tmp_path: Path, bundle_path: Path) -> None:
    pretend(tmp_path, "onnxruntime", "1.32.0")
    pretend(tmp_path, "onnxruntime-gpu", "1.32.0")
    done = subprocess.run(
        [ENCAS, "run", bundle_path, tmp_path / "image.png"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("encas: onnxruntime and onnxruntime-gpu are both installed")
    assert len(done.stderr.splitlines()) == 1
