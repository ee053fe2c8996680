from pathlib import Path

import numpy as np
import pytest

from encas.data import LabelledImages, open_images, read_classes, read_labels
from encas.errors import InvalidInput

PIXELS = np.arange(2 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 32, 32, 3)


def npz(path: Path, **arrays: np.ndarray) -> Path:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


def cifar(path: Path, labels: list[list[int]]) -> Path:
    """Write CIFAR's records: label bytes, then the red, green and blue planes."""
    planes = PIXELS[: len(labels)].transpose(0, 3, 1, 2).reshape(len(labels), -1)
    path.write_bytes(np.hstack([np.array(labels, np.uint8), planes]).tobytes())
    return path


def test_a_folder_per_class_is_labelled_in_the_order_of_the_names(tmp_path: Path) -> None:
    for name in ("dog/2.jpg", "dog/sub/1.PNG", "cat/9.jpeg", "cat/notes.txt", ".cache/0.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    data = open_images(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 1, 1]
    assert [Path(image).name for image in data.images] == ["9.jpeg", "2.jpg", "1.PNG"]


def images_in(folder: Path, content: dict[str, bytes]) -> Path:
    for name, what in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(what)
    return folder


def test_class_folders_that_are_numbers_count(tmp_path: Path) -> None:
    images_in(tmp_path, {f"{i}/a.jpg": b"" for i in (10, 2, 0, 1)})
    data = open_images(tmp_path)
    assert (data.classes, data.labels.tolist()) == (("0", "1", "2", "10"), [0, 1, 2, 3])
    names = [f"n{i:02}" for i in range(11)]
    assert data.in_classes(names).labels.tolist() == [0, 1, 2, 10]
    with pytest.raises(InvalidInput, match="class '10' of the data is not among the 10 classes"):
        data.in_classes(names[:10])


def test_the_variants_of_imagenet_v2_are_one_set_without_duplicates(tmp_path: Path) -> None:
    images_in(tmp_path / "imagenetv2-top-images-format-val", {"0/a.jpg": b"first", "10/b.jpg": b"second"})
    images_in(
        tmp_path / "imagenetv2-matched-frequency-format-val",
        {"2/c.jpg": b"thirds", "10/d.jpg": b"second", "0/e.jpg": b"fifth"},
    )
    (tmp_path / "imagenetv2.tar.gz").touch()
    data = open_images(tmp_path)
    assert data.classes == ("0", "2", "10")
    found = [Path(image).name for image in data.images]
    assert dict(zip(found, data.labels.tolist(), strict=True)) == {
        "e.jpg": 0,
        "c.jpg": 1,
        "d.jpg": 2,
        "a.jpg": 0,
    }


def test_a_csv_names_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "list.csv").write_text("file,class_index,author\na.jpg,7,me\n")
    data = open_images(tmp_path / "list.csv")
    assert (list(data.images), data.labels.tolist()) == ([tmp_path / "a.jpg"], [7])


def test_a_csv_as_spreadsheets_write_it_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "x.csv").write_text("file, class_index\na.jpg, 3\n", encoding="utf-8-sig")
    assert open_images(tmp_path / "x.csv").labels.tolist() == [3]


def test_an_npz_gives_images_labels_and_names(tmp_path: Path) -> None:
    path = npz(
        tmp_path / "x.npz", images=PIXELS, labels=np.array([1, 0], np.int16), classes=np.array(["a", "b"])
    )
    data = open_images(path)
    assert data.labels.dtype == np.int64
    assert (data.labels.tolist(), data.classes) == ([1, 0], ("a", "b"))
    assert np.array_equal(np.asarray(data.images), PIXELS)


def test_cifar_10_has_one_label_byte(tmp_path: Path) -> None:
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"c{i}" for i in range(10)) + "\n\n")
    data = open_images(cifar(tmp_path / "test_batch.bin", [[3], [9]]))
    assert data.labels.tolist() == [3, 9]
    assert np.array_equal(np.asarray(data.images), PIXELS)
    assert data.classes is not None and data.classes[9] == "c9"


def test_cifar_100_counts_the_fine_classes(tmp_path: Path) -> None:
    assert open_images(cifar(tmp_path / "test.bin", [[0, 42], [1, 99]])).labels.tolist() == [42, 99]


def test_a_folder_of_cifar_binaries_is_the_training_set(tmp_path: Path) -> None:
    cifar(tmp_path / "data_batch_1.bin", [[1]])
    cifar(tmp_path / "data_batch_2.bin", [[2], [3]])
    cifar(tmp_path / "test_batch.bin", [[4]])
    assert open_images(tmp_path).labels.tolist() == [1, 2, 3]


def test_rows_are_slices_as_in_python() -> None:
    data = LabelledImages(np.zeros((6, 2, 2), np.uint8), np.arange(6), None)
    assert data.rows("::2").labels.tolist() == [0, 2, 4]
    assert data.rows("4:").labels.tolist() == [4, 5]
    assert data.rows(":-4").labels.tolist() == [0, 1]
    assert [len(batch) for batch in data.batches(4)] == [4, 2]
    assert data.take(np.array([5, 1])).labels.tolist() == [5, 1]


@pytest.mark.parametrize("text", ["5", "a:b", "1:2:3:4", "::0", "", "9:"])
def test_what_is_no_slice_is_refused(text: str) -> None:
    data = LabelledImages(np.zeros((6, 2, 2), np.uint8), np.arange(6), None)
    with pytest.raises(InvalidInput, match=f"rows '{text}'"):
        data.rows(text)


def test_folders_for_some_of_the_classes_are_counted_as_the_network_does() -> None:
    data = LabelledImages([Path("a"), Path("b")], np.array([0, 1]), ("cat", "dog"))
    found = data.in_classes(["ant", "dog", "cat"])
    assert (found.labels.tolist(), found.classes) == ([2, 1], ("ant", "dog", "cat"))
    with pytest.raises(InvalidInput, match="class 'cat' of the data is not among the 2 classes"):
        data.in_classes(["ant", "dog"])


def test_data_without_names_takes_those_that_are_given() -> None:
    data = LabelledImages([Path("a")], np.array([1]), None)
    assert data.in_classes(["ant", "dog"]).classes == ("ant", "dog")
    assert data.in_classes(None) is data


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS}, "needs the arrays images and labels, has images"),
        ({"images": PIXELS, "labels": np.array([0])}, "2 whole-number labels are needed"),
        ({"images": PIXELS, "labels": np.array([0.5, 1])}, "2 whole-number labels are needed"),
        ({"images": PIXELS / 255, "labels": np.array([0, 1])}, "images must be uint8"),
        ({"images": PIXELS, "labels": np.array([0, -1])}, "count from 0, found -1"),
        (
            {"images": PIXELS, "labels": np.array([0, 1]), "classes": np.array("cat")},
            "must be one row of names",
        ),
        ({"images": PIXELS, "labels": np.array([0, 1]), "classes": np.array(["a", "a"])}, "names, each once"),
        ({"images": np.array([{}, {}]), "labels": np.array([0, 1])}, "not a whole .npz of plain arrays"),
    ],
)
def test_an_npz_that_is_not_right_says_what_is_wrong(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        open_images(npz(tmp_path / "x.npz", **arrays))


def test_damaged_files_say_so(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", images=PIXELS, labels=np.array([0, 1]))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidInput, match="not a whole"):
        open_images(path)
    (tmp_path / "y.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(InvalidInput, match="not a whole"):
        open_images(tmp_path / "y.npz")
    np.save(tmp_path / "one.npy", PIXELS)
    (tmp_path / "one.npy").rename(tmp_path / "z.npz")
    with pytest.raises(InvalidInput, match="has neither"):
        open_images(tmp_path / "z.npz")
    (tmp_path / "x.bin").write_bytes(b"123")
    with pytest.raises(InvalidInput, match="no multiple of 3073 or 3074"):
        open_images(tmp_path / "x.bin")
    (tmp_path / "x.csv").write_bytes(b"file,class_index\n\xff\xfe,1\n")
    with pytest.raises(InvalidInput, match="not a CSV file"):
        open_images(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.jpg,1\n", "the columns file and class_index"),
        ("file,class_index\n", "rows below it"),
        ("file,class_index\nb.jpg,1\n", "lists .*b.jpg, which is not there"),
        ("file,class_index\na.jpg,cat\n", "whole number in every row"),
        ("file,class_index\na.jpg\n", "whole number in every row"),
        ("file,class_index\na.jpg,99999999999999999999\n", "whole number in every row"),
        ("file,class_index\na.jpg,-1\n", "count from 0, found -1"),
    ],
)
def test_a_list_that_is_not_right_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InvalidInput, match=message):
        open_images(tmp_path / "x.csv")


def test_paths_that_are_no_data_say_what_would_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file or folder"):
        open_images(tmp_path / "nothing")
    with pytest.raises(InvalidInput, match="holds no class folders"):
        open_images(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InvalidInput, match="its 1 class folders hold no images"):
        open_images(tmp_path)
    (tmp_path / "x.parquet").touch()
    with pytest.raises(InvalidInput, match="data must be a folder"):
        open_images(tmp_path / "x.parquet")


def test_labels_are_read_from_text_and_from_npy(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("3\n1\n")
    np.save(tmp_path / "labels.npy", np.array([3, 1], np.uint8))
    for name in ("labels.txt", "labels.npy"):
        assert read_labels(tmp_path / name).tolist() == [3, 1]
    (tmp_path / "labels.txt").write_text("cat\n")
    with pytest.raises(InvalidInput, match="one whole number per line"):
        read_labels(tmp_path / "labels.txt")
    np.save(tmp_path / "labels.npy", np.eye(2))
    with pytest.raises(InvalidInput, match="one row of whole numbers, is float64"):
        read_labels(tmp_path / "labels.npy")


def test_class_names_stand_one_per_line_each_once(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("ant\n\ngolden retriever\n")
    assert read_classes(path) == ("ant", "golden retriever")
    path.write_text("ant\ncat\nant\n")
    with pytest.raises(InvalidInput, match="names 'ant' twice"):
        read_classes(path)
    path.write_text("\n")
    with pytest.raises(InvalidInput, match="is empty"):
        read_classes(path)
