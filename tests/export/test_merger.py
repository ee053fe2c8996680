from pathlib import Path

import numpy as np
import pytest

from encas.errors import InvalidInput
from encas.export import merge
from encas.pool import DataReference, Latency, Member, Pool

ONE = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
TWO = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
TIME = Latency(machine="m", provider="cpu", batch=1, latency_s=0.1, p95_s=0.1, n=5)


def make(path: Path, name: str, probs: np.ndarray, split: str = "val", source: str = "imported") -> Pool:
    data = DataReference(path="../images.npz")
    pool = Pool.open_or_create(path, ["cat", "dog"]).with_split(split, np.array([0, 1]), data)
    return pool.with_outputs(Member(name=name, source=source, macs=7), split, probs, "by hand")


def test_the_members_of_all_pools_are_there(tmp_path: Path) -> None:
    make(tmp_path / "a", "x", ONE).with_latency({"x": [TIME]})
    make(tmp_path / "b", "y", TWO, source="onnx:../nets/y.onnx")
    pool = merge(tmp_path / "deep/er/all", [tmp_path / "a", tmp_path / "b"])
    assert pool.names == ("x", "y")
    assert pool.probs("y", "val").tolist() == TWO.tolist()
    assert pool.member("x").latency == (TIME,)
    assert pool.member("x").outputs["val"].engine == "by hand"
    assert pool.problems() == []


def test_files_are_found_from_the_new_place(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    make(tmp_path / "a", "x", ONE, source="onnx:../nets/x.onnx")
    pool = merge(tmp_path / "all", [tmp_path / "a"])
    assert pool.member("x").source == "onnx:../nets/x.onnx"
    other = merge(tmp_path / "elsewhere/all", [tmp_path / "a"])
    assert other.member("x").source == f"onnx:{tmp_path.resolve()}/nets/x.onnx"
    data = other.split("val").data
    assert data is not None and data.path == f"{tmp_path.resolve()}/images.npz"


def test_one_member_recorded_on_two_splits_becomes_one(tmp_path: Path) -> None:
    make(tmp_path / "a", "x", ONE)
    make(tmp_path / "b", "x", TWO, split="test")
    pool = merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    assert sorted(pool.member("x").outputs) == ["test", "val"]


def test_the_same_member_twice_is_fine_and_another_of_its_name_is_not(tmp_path: Path) -> None:
    for name, probs in (("a", ONE), ("b", ONE), ("c", TWO)):
        make(tmp_path / name, "x", probs)
    assert merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"]).names == ("x",)
    with pytest.raises(InvalidInput, match=r"c: member 'x' is not the one of this name in .*a; record"):
        merge(tmp_path / "wrong", [tmp_path / "a", tmp_path / "c"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "all", "b", "c"]


def test_pools_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "a", "x", ONE)
    other = Pool.open_or_create(tmp_path / "b", ["cat", "dog"]).with_split("val", np.array([1, 1]))
    other.with_outputs(Member(name="y", source="imported", macs=1), "val", ONE, "by hand")
    with pytest.raises(InvalidInput, match=r"b: split 'val' has other labels than in .*a"):
        merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    Pool.open_or_create(tmp_path / "c", 3).with_split("val", np.array([1, 1]))
    with pytest.raises(InvalidInput, match=r"c: has 3 classes, .*a has 2"):
        merge(tmp_path / "all", [tmp_path / "a", tmp_path / "c"])
    Pool.open_or_create(tmp_path / "d", ["dog", "cat"]).with_split("val", np.array([0, 1]))
    with pytest.raises(InvalidInput, match=r"d: its classes have other names or another order than .*a"):
        merge(tmp_path / "all", [tmp_path / "a", tmp_path / "d"])


def test_a_damaged_pool_is_not_merged(tmp_path: Path) -> None:
    make(tmp_path / "a", "x", ONE)
    (tmp_path / "a/val/probs/x.npy").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"x\.npy: not a whole \.npy file"):
        merge(tmp_path / "all", [tmp_path / "a"])
    assert not (tmp_path / "all").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    make(tmp_path / "a", "x", ONE)
    with pytest.raises(InvalidInput, match="a: exists; name a new folder"):
        merge(tmp_path / "a", [tmp_path / "a"])
