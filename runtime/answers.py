"""Image files and the answers to them, as rows of a file."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image as pillow
from pydantic import ConfigDict, Field

from encas.bundle import Bundle
from encas.cascade import exit_fractions
from encas.data import IMAGE_SUFFIXES, image_files
from encas.errors import EncasError, InvalidInput
from encas.files import FileModel, replaced
from encas.runtime.executor import CascadeExecutor
from encas.runtime.images import AnyImage, decode


class Answered(FileModel):
    """What the cascade says of one file."""

    model_config = ConfigDict(serialize_by_alias=True)

    file: str
    class_index: int = Field(serialization_alias="class")
    label: str
    confidence: float
    exit_stage: int
    macs: int


class Unreadable(FileModel):
    """Why there is no answer to one file."""

    file: str
    error: str


Row = Answered | Unreadable
_COLUMNS = ("file", "class", "label", "confidence", "exit_stage", "macs", "error")


class Summary(FileModel):
    """What a cascade did on some images; whether it was right is not known."""

    n: int  # answered
    failed: int
    macs: float | None  # mean per answered image
    exit_fractions: tuple[float, ...]

    @classmethod
    def of(cls, bundle: Bundle, rows: Iterable[Row]) -> "Summary":
        """Count."""
        rows = list(rows)
        answered = [row for row in rows if isinstance(row, Answered)]
        stages = np.array([row.exit_stage for row in answered], np.intp)
        return cls(
            n=len(answered),
            failed=len(rows) - len(answered),
            macs=sum(row.macs for row in answered) / len(answered) if answered else None,
            exit_fractions=exit_fractions(stages, len(bundle.cascade.stages)),
        )


def find_images(paths: Sequence[Path]) -> list[Path]:
    """List image files: those that are named, and all below the folders that are named.

    Raises:
        InvalidInput: A folder holds no images.
    """
    found = []
    for path in paths:
        files = image_files(path) if path.is_dir() else [path]
        if not files:
            raise InvalidInput(f"{path}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        found += files
    return found


def answer_files(executor: CascadeExecutor, files: Sequence[Path], batch: int) -> Iterator[list[Row]]:
    """Yield one row per file, in order, for at most `batch` files at a time."""
    for start in range(0, len(files), batch):
        yield _answer(executor, files[start : start + batch])


@contextmanager
def answers_file(path: Path | None) -> Iterator[Callable[[Iterable[Row]], None]]:
    """Yield a function that adds rows to a `.jsonl` or `.csv` file, which appears when the block ends well.

    Args:
        path: None writes nothing.

    Raises:
        InvalidInput: Another kind of file is wanted.
        EncasError: Stopped by Ctrl-C.
    """
    if path is None:
        yield lambda _rows: None
        return
    writers = {".jsonl": _jsonl, ".csv": _csv}
    if path.suffix not in writers:
        raise InvalidInput(f"{path}: answers are written as .jsonl or .csv")
    try:
        with replaced(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            yield writers[path.suffix](file)
    except KeyboardInterrupt:
        raise EncasError(f"stopped; {path} was not written") from None


def _answer(executor: CascadeExecutor, files: Sequence[Path]) -> list[Row]:
    try:
        return list(_rows(executor, files, files))  # files are decoded by several threads
    except InvalidInput:
        return _answer_readable(executor, files)


def _answer_readable(executor: CascadeExecutor, files: Sequence[Path]) -> list[Row]:
    """Find out one by one which files cannot be read, and answer the others."""
    readable: list[pillow.Image] = []
    errors: dict[int, str] = {}
    for index, file in enumerate(files):
        try:
            readable.append(decode(file))
        except InvalidInput as error:
            errors[index] = str(error).removeprefix(f"{file}: ")
    answered = _rows(executor, [file for index, file in enumerate(files) if index not in errors], readable)
    return [
        Unreadable(file=str(file), error=errors[index]) if index in errors else next(answered)
        for index, file in enumerate(files)
    ]


def _rows(executor: CascadeExecutor, files: Sequence[Path], images: Sequence[AnyImage]) -> Iterator[Answered]:
    answers = executor.run(images)
    for row, file in enumerate(files):
        yield Answered(
            file=str(file),
            class_index=int(answers.label[row]),
            label=executor.bundle.labels[answers.label[row]],
            confidence=float(answers.confidence[row]),
            exit_stage=int(answers.exit_stage[row]),
            macs=int(answers.macs[row]),
        )


def _jsonl(file: TextIO) -> Callable[[Iterable[Row]], None]:
    def write(rows: Iterable[Row]) -> None:
        file.writelines(row.model_dump_json() + "\n" for row in rows)

    return write


def _csv(file: TextIO) -> Callable[[Iterable[Row]], None]:
    writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()

    def write(rows: Iterable[Row]) -> None:
        writer.writerows(row.model_dump() for row in rows)

    return write
