"""Every file of `configs/nat/` is run, in miniature: few images, classes, steps and candidates.

Its data sets and weights are made in the layouts that it names, and read as it says.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("pymoo")

from PIL import Image as pillow

from encas.export.transfer import transfer
from encas.pool import Pool
from encas.search.nat import space_named
from encas.search.nat.config import NatConfig

from .published import write_published

FOLDER = Path(__file__).parents[2] / "configs" / "nat"
FILES = sorted(FOLDER.glob("*.yml"))
N_CLASSES = 2
VARIANTS = ("matched-frequency", "threshold0.7", "top-images")


def write_cifar(folder: Path, name: str) -> None:
    """Twelve training images of two classes, and four for test, in the files of CIFAR-10 or CIFAR-100."""
    rng = np.random.default_rng(0)
    n_labels = 1 if name == "cifar-10-batches-bin" else 2
    files = ("data_batch_1.bin", "test_batch.bin") if n_labels == 1 else ("train.bin", "test.bin")
    (folder / name).mkdir()
    for file, n in zip(files, (12, 4), strict=True):
        labels = np.tile(np.arange(n) % N_CLASSES, (n_labels, 1)).T
        pixels = rng.integers(0, 256, (n, 3072))
        (folder / name / file).write_bytes(np.hstack([labels, pixels]).astype(np.uint8).tobytes())


def write_jpegs(folder: Path, classes: tuple[str, ...], n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (9, 12, 3), np.uint8)
            pillow.fromarray(pixels).resize((300, 240)).save(folder / name / f"{i}.jpeg", quality=70)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("cifar-10-batches-bin", "cifar-100-binary"):
        write_cifar(folder, name)
    write_jpegs(folder / "imagenet/train", ("n01440764", "n01443537"), 12, 1)
    write_jpegs(folder / "imagenet/val", ("n01440764", "n01443537"), 1, 2)
    for seed in (3, 4, 4):  # the last two variants hold the same images
        variant = VARIANTS[len(list((folder / "imagenetv2").glob("*")))]
        write_jpegs(folder / f"imagenetv2/imagenetv2-{variant}-format-val", ("0", "1"), 1, seed)
    return folder


@pytest.fixture(scope="module")
def write_weights(data: Path) -> Callable[[str, str], None]:
    """Write a file of weights for 1,000 classes, once."""

    def write(space: str, file: str) -> None:
        if not (data / file).exists():
            write_published(data / file, space_named(space), 1000)

    return write


def in_miniature(value: dict[str, Any]) -> dict[str, Any]:
    """Change numbers only, and rows where they count images."""
    loop, start = value["loop"], value.get("start")
    value["data"]["classes"] = N_CLASSES
    train, val = value["data"]["train"], value["data"]["val"]
    if "rows" in train:
        is_first = train["rows"].startswith(":")
        train["rows"], val["rows"] = (":8", "8:") if is_first else ("4:", ":4")
    loop.update(iterations=1, candidates=5 if "others" in value else 3, first=5 if "others" in value else 3)
    loop.update(surrogate_evaluations=300, predictor_members=3, calibration_images=4)
    loop.update(batch=4, epochs=1 if loop["epochs"] else 0)
    if "fitted_on" in loop:
        loop["fitted_on"] = 4
    if "val_images" in loop:
        loop["val_images"] = 4
    if start is not None:
        start.update(epochs=1, batch=4)
    value["final"].update(networks=2, calibration_images=4)
    return value


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_it_goes_from_weights_and_images_to_a_pool(
    file: Path, data: Path, write_weights: Callable[[str, str], None], tmp_path: Path
) -> None:
    config = NatConfig.model_validate(in_miniature(yaml.safe_load(file.read_text())))
    for space, weights in zip(config.population.spaces, config.all_weights, strict=True):
        if weights is not None:
            write_weights(space.name, weights)
    steps: dict[str, int] = {}

    def phase(name: str, n: int) -> Any:
        steps[name] = 0

        def advance(done: int, _words: str) -> None:
            steps[name] += done
            assert steps[name] <= n

        return advance

    pool, reports = transfer(config, tmp_path / "run", tmp_path / "pool", data=data, phase=phase)
    assert [report.iteration for report in reports] == [0, 1]
    trained = {name: n for name, n in steps.items() if "training" in name}
    if config.loop.epochs == 0:
        assert trained == {}
    elif config.others:  # as many steps as one network has, shared
        assert sum(n for name, n in trained.items() if name.startswith("iteration 1")) == 2
    else:
        assert trained["iteration 0: training"] == trained["iteration 1: training"] == 2
    assert len(pool.names) == 2 and pool.problems() == []
    is_imagenet = file.stem.startswith("imagenet")
    # Two of ImageNetV2's three variants are the same here, and count once.
    assert {name: split.n for name, split in pool.file.splits.items()} == {
        "val": 4,
        "test": 2 if is_imagenet else 4,
    }
    assert Pool.open(tmp_path / "pool").labels("val").tolist().count(0) == 2 or not is_imagenet
    assert (tmp_path / "run/report.png").read_bytes().startswith(b"\x89PNG")
    sizes = {member.preprocess.size for member in pool.file.members if member.preprocess}
    if config.data.resize == "tensor":
        assert sizes == {(224, 224)}
