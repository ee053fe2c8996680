import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encas.errors import InvalidInput
from encas.pool import DataReference, Latency, Member, Pool, check_labels, check_probs

A = Member(name="a", source="imported", macs=10)
HALF = np.full((3, 2), 0.5, np.float32)


def small(path: Path) -> Pool:
    pool = Pool.open_or_create(path, ["cat", "dog"])
    return pool.with_split("val", np.array([0, 1, 1]))


def latency(batch: int, latency_s: float, machine: str = "m") -> Latency:
    return Latency(machine=machine, provider="cpu", batch=batch, latency_s=latency_s, p95_s=latency_s, n=3)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    probs = np.array([[0.9, 0.1], [0.25, 0.75], [0.6, 0.4]], np.float32)
    small(tmp_path / "pool").with_outputs(A, "val", probs, "by hand")
    pool = Pool.open(tmp_path / "pool")
    assert pool.probs("a", "val").tolist() == probs.astype(np.float16).tolist()
    assert pool.labels("val").tolist() == [0, 1, 1]
    assert pool.member("a").outputs["val"].engine == "by hand"
    assert pool.class_names == ("cat", "dog")
    assert pool.problems() == []


def test_the_order_of_recording_leaves_no_trace(tmp_path: Path) -> None:
    b = A.model_copy(update={"name": "b"})
    for name, order in (("one", (A, b)), ("two", (b, A))):
        pool = small(tmp_path / name)
        for member in order:
            pool = pool.with_outputs(member, "val", HALF, "x")
    assert (tmp_path / "one/pool.json").read_bytes() == (tmp_path / "two/pool.json").read_bytes()


def test_two_processes_that_add_members_lose_none(tmp_path: Path) -> None:
    first = second = small(tmp_path / "pool")  # both have read the pool before either writes
    first.with_outputs(A, "val", HALF, "x")
    second.with_outputs(A.model_copy(update={"name": "b"}), "val", HALF, "x")
    assert Pool.open(tmp_path / "pool").names == ("a", "b")


def test_a_member_keeps_its_outputs_on_other_splits(tmp_path: Path) -> None:
    pool = small(tmp_path / "pool").with_split("test", np.array([0, 0]))
    pool = pool.with_outputs(A, "val", HALF, "x").with_outputs(A, "test", HALF[:2], "x")
    assert sorted(pool.member("a").outputs) == ["test", "val"]


def test_recorded_means_there_and_unchanged(tmp_path: Path) -> None:
    pool = small(tmp_path / "pool").with_outputs(A, "val", HALF, "x")
    assert pool.is_recorded("a", "val")
    assert not pool.is_recorded("a", "test")
    assert not pool.is_recorded("b", "val")
    (tmp_path / "pool/val/probs/a.npy").unlink()
    assert not pool.is_recorded("a", "val")


def test_a_changed_byte_is_a_problem(tmp_path: Path) -> None:
    pool = small(tmp_path / "pool").with_outputs(A, "val", HALF, "x")
    file = tmp_path / "pool/val/labels.npy"
    content = bytearray(file.read_bytes())
    content[-24] ^= 1  # the first label: 0 becomes 1
    file.write_bytes(content)
    assert pool.problems() == [f"{file}: its bytes have changed since it was recorded"]


def test_a_truncated_file_is_a_problem(tmp_path: Path) -> None:
    pool = small(tmp_path / "pool").with_outputs(A, "val", HALF, "x")
    file = tmp_path / "pool/val/probs/a.npy"
    file.write_bytes(file.read_bytes()[:-2])
    (problem,) = pool.problems()
    assert problem.startswith(f"{file}: not a whole .npy file")


def test_a_split_with_other_labels_is_refused(tmp_path: Path) -> None:
    pool = small(tmp_path / "pool").with_outputs(A, "val", HALF, "x")
    with pytest.raises(InvalidInput, match=r"split 'val' has other labels \(3 samples, now 2\)"):
        pool.with_split("val", np.array([0, 1]))


def test_labels_that_no_outputs_belong_to_yet_can_change(tmp_path: Path) -> None:
    assert small(tmp_path / "pool").with_split("val", np.array([0, 1])).split("val").n == 2


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "", "a/b", "a b"])
def test_a_split_stays_inside_the_pool(name: str, tmp_path: Path) -> None:
    pool = Pool.open_or_create(tmp_path / "pool", 2)
    with pytest.raises(InvalidInput, match="must be a plain name"):
        pool.with_split(name, np.array([0, 1]))
    assert not (tmp_path / "pool").exists()


def test_another_network_of_the_same_name_leaves_the_outputs_of_the_first(tmp_path: Path) -> None:
    pool = small(tmp_path / "pool").with_outputs(A, "val", HALF, "x")
    other = A.model_copy(update={"source": "onnx:b.onnx"})
    with pytest.raises(InvalidInput, match="give the new one another name"):
        pool.with_outputs(other, "val", np.array([[1, 0]] * 3, np.float32), "x")
    assert Pool.open(pool.path).problems() == []


def test_a_pool_that_was_killed_after_its_first_labels_is_still_a_pool(tmp_path: Path) -> None:
    small(tmp_path / "pool")
    (tmp_path / "pool" / ".labels.npy.1.tmp").write_bytes(b"half")
    assert Pool.open_or_create(tmp_path / "pool", ["cat", "dog"]).split("val").n == 3


def test_images_can_be_named_after_the_outputs_were_imported(tmp_path: Path) -> None:
    pool = small(tmp_path / "pool")
    assert pool.split("val").data is None
    data = DataReference(path="../images", rows=":3")
    assert pool.with_split("val", np.array([0, 1, 1]), data).split("val").data == data


def test_another_network_of_the_same_name_is_refused(tmp_path: Path) -> None:
    pool = small(tmp_path / "pool").with_outputs(A, "val", HALF, "x")
    with pytest.raises(InvalidInput, match="has a member 'a' already, from imported"):
        pool.with_outputs(A.model_copy(update={"source": "timm:a"}), "val", HALF, "x")


def test_classes_of_other_names_are_refused(tmp_path: Path) -> None:
    small(tmp_path / "pool")
    Pool.open_or_create(tmp_path / "pool", 2)
    with pytest.raises(InvalidInput, match="other names"):
        Pool.open_or_create(tmp_path / "pool", ["dog", "cat"])
    with pytest.raises(InvalidInput, match="has 2 classes"):
        Pool.open_or_create(tmp_path / "pool", 3)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InvalidInput, match="exists and is no pool"):
        Pool.open_or_create(tmp_path, 2)


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".a", "a b", "a\n"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Member(name=name, source="imported", macs=1)


def test_measuring_again_replaces_and_other_machines_stay(tmp_path: Path) -> None:
    pool = small(tmp_path / "pool").with_outputs(A, "val", HALF, "x")
    digest = pool.sha256
    pool = pool.with_latency({"a": [latency(1, 0.1), latency(8, 0.3)]})
    pool = pool.with_latency({"a": [latency(1, 0.2), latency(1, 0.9, "another")]})
    found = [(entry.machine, entry.batch, entry.latency_s) for entry in pool.member("a").latency]
    assert found == [("another", 1, 0.9), ("m", 1, 0.2), ("m", 8, 0.3)]
    assert pool.sha256 == digest


def test_a_field_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    small(tmp_path / "pool")
    file = tmp_path / "pool/pool.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "colour": "red"}))
    with pytest.raises(InvalidInput, match="colour"):
        Pool.open(tmp_path / "pool")


@given(st.integers(1, 40), st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_float16_softmax_outputs_pass(n: int, c: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 8, (n, c))
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    check_probs(probs.astype(np.float16), n, c, "here")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([np.nan, 0.5], "row 1 holds NaN or infinity"),
        ([0.5, 0.6], "row 1 is no probability distribution: smallest value 0.5, sum 1.1"),
        ([1.2, -0.2], "row 1 is no probability distribution: smallest value -0.2, sum 1"),
    ],
)
def test_what_is_no_distribution_is_refused(row: list[float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_probs(np.array([[0.5, 0.5], row], np.float32), 2, 2, "here")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0.0, 1.0]), "whole numbers"),
        (np.array([[0], [1]]), "whole numbers"),
        (np.array([0, 2]), "class indices must be 0 to 1, found 0 to 2"),
        (np.array([0, 1, 1]), "2 labels are needed, one for each sample; found 3"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_labels(labels, 2, "here", n=2)
