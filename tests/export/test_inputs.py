from pathlib import Path

import numpy as np
import pytest

from encas.cascade import Cascade, Evaluated, Stage
from encas.errors import InvalidInput
from encas.export.inputs import find_inputs
from encas.pool import DataReference, Member, Pool

CASCADE = Cascade(stages=(Stage(member="a"),))
LABELS = np.arange(20) % 2


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """A member with outputs on the even and on the odd rows of 20 images."""
    images = np.arange(20, dtype=np.uint8).repeat(4).reshape(20, 2, 2)
    np.savez(tmp_path / "data.npz", images=images, labels=LABELS[np.argsort(LABELS, kind="stable")])
    pool = Pool.open_or_create(tmp_path / "pool", 2)
    for split, rows in (("val", ":12"), ("test", "12:")):
        chosen = slice(*(int(part) if part else None for part in rows.split(":")))
        labels = np.sort(LABELS)[chosen]
        pool = pool.with_split(split, labels, DataReference(path="../data.npz", rows=rows))
        probs = np.full((len(labels), 2), 0.5, np.float32)
        pool = pool.with_outputs(Member(name="a", source="imported", macs=1), split, probs, "by hand")
    return pool


def test_images_are_spread_evenly_over_the_split(pool: Pool) -> None:
    found = find_inputs(CASCADE, pool, most=4)
    assert (found.split, found.rows.tolist()) == ("val", [0, 4, 7, 11])
    assert [int(image[0, 0]) for image in np.asarray(found.images.images)] == [0, 4, 7, 11]


def test_no_more_images_than_there_are(pool: Pool) -> None:
    assert find_inputs(CASCADE, pool, most=500).rows.tolist() == list(range(12))


def test_the_split_that_was_evaluated_comes_first(pool: Pool) -> None:
    evaluated = Evaluated(n=8, accuracy=0.5, macs=1, exit_fractions=(1.0,))
    cascade = CASCADE.model_copy(update={"evaluated": {"test": evaluated}})
    found = find_inputs(cascade, pool, most=2)
    assert (found.split, [int(i[0, 0]) for i in np.asarray(found.images.images)]) == ("test", [12, 19])
    assert find_inputs(cascade, pool, split="val").split == "val"


def test_images_that_were_moved_are_found_where_the_user_says(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "data.npz").rename(tmp_path / "moved.npz")
    with pytest.raises(
        InvalidInput, match=r"data\.npz: no such file or folder; name the images of split 'val'"
    ):
        find_inputs(CASCADE, pool)
    assert len(find_inputs(CASCADE, pool, data=tmp_path / "moved.npz").rows) == 12


def test_the_images_of_one_split_alone_will_do(pool: Pool, tmp_path: Path) -> None:
    with np.load(tmp_path / "data.npz") as arrays:
        np.savez(tmp_path / "val.npz", images=arrays["images"][:12], labels=arrays["labels"][:12])
    assert find_inputs(CASCADE, pool, data=tmp_path / "val.npz").split == "val"


def test_images_with_other_labels_are_refused(pool: Pool, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", images=np.zeros((20, 2, 2), np.uint8), labels=np.ones(20, np.int64))
    with pytest.raises(
        InvalidInput, match=r"its labels are not those of split 'val' of .*pool; name the images"
    ):
        find_inputs(CASCADE, pool, data=tmp_path / "other.npz", split="val")


def test_without_images_there_is_nothing_to_check_on(tmp_path: Path) -> None:
    half = np.full((2, 2), 0.5, np.float32)
    pool = Pool.open_or_create(tmp_path / "pool", 2).with_split("val", np.array([0, 1]))
    pool = pool.with_outputs(Member(name="a", source="imported", macs=1), "val", half, "by hand")
    with pytest.raises(InvalidInput, match="does not say which images were recorded; name them with --data"):
        find_inputs(CASCADE, pool)


def test_all_members_must_have_answered_on_one_split(pool: Pool) -> None:
    pool = pool.with_split("other", np.array([0]))
    b = Member(name="b", source="imported", macs=1)
    pool = pool.with_outputs(b, "other", np.full((1, 2), 0.5, np.float32), "by hand")
    cascade = Cascade(stages=(Stage(member="a", threshold=0.5), Stage(member="b")))
    with pytest.raises(InvalidInput, match="no split has recorded outputs of every member of the cascade"):
        find_inputs(cascade, pool)
