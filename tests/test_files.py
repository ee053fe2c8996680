import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import Field

from encas.errors import InvalidInput, MissingPackage, require
from encas.files import (
    FileModel,
    locked,
    read_model,
    read_npy,
    replaced,
    replaced_folder,
    sha256_of,
    write_model,
    write_npy,
)


class Thing(FileModel):
    name: str
    size: int = Field(ge=1)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_a_model_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_model(tmp_path / "thing.json", Thing(name="a", size=2))
    assert read_model(tmp_path / "thing.json", Thing) == Thing(name="a", size=2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"name": "a", "size": 0}', "size: Input should be greater than or equal to 1 (found 0)"),
        ('{"name": "a", "size": 1, "colour": "red"}', "colour: Extra inputs are not permitted (found 'red')"),
        ('{"name": "a"}', "size: Field required"),
        ('{"name": "a", ', "not JSON"),
        ("[1, 2]", "Input should be"),
    ],
)
def test_a_wrong_file_is_told_in_one_line_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "thing.json"
    path.write_text(text)
    with pytest.raises(InvalidInput) as error:
        read_model(path, Thing)
    assert str(error.value).startswith(f"{path}: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.json: no such file"):
        read_model(tmp_path / "gone.json", Thing)


def test_a_file_that_could_not_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replaced(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_an_array_comes_back_with_the_digest_of_its_file(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    digest = write_npy(tmp_path / "a" / "array.npy", array)
    assert digest == sha256_of(tmp_path / "a" / "array.npy")
    np.testing.assert_array_equal(read_npy(tmp_path / "a" / "array.npy", memory_map=True), array)


@pytest.mark.parametrize("memory_map", [False, True])
def test_a_truncated_array_is_refused(tmp_path: Path, memory_map: bool) -> None:
    path = tmp_path / "array.npy"
    write_npy(path, np.zeros((100, 10), np.float16))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidInput, match=r"array\.npy: not a whole \.npy file"):
        read_npy(path, memory_map=memory_map)


def test_an_array_that_claims_more_than_any_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<i8", "fortran_order": False, "shape": (10**14,)}
        )
    for memory_map in (False, True):
        with pytest.raises(InvalidInput, match=r"array\.npy: not a whole \.npy file"):
            read_npy(path, memory_map=memory_map)


def test_a_folder_whose_writer_was_killed_is_cleared_or_put_back(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    for end in ("tmp", "old"):
        (tmp_path / f".bundle.{dead.pid}.{end}").mkdir()
    (tmp_path / f".bundle.{dead.pid}.old" / "file").write_text("old")  # killed between the two renames
    (tmp_path / f".bundle.{os.getpid()}.old").mkdir()  # of a process that runs
    (tmp_path / ".bundle.mine.tmp").mkdir()
    with pytest.raises(RuntimeError), replaced_folder(tmp_path / "bundle"):
        assert (tmp_path / "bundle" / "file").read_text() == "old"
        (tmp_path / f".bundle.{os.getpid()}.old").rmdir()
        raise RuntimeError
    assert (tmp_path / "bundle" / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".bundle.mine.tmp", "bundle"]


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInput, match="not a whole"):
        read_npy(path)


@pytest.mark.slow
def test_a_lock_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    code = "import sys, time, pathlib; from encas.files import locked; folder = pathlib.Path(sys.argv[1])\n"
    code += "with locked(folder): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.kill()
        with locked(tmp_path):
            pass


def test_a_missing_package_names_the_extra_that_brings_it() -> None:
    with pytest.raises(MissingPackage, match=r"pip install 'encas\[serve\]'"):
        require("no_such_package_at_all", "serve")
