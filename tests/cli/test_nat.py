import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from encas.cascade import Cascade, Stage
from encas.cli import app
from encas.pool import Pool
from encas.search.nat import SPACES, Supernet, SupernetFolder


def encas(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def told(*words: object) -> str:
    result = encas(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Forty small images of three classes."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 20, 20, 3), np.uint8), np.arange(40) % 3
    np.savez(tmp_path / "data.npz", images=images, labels=labels, classes=["a", "b", "c"])
    return tmp_path / "data.npz"


def test_spaces_are_listed_with_what_they_cost() -> None:
    lines = told("nat", "spaces").splitlines()
    assert lines[2].split() == ["ofa-mbv3-w1.0", "192-256", "22", "3.7e+20", "89.84", "738"]
    assert all(len(line) <= 100 for line in lines) and all(len(line) <= 80 for line in lines[:10])
    spaces = json.loads(told("nat", "spaces", "--json"))["spaces"]
    assert [space["name"] for space in spaces] == list(SPACES)
    assert spaces[0]["networks"] == 17 * 7371**5


def test_weights_are_named_with_their_licence() -> None:
    lines = told("nat", "weights").splitlines()
    assert lines[0] == "ofa-mbv3-w1.0: MIT, about 31 MB, trained by progressive shrinking"
    assert "alphanet: CC-BY-NC-4.0, about 98 MB, trained by alpha-divergence" in lines
    weights = json.loads(told("nat", "weights", "--json"))["weights"]
    assert [one["space"] for one in weights] == [name for name in SPACES if not name.startswith("tiny")]
    assert all(one["url"].startswith("https://") for one in weights)


def official(path: Path) -> Path:
    """A file in the naming of once-for-all, for the tiny space, which has the same layers."""
    net = Supernet(SPACES["tiny-proxyless"], 5, torch.Generator().manual_seed(0)).net
    numbers = {"0": 0, "1": 1, "2": 3, "3": 6, "4": 9}
    layers = {"expand": "inverted_bottleneck", "depth": "depth_conv", "project": "point_linear"}
    ends = {"stem": "first_conv", "mix": "feature_mix_layer", "classifier": "classifier.linear"}
    state = {}
    for key, tensor in net.state_dict().items():
        first, _, rest = key.partition(".")
        name = f"{ends.get(first)}.{rest}"
        if first == "stages":
            stage, j, layer, rest = rest.split(".", 3)
            rest = f"conv.{rest[-4:]}_matrix" if "matrices" in rest else rest
            name = f"blocks.{numbers[stage] + int(j)}.conv.{layers[layer]}.{rest}"
        state[name] = tensor
    torch.save({"state_dict": state}, path)
    return path


def test_what_was_downloaded_is_checked(tmp_path: Path) -> None:
    file = official(tmp_path / "weights")
    out = told("nat", "weights", file, "--space", "tiny-proxyless")
    assert out.startswith(f"{file}: all tensors of tiny-proxyless, ")
    assert out.splitlines()[0].endswith(" parameters, 5 classes")
    assert json.loads(told("nat", "weights", file, "--space", "tiny-proxyless", "--json"))["classes"] == 5


@pytest.mark.slow
def test_a_supernetwork_goes_from_weights_to_a_recorded_member(tmp_path: Path, data: Path) -> None:
    run, pool = tmp_path / "run", tmp_path / "pool"
    weights = official(tmp_path / "weights")
    options = ["--space", "tiny-proxyless", "--weights", weights, "--classes", "3"]
    assert f"next: encas nat add {run}" in told("nat", "init", run, *options)
    assert SupernetFolder.open(run).supernet().n_classes == 3
    added = told("nat", "add", run, "--arch", "smallest", "--data", data, "--batch", "16")
    assert "network 'smallest', 16 pixels, " in added and "calibrated on 40 images" in added
    genes = "4.0.1.1.6.3.0.9.2.0"
    more = ["--name", "other", "--estimator", "pooled", "--json"]
    known = json.loads(told("nat", "add", run, "--arch", genes, "--data", data, *more))
    assert (known["estimator"], known["arch"]["resolution"]) == ("pooled", 32)
    members = ["--member", f"nat:{run}#smallest", "--member", f"nat:{run}#other"]
    told("pool", "record", pool, *members, "--data", data)
    opened = Pool.open(pool)
    assert opened.names == ("other", "smallest")
    assert opened.member("other").source == "nat:../run#other"
    assert opened.member("other").macs > opened.member("smallest").macs


def test_weights_that_are_drawn_follow_the_seed(tmp_path: Path) -> None:
    made = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        options = ["--space", "tiny-mbv3-w1.0", "--classes", "4", "--seed", seed, "--json"]
        made[name] = json.loads(told("nat", "init", tmp_path / name, *options))["weights_sha256"]
    assert made["a"] == made["b"] != made["c"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["weights", "file"], "to check a download give both: encas nat weights FILE --space NAME"),
        (["weights", "none", "--space", "alphanet"], "none: no such file"),
        (["weights", "none", "--space", "vgg"], "space 'vgg': there is none; must be one of"),
        (["init", "run", "--space", "vgg"], "space 'vgg': there is none; must be one of"),
        (["add", "run", "--arch", "smallest", "--data", "x"], "run: holds no supernet.json; make it with"),
        (
            ["add", "run", "--arch", "smallest", "--data", "x", "--estimator", "median"],
            "--estimator 'median': must be mean or pooled",
        ),
    ],
)
def test_what_is_not_right_is_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = encas("nat", *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"encas: {message}") and result.stderr.count("\n") == 1


@pytest.mark.slow
def test_networks_of_a_supernetwork_are_exported_as_a_cascade(tmp_path: Path, data: Path) -> None:
    run, pool, bundle = (tmp_path / name for name in ("run", "pool", "bundle"))
    told("nat", "init", run, "--space", "tiny-alphanet", "--classes", "3")
    for arch in ("smallest", "largest"):
        told("nat", "add", run, "--arch", arch, "--data", data)
        told("pool", "record", pool, "--member", f"nat:{run}#{arch}", "--data", data)
    stages = (Stage(member="smallest", threshold=0.4), Stage(member="largest"))
    Cascade(stages=stages).write(tmp_path / "cascade.json")
    out = told("export", tmp_path / "cascade.json", "--pool", pool, "--split", "val", "-o", bundle)
    assert "decides 40 of 40 images of 'val' as recorded" in out
    assert {path.name for path in (bundle / "members").iterdir()} == {"smallest.onnx", "largest.onnx"}


CONFIG = """
space: tiny-mbv3-w1.0
data:
  train: {path: data.npz, rows: "10:"}
  val: {path: data.npz, rows: ":10"}
  classes: 3
start: {epochs: 1, batch: 8, rule: shrinking, growing: [[1.0, 16]]}
loop:
  iterations: 1
  first: 6
  candidates: 4
  archive: replaced
  epochs: 0.5
  batch: 8
  surrogate_evaluations: 200
  predictor_members: 5
  calibration_images: 16
final: {networks: 3, calibration_images: 16}
"""


def ended(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *(str(word) for word in words)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
@pytest.mark.usefixtures("data")
def test_processes_started_here_or_by_torchrun_end_with_the_same_weights(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / f"{name}.yml").write_text(CONFIG)
    here = ended(tmp_path, "encas", "nat", "here.yml", "--processes", "2")
    assert here.returncode == 0, here.stderr
    assert here.stdout.count("next: encas search") == 1
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "--", "encas", "nat"]
    there = ended(tmp_path, *torchrun, "there.yml", "--run", "runs/there")
    assert there.returncode == 0, there.stderr
    assert there.stdout.count("next: encas search") == 1  # the others say nothing
    name = "supernet/weights.safetensors"
    assert (tmp_path / "runs/here" / name).read_bytes() == (tmp_path / "runs/there" / name).read_bytes()
    twice = ended(tmp_path, *torchrun, "there.yml", "--processes", "2")
    assert "encas: --processes: torchrun has started them already; leave it out" in twice.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("data")
def test_a_batch_that_processes_cannot_share_is_told(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(CONFIG)
    done = ended(tmp_path, "encas", "nat", "c.yml", "--processes", "3")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(
        "encas: a batch of 8 images cannot be shared by 3 processes: it must have 2"
    )
