"""From a supernetwork and images to a pool."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pymoo")

import torch
from PIL import Image as pillow

from encas.errors import InvalidInput
from encas.export import merge
from encas.export.transfer import Splits, _check_config, _opened, check_same_images, transfer
from encas.pool import Pool
from encas.search.nat.config import Images, NatConfig
from encas.search.nat.trainer import Schedule


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


POPULATION: dict[str, Any] = {
    "space": "tiny-mbv3-w1.0",
    "others": ({"space": "tiny-mbv3-w1.2"},),
    "loop": {
        "iterations": 2,
        "first": 8,
        "candidates": 8,
        "epochs": 0.5,
        "batch": 16,
        "cosine": "once",
        "trained": "marginals",
        "archive": "replaced",
        "cut_out": 6,
        "surrogate_evaluations": 300,
        "predictor_members": 10,
        "fitted_on": 6,
        "calibration_images": 32,
    },
    "final": {"networks": 5, "calibration_images": 32, "front": "last"},
}


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
@pytest.mark.parametrize("kind", ["one", "population"])
def test_a_run_ends_in_a_pool_and_the_same_one_when_it_was_stopped_anywhere(
    data: Path, tmp_path: Path, kind: str
) -> None:
    made = config() if kind == "one" else config(**POPULATION)
    pool, reports = transfer(made, tmp_path / "a/run", tmp_path / "a/pool", data=data)
    assert [report.n for report in reports] == ([6, 4, 4] if kind == "one" else [8, 8, 8])
    assert reports[2].kendall_tau is not None
    assert len((tmp_path / "a/run/report.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "a/run/report.png").stat().st_size > 10_000
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
            transfer(made, tmp_path / "b/run", tmp_path / "b/pool", data=data, phase=phase)
        except StoppedError:
            continue
        break
    assert len(stopped) >= (7 if kind == "one" else 12)
    assert files(tmp_path / "b") == files(tmp_path / "a")
    for name in ("candidates.json", "evaluated.json"):
        for iteration in ("00", "01", "02"):
            one, two = (
                json.loads((tmp_path / which / "run/iterations" / iteration / name).read_text())
                for which in "ab"
            )
            key = "genes" if name == "candidates.json" else "evaluations"
            assert one[key] == two[key]


@pytest.mark.slow
def test_two_supernetworks_are_searched_as_one_population(data: Path, tmp_path: Path) -> None:
    made = config(**POPULATION)
    steps: dict[str, int] = {}

    def phase(name: str, n: int) -> Any:
        steps[name] = n
        return lambda _done, _words: None

    pool, _ = transfer(made, tmp_path / "run", tmp_path / "pool", data=data, phase=phase)
    for iteration in range(3):
        trained = [n for name, n in steps.items() if name.startswith(f"iteration {iteration}: training")]
        # Half an epoch of 15 batches, which the two share; each rounds its part.
        assert len(trained) == 2 and abs(sum(trained) - 7.5) <= 1
        file = tmp_path / f"run/iterations/{iteration:02}/evaluated.json"
        genes = [one["genes"] for one in json.loads(file.read_text())["evaluations"]]
        assert {one.split(".")[0] for one in genes} == {"0", "1"}
        assert {"0.0.0.1.0.1.0.0.1.0.0", "1.0.0.1.0.1.0.0.1.0.0"} <= set(genes)  # the smallest of each
    last = {f"run_{one}" for one in genes}
    assert set(pool.names) <= last
    spaces = {member.source.partition("#")[0].rpartition("/")[2] for member in pool.file.members}
    assert spaces == {"tiny-mbv3-w1.0", "tiny-mbv3-w1.2"}


def test_one_cosine_goes_over_all_trainings_in_their_order() -> None:
    whole = Schedule(0.1, 30, "cosine")
    parts = [Schedule(0.1, 10, "cosine", part=(i / 3, (i + 1) / 3)) for i in range(3)]
    rates = [part.rate(step) for part in parts for step in range(10)]
    assert rates == pytest.approx([whole.rate(step) for step in range(30)])


@pytest.mark.slow
def test_several_runs_go_into_one_pool_and_their_pools_into_one(data: Path, tmp_path: Path) -> None:
    spaces = {"one": "tiny-alphanet", "two": "tiny-proxyless"}
    for name, space in spaces.items():
        for pool in ("all", f"pool-{name}"):
            made = config(space=space, final={"networks": 2, "calibration_images": 32})
            transfer(made, tmp_path / name, tmp_path / pool, data=data)
    together = Pool.open(tmp_path / "all")
    assert [name.split("_")[0] for name in together.names] == ["one", "one", "two", "two"]
    merged = merge(tmp_path / "merged", [tmp_path / "pool-one", tmp_path / "pool-two"])
    assert merged.names == together.names and merged.problems() == together.problems() == []
    for name in together.names:
        for split in ("val", "test"):
            assert np.array_equal(together.probs(name, split), merged.probs(name, split))


def test_what_is_wrong_with_the_images_is_told_before_the_work(data: Path, tmp_path: Path) -> None:
    run, pool = tmp_path / "run", tmp_path / "pool"
    with pytest.raises(InvalidInput, match=r"train\.npz: no such file or folder"):
        transfer(config(), run, pool, data=tmp_path)
    few = config(data={**config().data.model_dump(), "train": {"path": "train.npz", "rows": ":12"}})
    with pytest.raises(InvalidInput, match=r"train\.npz: class '\d' has 1 image; training needs at least 2"):
        transfer(few, run, pool, data=data)
    other = config(data={**config().data.model_dump(), "classes": 7})
    with pytest.raises(InvalidInput, match=r"data\.train: has 10 classes, the configuration says 7"):
        transfer(other, run, pool, data=data)
    assert not run.exists() and not pool.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_device_that_is_not_there_is_told_before_the_work(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="torch finds no CUDA device here; use --device cpu"):
        transfer(config(), tmp_path / "run", tmp_path / "pool", data=data, device="cuda")
    assert not (tmp_path / "run").exists()


def test_a_batch_of_more_images_than_there_are_is_told_before_the_work(data: Path, tmp_path: Path) -> None:
    large = config(loop={**config().loop.model_dump(), "epochs": 0.1, "batch": 301})
    with pytest.raises(InvalidInput, match=r"data\.train: has \d+ images, a batch of 301 is wanted"):
        transfer(large, tmp_path / "run", tmp_path / "pool", data=data)
    assert not (tmp_path / "run").exists()


def test_other_images_are_not_gone_on_with(data: Path, tmp_path: Path) -> None:
    splits = Splits.open(config(), data)
    (tmp_path / "run").mkdir()
    check_same_images(splits, tmp_path / "run")
    check_same_images(splits, tmp_path / "run")
    turned = replace(splits.train, images=np.asarray(splits.train.images)[:, ::-1])
    with pytest.raises(InvalidInput, match="run: was made on other images for train"):
        check_same_images(replace(splits, train=turned), tmp_path / "run")


def test_the_number_of_iterations_may_change_until_the_run_is_finished(tmp_path: Path) -> None:
    longer = config(loop={**config().loop.model_dump(), "iterations": 9})
    _check_config(config(), tmp_path)
    _check_config(longer, tmp_path)
    (tmp_path / "supernet").mkdir()
    with pytest.raises(InvalidInput, match="is a run of another configuration"):
        _check_config(config(), tmp_path)


def test_a_run_of_another_configuration_is_not_gone_on_with(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(config(seed=5).model_dump_json())
    with pytest.raises(InvalidInput, match="is a run of another configuration"):
        transfer(config(), tmp_path / "run", tmp_path / "pool", data=data)
    assert not (tmp_path / "pool").exists()


def test_missing_weights_and_a_pool_of_other_images_are_told_before_the_work(
    data: Path, tmp_path: Path
) -> None:
    run, pool = tmp_path / "run", tmp_path / "pool"
    with pytest.raises(InvalidInput, match=r"gone\.pth: no such file of weights; 'encas nat weights' says"):
        transfer(config(start=None, weights="gone.pth"), run, pool, data=data)
    Pool.open_or_create(pool, 10).with_split("val", np.zeros(60, np.int64))
    with pytest.raises(
        InvalidInput, match=r"split 'val' has other labels \(60 samples, here 60\); name another"
    ):
        transfer(config(), run, pool, data=data)
    Pool.open_or_create(tmp_path / "three", 3).with_split("other", np.zeros(2, np.int64))
    with pytest.raises(InvalidInput, match="three: has 3 classes, the configuration says 10"):
        transfer(config(), run, tmp_path / "three", data=data)
    assert not run.exists()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of gray pictures, four to train on and two to compare on."""
    rng = np.random.default_rng(0)
    for place in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (tmp_path / place).mkdir(parents=True)
        for i in range(4 if place.startswith("train") else 2):
            pillow.fromarray(rng.integers(0, 256, (20, 24), np.uint8)).save(tmp_path / place / f"{i}.png")
    return tmp_path


def of_pictures() -> NatConfig:
    return config(
        data={
            "train": {"path": "train"},
            "val": {"path": "val"},
            "classes": 2,
            "augment": "strong",
        },
        start={"epochs": 1, "batch": 4},
        loop={
            "iterations": 1,
            "first": 3,
            "candidates": 3,
            "epochs": 1,
            "batch": 4,
            "surrogate_evaluations": 300,
            "predictor_members": 3,
        },
        final={"networks": 2},
    )


@pytest.mark.slow
def test_gray_pictures_are_trained_on_and_recorded(pictures: Path) -> None:
    pool, _ = transfer(of_pictures(), pictures / "run", pictures / "pool", data=pictures)
    assert pool.split("val").n == 4 and pool.problems() == []


@pytest.mark.parametrize("place", ["val/dog/1.png", "train/cat/0.png"])
def test_a_damaged_image_is_told_before_the_training(pictures: Path, place: str) -> None:
    content = (pictures / place).read_bytes()
    (pictures / place).write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidInput, match=rf"{place}: is no whole image"):
        transfer(of_pictures(), pictures / "run", pictures / "pool", data=pictures)
    assert not (pictures / "run").exists()


def test_empty_classes_are_told_before_the_training(pictures: Path) -> None:
    for file in (pictures / "train/cat").iterdir():
        file.unlink()
    with pytest.raises(InvalidInput, match="train: class 'cat' has no image; training needs at least 2"):
        transfer(of_pictures(), pictures / "run", pictures / "pool", data=pictures)


def test_an_empty_class_of_val_is_told_before_the_training(pictures: Path) -> None:
    for file in (pictures / "val/dog").iterdir():
        file.unlink()
    with pytest.raises(InvalidInput, match=r"data\.val: class 'dog' has no image"):
        transfer(of_pictures(), pictures / "run", pictures / "pool", data=pictures)
    assert not (pictures / "run").exists()


def test_a_list_for_val_may_lack_a_class(pictures: Path) -> None:
    file = next((pictures / "val/cat").iterdir())
    (pictures / "val.csv").write_text(f"file,class_index\n{file},0\n")
    listed = of_pictures()
    data = listed.data.model_copy(update={"val": Images(path="val.csv")})
    assert len(Splits.open(listed.model_copy(update={"data": data}), pictures).recorded["val"]) == 1


def test_so_many_of_each_class_are_taken(data: Path) -> None:
    images = _opened(Images(path="train.npz", shuffled_by=3, per_class=2), data)
    assert np.bincount(images.labels).tolist() == [2] * 10
    other = _opened(Images(path="train.npz", shuffled_by=3, per_class=2, rows=":10"), data)
    assert np.array_equal(other.labels, images.labels[:10])
    assert len(set(other.labels.tolist())) > 4  # not class by class
