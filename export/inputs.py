"""The real images on which an export is checked: some of those that a split of the pool was recorded on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encas.cascade import Cascade
from encas.data import LabelledImages, open_images
from encas.errors import InvalidInput
from encas.pool import Pool


@dataclass(frozen=True)
class RealInputs:
    """Some images of a recorded split."""

    split: str
    rows: NDArray[np.intp]  # of the split, rising
    images: LabelledImages  # one for each row


def find_inputs(
    cascade: Cascade, pool: Pool, data: Path | None = None, split: str | None = None, most: int = 512
) -> RealInputs:
    """Take up to `most` images of a split, evenly spread.

    Args:
        cascade: The splits that it was evaluated on come first.
        pool: All members must have recorded outputs on the split.
        data: Where the images lie now; by default where the pool says.
        split: Its name; by default one that has recorded outputs and whose images are known.
        most: At least 1.

    Raises:
        InvalidInput: No split serves, or the images are not those that were recorded.
    """
    names = _splits(cascade, pool, split)
    if not names:
        raise InvalidInput(f"{pool.path}: no split has recorded outputs of every member of the cascade")
    if data is None:
        names = [name for name in names if pool.split(name).data is not None]
        if not names:
            raise InvalidInput(f"{pool.path}: does not say which images were recorded; name them with --data")
    for name in names:
        images = _images_of(pool, name, data)
        if images is not None:
            rows = np.unique(np.linspace(0, len(images) - 1, max(most, 1)).round().astype(np.intp))
            return RealInputs(name, rows, images.take(rows))
    raise InvalidInput(
        f"{_place(pool, names[0], data)}: its labels are not those of split '{names[0]}' of {pool.path}; "
        "name the images that were recorded with --data"
    )


def recorded_images(pool: Pool, split: str) -> LabelledImages | None:
    """Open the images that a split was recorded on; None if they are not where the pool says.

    Raises:
        InvalidInput: A file is there, and cannot be read.
    """
    if pool.split(split).data is None or not _place(pool, split, None).exists():
        return None
    return _images_of(pool, split, None)


def _splits(cascade: Cascade, pool: Pool, wanted: str | None) -> Sequence[str]:
    """Splits on which all members have recorded outputs."""
    if wanted is not None:
        pool.split(wanted)
    members = [pool.member(name) for name in cascade.member_names]
    order = [wanted] if wanted is not None else dict.fromkeys([*cascade.evaluated, *pool.file.splits])
    return [name for name in order if all(name in member.outputs for member in members)]


def _place(pool: Pool, split: str, data: Path | None) -> Path:
    reference = pool.split(split).data
    if data is not None or reference is None:
        return data or pool.path
    return pool.path / reference.path


def _images_of(pool: Pool, split: str, data: Path | None) -> LabelledImages | None:
    """Open a split's images; None if their labels are not the split's."""
    path, reference = _place(pool, split, data), pool.split(split).data
    if not path.exists():
        raise InvalidInput(f"{path}: no such file or folder; name the images of split '{split}' with --data")
    images = open_images(path).in_classes(None if isinstance(pool.file.classes, int) else pool.file.classes)
    labels = pool.labels(split)
    for rows in (reference.rows if reference else ":", ":"):  # named images may be the split alone
        part = images.rows(rows)
        if np.array_equal(part.labels, labels):
            return part
    return None
