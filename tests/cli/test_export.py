import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from encas.bundle import Bundle
from encas.cascade import Cascade, PoolReference
from encas.cli import app
from encas.front import Front
from encas.pool import Pool


def encas(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def cascade_path(digits_files: Path, digits_cascade: Cascade, tmp_path: Path) -> Path:
    """A cascade beside the pool that its three networks were recorded in."""
    words = ["--data", digits_files / "digits.npz", "--preprocess", digits_files / "preprocess.yml"]
    for name in digits_cascade.member_names:
        words += ["--member", f"onnx:{digits_files}/networks/{name}.onnx"]
    assert encas("pool", "record", tmp_path / "pool", *words, "--rows", "597:").exit_code == 0
    pool = Pool.open(tmp_path / "pool")
    reference = PoolReference(path=str(pool.path), sha256=pool.sha256)
    digits_cascade.model_copy(update={"pool": reference}).write(tmp_path / "digits.json")
    return tmp_path / "digits.json"


def test_a_bundle_is_written_and_shown(cascade_path: Path, tmp_path: Path) -> None:
    result = encas("export", cascade_path, "-o", tmp_path / "bundle")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == [
        "member",
        "-" * 9,
        "hidden016",
        "hidden064",
        "hidden512",
    ]
    assert lines[5] == "decides 512 of 512 images of 'val' as recorded"
    assert lines[-1] == f"next: encas run {tmp_path}/bundle IMAGES"
    bundle = Bundle.open(tmp_path / "bundle")
    assert (bundle.name, bundle.file.version) == ("digits", "1")
    assert encas("run", tmp_path / "bundle", tmp_path / "bundle/golden").exit_code == 0


@pytest.mark.slow
def test_options_reach_the_bundle(cascade_path: Path, tmp_path: Path) -> None:
    words = ["--name", "handwriting", "--model-version", "3", "--samples", "40", "--json"]
    result = encas("export", cascade_path, "-o", tmp_path / "bundle", *words)
    told = json.loads(result.stdout)
    assert (told["name"], told["version"], told["parity"]["n"]) == ("handwriting", "3", 40)


@pytest.mark.slow
def test_gears_come_from_files_and_are_shown(cascade_path: Path, tmp_path: Path) -> None:
    whole = Cascade.read(cascade_path)
    whole.model_copy(update={"stages": whole.stages[-1:]}).write(tmp_path / "large.json")
    result = encas("export", tmp_path / "large.json", "--gear", cascade_path, "-o", tmp_path / "bundle")
    assert result.exit_code == 0, result.stderr
    gears = [line.split() for line in result.stdout.splitlines() if line.startswith(("0 ", "1 "))]
    figures = [gear.evaluated["val"] for gear in Bundle.open(tmp_path / "bundle").gears]
    assert [line[-1] for line in gears] == [f"{one.accuracy:.4f}" for one in figures]
    assert figures[0].macs > figures[1].macs


@pytest.mark.slow
def test_gears_of_a_front_are_the_best_of_half_the_cost_and_so_on(cascade_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("numba")
    front = tmp_path / "front"
    words = ("--pool", tmp_path / "pool", "--out", front, "--evaluations", 3000, "--seed", 1)
    assert encas("search", *words).exit_code == 0
    result = encas("export", front, "--gears", 3, "-o", tmp_path / "bundle")
    assert result.exit_code == 0, result.stderr
    bundle, found = Bundle.open(tmp_path / "bundle"), Front.open(front)
    assert bundle.cascade.stages == found.candidates[-1].cascade.stages
    assert len(bundle.front) == len(found.candidates)
    assert len(bundle.gears) >= 2
    result = encas("export", cascade_path, "--gears", 3, "-o", tmp_path / "other")
    assert "--gears takes cascades of a front" in result.stderr


@pytest.mark.slow
def test_a_pool_and_images_that_were_moved_are_named(
    cascade_path: Path, digits_files: Path, tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "pool").rename(tmp_path / "deep/pool")
    (tmp_path / "deep/files").mkdir()
    (digits_files / "networks").rename(tmp_path / "deep/files/networks")
    result = encas("export", cascade_path, "-o", tmp_path / "bundle", "--pool", tmp_path / "deep/pool")
    assert "digits.npz: no such file or folder; name the images of split 'val' with --data" in result.stderr
    words = ["--pool", tmp_path / "deep/pool", "--data", digits_files / "digits.npz"]
    assert encas("export", cascade_path, "-o", tmp_path / "bundle", *words).exit_code == 0


@pytest.mark.slow
def test_a_member_that_the_pool_lacks_gets_one_line(cascade_path: Path, tmp_path: Path) -> None:
    cascade_path.write_text(cascade_path.read_text().replace("hidden064", "hidden999"))
    result = encas("export", cascade_path, "-o", tmp_path / "bundle")
    assert result.exit_code == 1
    assert result.stderr == (
        f"encas: {tmp_path}/pool: no member 'hidden999'; it has: hidden016, hidden064, hidden512\n"
    )
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_a_threshold_out_of_range_gets_one_line(cascade_path: Path, tmp_path: Path) -> None:
    cascade_path.write_text(cascade_path.read_text().replace("0.8", "1.8", 1))
    result = encas("export", cascade_path, "-o", tmp_path / "bundle")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "stage 0 (hidden016): the threshold must be a number in [0, 1], got 1.8" in result.stderr


@pytest.mark.slow
def test_code_that_the_pool_names_is_not_run_unasked(cascade_path: Path, tmp_path: Path) -> None:
    pool_json = tmp_path / "pool/pool.json"
    text = pool_json.read_text()
    pool_json.write_text(text.replace("onnx:../files/networks/hidden064.onnx", "torch:antigravity:fly"))
    result = encas("export", cascade_path, "-o", tmp_path / "bundle")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert (
        "member 'hidden064' would run the Python function antigravity:fly; add --allow-code" in result.stderr
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["digits.json", "files", "pool"]


@pytest.mark.slow
def test_a_torch_module_goes_the_whole_way(
    digits_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_networks.py").write_text(
        "from torch import manual_seed, nn\n\n\n"
        "def tiny():\n"
        "    manual_seed(0)\n"
        "    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)\n"
        "    preprocess = {'channels': 1, 'size': 8, 'mean': [0], 'std': [1]}\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *pooled), preprocess\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["--member", "torch:my_networks:tiny", "--data", digits_files / "digits.npz"]
    assert encas("pool", "record", "pool", *words).exit_code == 0
    assert Pool.open("pool").member("tiny").macs == 4 * 6 * 6 * 9 + 40
    Path("c.json").write_text('{"stages": [{"member": "tiny"}], "pool": {"path": "pool", "sha256": ""}}')
    assert "add --allow-code" in encas("export", "c.json").stderr
    result = encas("export", "c.json", "--allow-code")
    assert result.exit_code == 0, result.stderr
    assert "decides 512 of 512 images of 'val' as recorded" in result.stdout
    assert "torch" in Bundle.open("bundle").file.versions
    assert encas("pool", "measure", "pool", "--allow-code", "--batch", "1").exit_code == 0
    assert len(Pool.open("pool").member("tiny").latency) == 1


@pytest.mark.slow
def test_a_single_file_comes_with_the_bundle_or_later(cascade_path: Path, tmp_path: Path) -> None:
    result = encas("export", cascade_path, "-o", tmp_path / "bundle", "--single-file")
    assert result.exit_code == 0, result.stderr
    first = Bundle.open(tmp_path / "bundle").file.files["cascade.onnx"]
    result = encas("export", tmp_path / "bundle", "--single-file", "--image-size", "8x8")
    assert result.exit_code == 0, result.stderr
    assert Bundle.open(tmp_path / "bundle").file.files["cascade.onnx"] != first
    again = encas("export", cascade_path, "-o", tmp_path / "bundle", "--json")  # replaces both
    assert "cascade.onnx" not in json.loads(again.stdout)["files"]
    assert not (tmp_path / "bundle/cascade.onnx").exists()


@pytest.mark.slow
def test_options_of_the_single_file_that_make_no_sense_get_one_line(
    cascade_path: Path, bundle_path: Path, tmp_path: Path
) -> None:
    for words, message in (
        (["--image-size", "32"], "--image-size says what the single file takes; add --single-file"),
        (
            ["--single-file", "--image-size", "0x5"],
            "--image-size 0x5: must be a height and a width in pixels",
        ),
        (
            ["--single-file", "--image-size", "big"],
            "--image-size big: must be a height and a width in pixels",
        ),
    ):
        result = encas("export", cascade_path, "-o", tmp_path / "out", *words)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert message in result.stderr
    for option, value in (("--name", "other"), ("--out", tmp_path / "out")):
        result = encas("export", bundle_path, "--single-file", option, value)
        said = f"encas: {bundle_path}: is a bundle, for which {option} says nothing; leave it out\n"
        assert result.stderr == said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_member_in_another_order_of_classes_gets_one_line(cascade_path: Path, tmp_path: Path) -> None:
    pool = Pool.open(tmp_path / "pool")
    for split in pool.file.splits:
        pool = pool.with_outputs(
            pool.member("hidden064"),
            split,
            pool.probs("hidden064", split)[:, ::-1].astype("float32"),
            "by hand",
        )
    result = encas("export", cascade_path, "-o", tmp_path / "bundle")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "member 'hidden064' counts the classes in another order" in result.stderr


def test_ways_to_leave_are_written_and_their_use_is_told(bundle_path: Path, tmp_path: Path) -> None:
    words = [
        "--kserve",
        tmp_path / "kserve",
        "--triton",
        tmp_path / "models",
        "--ray-serve",
        tmp_path / "ray",
    ]
    result = encas("export", bundle_path, *words)
    assert result.exit_code == 0, result.stderr
    for path, use in (
        (tmp_path / "ray/app.py", f"cd {tmp_path}/ray && serve run app:app"),
        (tmp_path / "kserve/inferenceservice.yaml", f"docker build {tmp_path}/kserve"),
        (tmp_path / "models/digits/config.pbtxt", f"tritonserver --model-repository {tmp_path}/models"),
    ):
        assert path.is_file() and f"{path}: {use}" in result.stdout


@pytest.mark.slow
def test_a_page_that_cannot_be_written_gets_one_line(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = encas("export", bundle_path, "--web", tmp_path / "page")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "npm: is not installed, and the page needs onnxruntime-web@" in result.stderr
