from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encas.errors import InvalidInput
from encas.export import import_outputs
from encas.pool import Pool


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Two members' probabilities for three samples of two classes, their labels and costs."""
    (tmp_path / "probs").mkdir()
    np.save(tmp_path / "probs/a.npy", np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]))
    np.save(tmp_path / "probs/b.npy", np.array([[1, 0], [0, 1], [0, 1]], np.float32))
    (tmp_path / "labels.txt").write_text("0\n1\n1\n")
    (tmp_path / "costs.csv").write_text("name,macs,params\na,10,\nb,2000,300\n")
    return tmp_path


def bring(folder: Path, **more: Any) -> Pool:
    return import_outputs(
        folder / "pool", folder / "probs", folder / "labels.txt", folder / "costs.csv", **more
    )


def test_outputs_become_members(elsewhere: Path) -> None:
    pool = bring(elsewhere)
    assert [(m.name, m.source, m.macs, m.params) for m in pool.file.members] == [
        ("a", "imported", 10, None),
        ("b", "imported", 2000, 300),
    ]
    assert pool.probs("a", "val").dtype == np.float16
    assert pool.labels("val").tolist() == [0, 1, 1]
    assert Pool.open(elsewhere / "pool").file == pool.file


def test_a_second_split_joins_the_first(elsewhere: Path) -> None:
    bring(elsewhere)
    pool = bring(elsewhere, split="test")
    assert sorted(pool.member("a").outputs) == ["test", "val"]


def test_classes_may_have_names(elsewhere: Path) -> None:
    assert bring(elsewhere, classes=["cat", "dog"]).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labels.txt", "0\n1\n", r"labels.txt: 3 labels are needed, one for each row of .*a.npy; found 2"),
        ("labels.txt", "0\n1\n2\n", r"class indices must be 0 to 1, found 0 to 2"),
        ("costs.csv", "name,macs\na,10\na,10\n", r"costs.csv: member 'a' stands there twice"),
        ("costs.csv", "name,macs\na,10\n", r"costs.csv: has no row for .*b.npy; its cost must be known"),
        ("costs.csv", "name,macs\na,10\nb,1\nc,1\n", r"c.npy: no such file"),
        ("costs.csv", "name,macs\na,ten\nb,1\n", r"costs.csv: row 1: macs: .*valid integer"),
        ("costs.csv", "name,macs\n../a,10\nb,1\n", r"costs.csv: row 1: name"),
        ("costs.csv", "name;macs\na;10\n", r"a header with the columns name and macs"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    elsewhere: Path, file: str, content: str, message: str
) -> None:
    (elsewhere / file).write_text(content)
    with pytest.raises(InvalidInput, match=message):
        bring(elsewhere)
    assert not (elsewhere / "pool").exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.array([[0.9, 0.2], [0.4, 0.6], [0.5, 0.5]]),
            r"b.npy: row 0 is no probability distribution: .* sum 1.1",
        ),
        (np.array([[0.9, 0.1], [np.nan, 0.6], [0.5, 0.5]]), r"b.npy: row 1 holds NaN or infinity"),
        (
            np.full((2, 2), 0.5),
            r"b.npy: must be floating point of shape \(3, 2\), is float64 of shape \(2, 2\)",
        ),
        (np.full((3, 3), 1 / 3), r"b.npy: must be floating point of shape \(3, 2\)"),
        (np.array([[1, 0]] * 3), r"b.npy: must be floating point"),
    ],
)
def test_one_bad_member_keeps_all_out(elsewhere: Path, array: np.ndarray, message: str) -> None:
    np.save(elsewhere / "probs/b.npy", array)
    with pytest.raises(InvalidInput, match=message):
        bring(elsewhere)
    assert not (elsewhere / "pool").exists()


def test_a_truncated_array_is_named(elsewhere: Path) -> None:
    file = elsewhere / "probs/b.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InvalidInput, match=r"b.npy: not a whole .npy file"):
        bring(elsewhere)


def test_a_recorded_network_is_not_overwritten(elsewhere: Path) -> None:
    pool = bring(elsewhere)
    recorded = pool.member("a").model_copy(update={"source": "timm:a"})
    text = (elsewhere / "pool/pool.json").read_text()
    (elsewhere / "pool/pool.json").write_text(text.replace('"imported"', f'"{recorded.source}"', 1))
    with pytest.raises(InvalidInput, match="has a member 'a' already, from timm:a"):
        bring(elsewhere)
