"""Labelled images: a folder per class, a CSV list, arrays in an .npz, CIFAR or ImageNetV2 as published."""

import csv
import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from encas.cifar import archive_of, cifar_in_archive, cifar_in_files, cifar_in_folder
from encas.errors import InvalidInput
from encas.files import read_npy, sha256_of

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)

_FINGERS = 64

Image = Path | NDArray[np.uint8]  # an encoded file, or pixels (h, w) or (h, w, 3)


@dataclass(frozen=True)
class LabelledImages:
    """n images, not yet decoded where they are files, with one class index each."""

    images: Sequence[Path] | NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...] | None  # names, where the data has them

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.labels)

    def batches(self, size: int) -> Iterator[Sequence[Image]]:
        """Yield the images in order, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield cast("Sequence[Image]", self.images[start : start + size])

    def rows(self, text: str) -> "LabelledImages":
        """Take a slice, written as in Python: `:5000`, `5000:`, `::2`.

        Raises:
            InvalidInput: Not a slice, or nothing is left.
        """
        parts = text.split(":")
        try:
            if not 2 <= len(parts) <= 3:
                raise ValueError
            chosen = slice(*(int(part) if part else None for part in parts))
            labels = self.labels[chosen]
        except ValueError:
            raise InvalidInput(f"rows '{text}': must be a slice as :5000, 5000: or ::2") from None
        if len(labels) == 0:
            raise InvalidInput(f"rows '{text}': nothing is left of {len(self)} samples")
        return LabelledImages(self.images[chosen], labels, self.classes)

    def take(self, rows: NDArray[np.intp]) -> "LabelledImages":
        """Take some samples."""
        images = self.images
        chosen = images[rows] if isinstance(images, np.ndarray) else [images[row] for row in rows]
        return LabelledImages(chosen, self.labels[rows], self.classes)

    def fingerprint(self) -> str:
        """Digest of 64 images, evenly spread, and of how many there are; other images give another one."""
        digest = hashlib.sha256(str(len(self)).encode())
        for row in np.unique(np.linspace(0, len(self) - 1, _FINGERS).round().astype(np.intp)):
            image = self.images[row]
            digest.update(image.read_bytes() if isinstance(image, Path) else image.tobytes())
        return digest.hexdigest()

    def in_classes(self, classes: Sequence[str] | None) -> "LabelledImages":
        """Count the labels by other class names, of which the data may lack some; None changes nothing.

        Raises:
            InvalidInput: The data has a class that is not among them.
        """
        if classes is None or self.classes == tuple(classes):
            return self
        n, lowest, highest = len(self.classes or classes), self.labels.min(), self.labels.max()
        if lowest < 0 or highest >= n:
            raise InvalidInput(f"labels: class indices must be 0 to {n - 1}, found {lowest} to {highest}")
        if self.classes is None:
            return LabelledImages(self.images, self.labels, tuple(classes))
        position = {name: index for index, name in enumerate(classes)}
        if _are_numbers(self.classes) and not position.keys() & set(self.classes):  # as ImageNetV2's folders
            position = {str(index): index for index in range(len(classes))}
        unknown = next((name for name in self.classes if name not in position), None)
        if unknown is not None:
            raise InvalidInput(
                f"class '{unknown}' of the data is not among the {len(classes)} classes that are known, "
                f"as {', '.join(list(classes)[:3])}"
            )
        table = np.array([position[name] for name in self.classes], np.int64)
        return LabelledImages(self.images, table[self.labels], tuple(classes))


def open_images(path: Path | str) -> LabelledImages:
    """Find out what kind of data a path is, and list its images.

    Args:
        path: A folder with one folder per class, whose numbers count where all names are numbers; a folder
            with CIFAR's `.bin` files, its `-binary.tar.gz`, or one `.bin` file of either; a folder with the
            variants of ImageNetV2, as `imagenetv2-top-images-format-val`, which are one set of images without
            duplicates; a `.csv` with the columns `file` and `class_index` (files relative to it); an `.npz`
            with `images` (uint8, (n, h, w) or (n, h, w, 3)), `labels` and, if wanted, `classes`.

    Raises:
        InvalidInput: No such path, or not one of these.
    """
    path = Path(path)
    if path.is_dir():
        cifar = cifar_in_folder(path)
        variants = sorted(variant for variant in path.glob("imagenetv2-*") if variant.is_dir())
        if cifar is not None:
            return LabelledImages(*cifar)
        return _merged([_folder(variant) for variant in variants]) if variants else _folder(path)
    archive = archive_of(path)
    if archive is not None:
        return LabelledImages(*cifar_in_archive(archive, None if path == archive else path.name))
    if not path.exists():
        raise InvalidInput(f"{path}: no such file or folder")
    match path.suffix.lower():
        case ".npz":
            return _npz(path)
        case ".csv":
            return _csv(path)
        case ".bin":
            return LabelledImages(*cifar_in_files([path]))
    raise InvalidInput(
        f"{path}: data must be a folder with one folder per class, .npz, .csv, or CIFAR's .bin or .tar.gz"
    )


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, sorted."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def read_classes(path: Path | str) -> tuple[str, ...]:
    """Read the names of the classes, one per line, in the order of the networks' outputs.

    Raises:
        InvalidInput: No such file, no names, or one that stands there twice.
    """
    path = Path(path)
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: must hold one class name per line, is no text") from None
    if len(set(names)) < max(len(names), 1):
        found = f"names '{Counter(names).most_common(1)[0][0]}' twice" if names else "is empty"
        raise InvalidInput(f"{path}: must hold one class name per line, each once; {found}")
    return names


def _folder(path: Path) -> LabelledImages:
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if _are_numbers([folder.name for folder in folders]):
        folders.sort(key=lambda folder: int(folder.name))
    if not folders:
        raise InvalidInput(f"{path}: holds no class folders; one folder of images per class is needed")
    files = [image_files(folder) for folder in folders]
    images = [file for group in files for file in group]
    if not images:
        raise InvalidInput(f"{path}: its {len(folders)} class folders hold no images")
    labels = np.repeat(np.arange(len(folders)), [len(group) for group in files])
    return LabelledImages(images, labels.astype(np.int64), tuple(folder.name for folder in folders))


def _merged(variants: Sequence[LabelledImages]) -> LabelledImages:
    """Join folders of images with the same classes; of files with equal content the first counts."""
    names = {name for variant in variants for name in variant.classes or ()}
    classes = tuple(sorted(names, key=lambda name: (int(name) if name.isdecimal() else 0, name)))
    known = [variant.in_classes(classes) for variant in variants]
    images = [cast(Path, image) for variant in known for image in variant.images]
    labels = np.concatenate([variant.labels for variant in known])
    sizes = [image.stat().st_size for image in images]
    n_of_size = Counter(sizes)
    kept: dict[object, int] = {}
    for row, (image, size) in enumerate(zip(images, sizes, strict=True)):
        kept.setdefault(row if n_of_size[size] == 1 else sha256_of(image), row)
    rows = np.array(list(kept.values()), np.intp)
    return LabelledImages([images[row] for row in rows], labels[rows], classes)


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in names)


def _csv(path: Path) -> LabelledImages:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path}: not a CSV file: {error}") from None
    if not rows or not {"file", "class_index"} <= set(rows[0]):
        raise InvalidInput(
            f"{path}: a header with the columns file and class_index is needed, and rows below it"
        )
    images = [path.parent / (row["file"] or "") for row in rows]
    missing = next((image for image in images if not image.is_file()), None)
    if missing is not None:
        raise InvalidInput(f"{path}: lists {missing}, which is not there")
    try:
        labels = np.array([int(row["class_index"]) for row in rows], np.int64)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(f"{path}: class_index must be a whole number in every row") from None
    return LabelledImages(images, _counted_from_0(labels, path), None)


def _npz(path: Path) -> LabelledImages:
    try:
        arrays = np.load(path, allow_pickle=False)
        names = arrays.files if isinstance(arrays, np.lib.npyio.NpzFile) else ()
        found = {name: arrays[name] for name in names if name in ("images", "labels", "classes")}
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidInput(f"{path}: not a whole .npz of plain arrays: {error}") from None
    if "images" not in found or "labels" not in found:
        raise InvalidInput(f"{path}: needs the arrays images and labels, has {', '.join(found) or 'neither'}")
    images, labels = found["images"], found["labels"]
    gray, colour = images.ndim == 3, images.ndim == 4 and images.shape[3] == 3
    if images.dtype != np.uint8 or not (gray or colour):
        raise InvalidInput(
            f"{path}: images must be uint8 of shape (n, height, width) or (n, height, width, 3), "
            f"are {images.dtype} of {images.shape}"
        )
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInput(
            f"{path}: {len(images)} whole-number labels are needed, one per image; "
            f"labels are {labels.dtype} of {labels.shape}"
        )
    classes = _names(found["classes"], path) if "classes" in found else None
    return LabelledImages(images, _counted_from_0(labels, path), classes)


def _names(array: NDArray[np.generic], path: Path) -> tuple[str, ...]:
    names = tuple(str(name) for name in array.ravel())
    if array.ndim != 1 or not names or len(set(names)) < len(names):
        raise InvalidInput(
            f"{path}: classes must be one row of names, each once; found {array.dtype} of shape {array.shape}"
        )
    return names


def _counted_from_0(labels: NDArray[np.integer], path: Path) -> NDArray[np.int64]:
    if len(labels) and labels.min() < 0:
        raise InvalidInput(f"{path}: class indices count from 0, found {labels.min()}")
    return labels.astype(np.int64)


def read_labels(path: Path | str) -> NDArray[np.int64]:
    """Read (n,) class indices from an `.npy`, or a text file with one number per line.

    Raises:
        InvalidInput: No such file, or not whole numbers.
    """
    path = Path(path)
    if path.suffix == ".npy":
        labels = read_npy(path)
    else:
        try:
            labels = np.array([int(line) for line in path.read_text(encoding="utf-8").split()])
        except FileNotFoundError:
            raise InvalidInput(f"{path}: no such file") from None
        except ValueError:  # no numbers, or not even text
            raise InvalidInput(f"{path}: must hold one whole number per line") from None
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInput(
            f"{path}: must be one row of whole numbers, is {labels.dtype} of shape {labels.shape}"
        )
    return labels.astype(np.int64)
