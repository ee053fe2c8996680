"""From a supernetwork and images to a pool."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pymoo")

from encas.errors import InvalidInput
from encas.export.transfer import transfer
from encas.search.nat.config import NatConfig


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real handwritten digits, 16 pixels wide, as three files."""
    load = pytest.importorskip("sklearn.datasets").load_digits
    digits = load()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "train.npz", images=images[:300], labels=digits.target[:300])
    np.savez(folder / "test.npz", images=images[300:380], labels=digits.target[300:380])
    return folder


def config(**change: Any) -> NatConfig:
    value: dict[str, Any] = {
        "space": "tiny-alphanet",
        "data": {
            "train": {"path": "train.npz", "rows": "60:", "shuffled_by": 1},
            "val": {"path": "train.npz", "rows": ":60", "shuffled_by": 1},
            "test": {"path": "test.npz"},
            "classes": 10,
        },
        "start": {"epochs": 4, "batch": 16},
        "loop": {
            "iterations": 2,
            "first": 6,
            "candidates": 4,
            "epochs": 0.1,
            "batch": 16,
            "surrogate_evaluations": 200,
            "predictor_members": 10,
            "calibration_images": 32,
            "averaged": 2,
        },
        "final": {"networks": 5, "calibration_images": 32},
    }
    return NatConfig.model_validate({**value, **change})


class StoppedError(Exception):
    """Instead of a kill."""


def files(folder: Path) -> dict[str, bytes]:
    """Every file that holds no seconds."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".npy", ".safetensors"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


@pytest.mark.slow
def test_a_run_ends_in_a_pool_and_the_same_one_when_it_was_stopped_anywhere(
    data: Path, tmp_path: Path
) -> None:
    pool, reports = transfer(config(), tmp_path / "a/run", tmp_path / "a/pool", data=data)
    assert [report.n for report in reports] == [6, 4, 4]
    assert reports[2].kendall_tau is not None
    assert len((tmp_path / "a/run/report.jsonl").read_text().splitlines()) == 3
    assert len(pool.names) == 5 and pool.problems() == []
    assert {name: split.n for name, split in pool.file.splits.items()} == {"val": 60, "test": 80}
    macs = [member.macs for member in pool.file.members]
    assert len(set(macs)) > 2

    stopped: set[str] = set()  # once in the middle of everything that it does

    def phase(name: str, _steps: int) -> Any:
        told = 0

        def advance(_done: int, _words: str) -> None:
            nonlocal told
            told += 1
            if told == 2 and name not in stopped:
                stopped.add(name)
                raise StoppedError

        return advance

    for _ in range(100):
        try:
            transfer(config(), tmp_path / "b/run", tmp_path / "b/pool", data=data, phase=phase)
        except StoppedError:
            continue
        break
    assert len(stopped) >= 7
    assert files(tmp_path / "b") == files(tmp_path / "a")
    for name in ("candidates.json", "evaluated.json"):
        for iteration in ("00", "01", "02"):
            one, two = (
                json.loads((tmp_path / which / "run/iterations" / iteration / name).read_text())
                for which in "ab"
            )
            key = "genes" if name == "candidates.json" else "evaluations"
            assert one[key] == two[key]


def test_what_is_wrong_with_the_images_is_told_before_the_work(data: Path, tmp_path: Path) -> None:
    run, pool = tmp_path / "run", tmp_path / "pool"
    with pytest.raises(InvalidInput, match=r"train\.npz: no such file or folder"):
        transfer(config(), run, pool, data=tmp_path)
    few = config(data={**config().data.model_dump(), "train": {"path": "train.npz", "rows": ":12"}})
    with pytest.raises(InvalidInput, match=r"train\.npz: class '\d' has 1 images; training needs at least 2"):
        transfer(few, run, pool, data=data)
    other = config(data={**config().data.model_dump(), "classes": 7})
    with pytest.raises(InvalidInput, match=r"data\.train: has 10 classes, the configuration says 7"):
        transfer(other, run, pool, data=data)
    assert not run.exists() and not pool.exists()


def test_a_run_of_another_configuration_is_not_gone_on_with(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(config(seed=5).model_dump_json())
    with pytest.raises(InvalidInput, match="is a run of another configuration"):
        transfer(config(), tmp_path / "run", tmp_path / "pool", data=data)
    assert not (tmp_path / "pool").exists()
