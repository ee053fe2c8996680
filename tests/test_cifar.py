import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from encas.data import open_images
from encas.errors import InvalidInput


def record(labels: tuple[int, ...], pixel: int) -> bytes:
    return bytes(labels) + bytes([pixel]) * 3072


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


CIFAR10 = {
    "cifar-10-batches-bin/data_batch_2.bin": record((3,), 20),
    "cifar-10-batches-bin/data_batch_1.bin": record((9,), 10) + record((1,), 11),
    "cifar-10-batches-bin/test_batch.bin": record((5,), 30),
    "cifar-10-batches-bin/batches.meta.txt": "\n".join(f"c{i}" for i in range(10)).encode(),
}


def test_the_archive_of_cifar_10_is_its_training_images(tmp_path: Path) -> None:
    path = archive(tmp_path / "cifar-10-binary.tar.gz", CIFAR10)
    images = open_images(path)
    assert images.labels.tolist() == [9, 1, 3]
    assert np.asarray(images.images)[:, 0, 0].tolist() == [[10] * 3, [11] * 3, [20] * 3]
    assert images.classes is not None and images.classes[9] == "c9"
    assert open_images(path / "test_batch.bin").labels.tolist() == [5]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_archive_of_cifar_100_counts_the_fine_classes(tmp_path: Path) -> None:
    files = {"cifar-100-binary/train.bin": record((1, 99), 1), "cifar-100-binary/test.bin": record((0, 7), 2)}
    path = archive(tmp_path / "cifar-100-binary.tar.gz", files)
    assert open_images(path).labels.tolist() == [99]
    assert open_images(path / "test.bin").labels.tolist() == [7]


def test_names_that_lead_out_of_an_archive_lead_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "x" / "cifar-10-binary.tar.gz"
    path.parent.mkdir()
    archive(path, {"../../data_batch_1.bin": record((4,), 0), "/etc/evil.txt": b"x"})
    assert open_images(path).labels.tolist() == [4]
    assert [file.name for file in tmp_path.rglob("*")] == ["x", path.name]


@pytest.mark.parametrize(
    ("n", "files"), [("10", ("batches.meta", "data_batch_1")), ("100", ("meta", "train"))]
)
def test_what_is_pickled_is_refused(tmp_path: Path, n: str, files: tuple[str, str]) -> None:
    message = f"holds pickled Python objects, which could run code; take cifar-{n}-binary.tar.gz instead"
    path = archive(tmp_path / f"cifar-{n}-python.tar.gz", {f"x/{name}": b"\x80" for name in files})
    with pytest.raises(InvalidInput, match=message):
        open_images(path)
    folder = tmp_path / f"cifar-{n}-py"
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes(b"\x80")
    with pytest.raises(InvalidInput, match=message):
        open_images(folder)


def test_an_archive_that_is_not_right_is_told_in_one_line(tmp_path: Path) -> None:
    path = archive(tmp_path / "cifar-10-binary.tar.gz", CIFAR10)
    with pytest.raises(
        InvalidInput, match=r"holds no train\.bin; it has data_batch_1\.bin, data_batch_2\.bin"
    ):
        open_images(path / "train.bin")
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], content[:-40] + b"x" * 40, b"no archive"):
        path.write_bytes(broken)
        with pytest.raises(InvalidInput, match=r"binary\.tar\.gz: is no whole \.tar\.gz"):
            open_images(path)
    other = archive(tmp_path / "photos.tar.gz", {"a.jpg": b"x"})
    with pytest.raises(InvalidInput, match=r"holds no training images of CIFAR; it has no \.bin files"):
        open_images(other)


def test_labels_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(record((10,), 0))
    with pytest.raises(InvalidInput, match="labels must be 0 to 9, found 10: is damaged"):
        open_images(tmp_path)
