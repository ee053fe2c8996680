"""Files of weights, honest and otherwise."""

import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from encas.errors import InvalidInput
from encas.search.nat.tensors import read_tensors, write_tensors

STATE = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(3)}


class Options(dict[str, Any]):
    """What training programs keep their options in: a dict whose attributes are its items."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.__dict__ = self


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"args": Options(lr=0.1, nested=Options(names=["x"]))},
        {"args": Namespace(lr=0.1), "epoch": 3},
        {"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}}},
    ],
    ids=["alone", "options", "namespace", "optimizer"],
)
def test_tensors_are_read_beside_whatever_a_training_program_keeps(
    tmp_path: Path, extra: dict[str, Any], zipped: bool
) -> None:
    path = tmp_path / "w.pth.tar"
    torch.save({"state_dict": STATE, **extra}, path, _use_new_zipfile_serialization=zipped)
    read = read_tensors(path)
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.bool])
def test_tensors_of_all_kinds_are_read_beside_options(tmp_path: Path, kind: torch.dtype) -> None:
    given = nn.Parameter(torch.ones(3)).detach().to(kind)
    torch.save({"state_dict": {"a": given}, "args": Options(lr=1)}, tmp_path / "w")
    assert torch.equal(read_tensors(tmp_path / "w")["a"], given)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["alone", "beside", "inside options"])
def test_code_in_a_file_is_refused_and_never_run(tmp_path: Path, zipped: bool, place: str) -> None:
    evil = Evil(tmp_path / "ran")
    content = {
        "alone": evil,
        "beside": {"state_dict": STATE, "x": evil},
        "inside options": {"state_dict": STATE, "args": Options(x=evil)},
    }[place]
    torch.save(content, tmp_path / "w", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InvalidInput) as caught:
        read_tensors(tmp_path / "w")
    assert not (tmp_path / "ran").exists()
    assert str(caught.value).startswith(f"{tmp_path / 'w'}: holds pickled code (it calls ")
    assert "\n" not in str(caught.value)
    torch.load(tmp_path / "w", weights_only=False)
    assert (tmp_path / "ran").exists()  # as it would have been


def test_a_bare_pickle_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(InvalidInput, match=f"^{tmp_path}/w: "):
        read_tensors(tmp_path / "w")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_one_clear_line(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w"
    torch.save({"state_dict": STATE | {"c": torch.zeros(999)}}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.95):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InvalidInput) as caught:
            read_tensors(path)
        assert str(caught.value).startswith(f"{path}: is no whole file of weights: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"a": 1}}, torch.zeros(2)])
def test_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w")
    with pytest.raises(InvalidInput, match="must hold a state_dict of named tensors"):
        read_tensors(tmp_path / "w")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "w.safetensors", tmp_path):
        with pytest.raises(InvalidInput, match=f"^{path}: no such file"):
            read_tensors(path)


def test_what_is_written_is_read_again_and_takes_the_name_at_once(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(3)}
    write_tensors(tmp_path / "x.safetensors", tensors, {"where": "here"})
    found = read_tensors(tmp_path / "x.safetensors")
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
