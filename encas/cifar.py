"""CIFAR-10 and CIFAR-100: their binary files, in a folder or in the archive as it was downloaded."""

import gzip
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from encas.errors import InvalidInput

Cifar = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...] | None]  # pixels, labels, class names

_NAMES = {1: "batches.meta.txt", 2: "fine_label_names.txt"}  # by how many labels a record has
_N_CLASSES = {1: 10, 2: 100}
_PIXELS = 3 * 32 * 32
_PICKLED = ({"batches.meta", "data_batch_1"}, {"meta", "train"})  # of the versions for Python
_MOST = 200_000_000  # bytes of a file in an archive; the largest, CIFAR-100's train.bin, has 154 million


def cifar_in_folder(folder: Path) -> Cifar | None:
    """Read the training images of a folder, if it is one of CIFAR.

    Raises:
        InvalidInput: It holds what was pickled, or a file that is no CIFAR binary.
    """
    for pickled in _PICKLED:
        if all((folder / name).is_file() for name in pickled):
            raise _refused(folder)
    names = _training([path.name for path in folder.glob("*.bin")])
    return cifar_in_files([folder / name for name in names]) if names else None


def cifar_in_files(paths: Sequence[Path]) -> Cifar:
    """Read `.bin` files one after the other; the names of the classes are beside them.

    Raises:
        InvalidInput: One is no CIFAR binary.
    """

    def text(name: str) -> str | None:
        file = paths[0].parent / name
        return file.read_text(encoding="utf-8") if file.is_file() else None

    found = [path.read_bytes() for path in paths]
    n_labels = _labels_of(found, str(paths[0]))
    return _records(found, n_labels, str(paths[0]), text(_NAMES[n_labels]))


def archive_of(path: Path) -> Path | None:
    """Find the archive that a path is, or goes into, as `cifar-10-binary.tar.gz/test_batch.bin` does."""
    return next(
        (p for p in (path, *path.parents) if p.name.endswith((".tar.gz", ".tgz")) and p.is_file()), None
    )


def cifar_in_archive(archive: Path, name: str | None = None) -> Cifar:
    """Read the training images of an archive, or one file of it; nothing is extracted.

    Raises:
        InvalidInput: It is damaged, of pickled files, has no such file, or is something else.
    """
    try:
        files = _unpacked(archive)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InvalidInput(f"{archive}: is no whole .tar.gz: {error}") from None
    binaries = sorted(file for file in files if file.endswith(".bin"))
    if not binaries and any(pickled <= files.keys() for pickled in _PICKLED):
        raise _refused(archive)
    wanted = _training(binaries) if name is None else [file for file in binaries if file == name]
    if not wanted:
        what = f"no {name}" if name else "no training images of CIFAR"
        raise InvalidInput(f"{archive}: holds {what}; it has {', '.join(binaries) or 'no .bin files'}")
    place, found = f"{archive}/{wanted[0]}", [files[file] for file in wanted]
    n_labels = _labels_of(found, place)
    names = files.get(_NAMES[n_labels])
    return _records(found, n_labels, place, None if names is None else names.decode("utf-8", "replace"))


def _unpacked(archive: Path) -> dict[str, bytes]:
    """Read an archive of CIFAR into memory, by the last part of each name; other files are empty."""
    files = {}
    with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            is_wanted = name.endswith((".bin", ".txt")) and member.isfile()
            if is_wanted and member.size > _MOST:
                raise InvalidInput(f"{archive}: {name} has {member.size} bytes; no file of CIFAR is so large")
            file = tar.extractfile(member) if is_wanted else None
            files[name] = file.read() if file else b""
        while stream.read(2**20):  # the checksum is at the very end
            pass
    return files


def _training(names: Sequence[str]) -> list[str]:
    """Name the files with the training images: five of CIFAR-10, one of CIFAR-100."""
    batches = sorted(name for name in names if name.startswith("data_batch_"))
    return batches or [name for name in names if name == "train.bin"]


def _refused(place: Path) -> InvalidInput:
    name = "cifar-100" if "100" in place.name else "cifar-10"
    return InvalidInput(
        f"{place}: holds pickled Python objects, which could run code; take {name}-binary.tar.gz instead"
    )


def _labels_of(files: Sequence[bytes], place: str) -> int:
    """How many labels a record has: 1 of CIFAR-10, 2 (coarse and fine) of CIFAR-100."""
    for n_labels in (1, 2):
        if all(len(content) % (n_labels + _PIXELS) == 0 and content for content in files):
            return n_labels
    raise InvalidInput(f"{place}: is no CIFAR binary: its size is no multiple of 3073 or 3074 bytes")


def _records(files: Sequence[bytes], n_labels: int, place: str, names: str | None) -> Cifar:
    """Take records apart: labels, then 1024 red, green and blue bytes each."""
    data = np.concatenate(
        [np.frombuffer(content, np.uint8).reshape(-1, n_labels + _PIXELS) for content in files]
    )
    labels = data[:, n_labels - 1].astype(np.int64)
    if labels.max() >= _N_CLASSES[n_labels]:
        raise InvalidInput(
            f"{place}: labels must be 0 to {_N_CLASSES[n_labels] - 1}, found {labels.max()}: is damaged"
        )
    images = np.ascontiguousarray(data[:, n_labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, labels, tuple(names.split()) if names is not None else None
