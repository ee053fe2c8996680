"""Reading and writing files so that nothing is ever half-written and every error names its place."""

import fcntl
import glob
import hashlib
import json
import os
import re
import reprlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from encas.errors import InvalidInput


class FileModel(BaseModel):
    """What is written to disk or to the wire: frozen, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)
# Looks at the first few elements only: what is wrong may hold millions of numbers.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the name when the block ends well, else it goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # "no space left on device" knows no place
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it takes the name when the block ends well, else it goes.

    What had the name before is removed then, so check beforehand that it may go.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_after_kill(path)
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` that goes at the end; what a killed process left goes the next time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_after_kill(path)
    folder = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear_after_kill(path: Path) -> None:
    """Remove the folders that a process left which was killed while it replaced `path`, or put it back."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        end = re.fullmatch(r"(\d+)\.(tmp|old)", left.name.removeprefix(f".{path.name}."))
        if end is None or not left.is_dir() or _runs(int(end[1])):
            continue
        if end[2] == "old" and not path.exists():
            left.rename(path)
        else:
            shutil.rmtree(left, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files below a folder that processes left which were killed."""
    for path in folder.rglob(".*.tmp"):
        pid = re.fullmatch(r"\..*\.(\d+)\.tmp", path.name)
        if pid and path.is_file() and not _runs(int(pid[1])):
            path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but it runs
        return True
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that two processes that change one file do so in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step."""
    with replaced(path) as temporary:
        temporary.write_bytes(content)


def write_model(path: Path, model: BaseModel) -> None:
    """Write a model as indented JSON, one newline at the end."""
    write_bytes(path, (model.model_dump_json(indent=2) + "\n").encode())


def read_model(path: Path, model: type[Model]) -> Model:
    """Read JSON into a model.

    Raises:
        InvalidInput: No such file, not JSON, or a field that is not what it should be.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file") from None
    except (UnicodeDecodeError, IsADirectoryError, NotADirectoryError) as error:
        raise InvalidInput(f"{path}: not a JSON file ({error})") from None
    try:
        return parse_model(json.loads(text), model, str(path))
    except (ValueError, RecursionError) as error:  # beside broken JSON: endless numbers, endless nesting
        raise InvalidInput(f"{path}: not JSON: {error}") from None


def read_yaml(path: Path) -> Any:
    """Read what people write.

    Raises:
        InvalidInput: No such file, or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InvalidInput(f"{path}: not YAML: is a folder") from None
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # beside broken YAML: no text, dates, nesting
        raise InvalidInput(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def parse_model(value: Any, model: type[Model], place: str) -> Model:
    """Check a decoded value against a model; errors start with `place` and name the field."""
    try:
        # JSON has lists where the models have tuples, and the strict JSON mode knows that.
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        found = _SHORT.repr(first["input"])
        found = found if len(found) <= 80 else found[:77] + "..."
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{place}: {field + ': ' if field else ''}{message} (found {found})") from None


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_npy(path: Path, array: NDArray[Any]) -> str:
    """Write an array in one step and return the sha256 of the file."""
    with replaced(path) as temporary:
        with temporary.open("wb") as file:
            # As `np.save` does, but a full disk is an error of the system that says so.
            array = np.ascontiguousarray(array)
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.data)
        return sha256_of(temporary)


def read_npy(path: Path, *, memory_map: bool = False) -> NDArray[Any]:
    """Read an array; never runs pickled code.

    Raises:
        InvalidInput: No such file, truncated, or no plain `.npy`.
    """
    try:
        array = np.load(path, mmap_mode="r" if memory_map else None, allow_pickle=False)
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file") from None
    except (ValueError, EOFError, OSError, MemoryError, OverflowError) as error:
        raise InvalidInput(f"{path}: not a whole .npy file: {error}") from None
    if not isinstance(array, np.ndarray):
        raise InvalidInput(f"{path}: holds several arrays; one .npy array is needed")
    return array
