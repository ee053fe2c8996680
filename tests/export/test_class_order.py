import re
from pathlib import Path

import numpy as np
import pytest

from encas.cascade import Cascade, Stage
from encas.errors import InvalidInput
from encas.export.class_order import check_class_order
from encas.pool import Member, Pool

CASCADE = Cascade(stages=(Stage(member="a", threshold=0.5), Stage(member="b")))


def pool_of(path: Path, answers: dict[str, np.ndarray], labels: np.ndarray, n_classes: int) -> Pool:
    pool = Pool.open_or_create(path / "pool", n_classes).with_split("val", labels)
    for name, classes in answers.items():
        probs = np.full((len(labels), n_classes), 0.1 / (n_classes - 1), np.float32)
        probs[np.arange(len(labels)), classes] = 0.9
        pool = pool.with_outputs(Member(name=name, source="imported", macs=1), "val", probs, "hand")
    return pool


def test_a_member_that_counts_backwards_is_named(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 10, 200)
    pool = pool_of(tmp_path, {"a": labels, "b": 9 - labels}, labels, 10)
    message = (
        "member 'b' counts the classes in another order: 0% of its answers on 'val' are right, 100% would be "
        "if its class 0 were 9"
    )
    with pytest.raises(InvalidInput, match=re.escape(message)):
        check_class_order(CASCADE, pool, "val")


@pytest.mark.parametrize("seed", range(20))
def test_a_member_that_is_merely_bad_is_not(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, 200)
    poor = np.where(rng.random(200) < 0.1, labels, rng.integers(0, 3, 200))
    check_class_order(CASCADE, pool_of(tmp_path, {"a": labels, "b": poor}, labels, 10), "val")


def test_more_classes_than_samples_do_not_mislead(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(1000)[:100]
    wrong = np.where(rng.random(100) < 0.5, labels, rng.integers(0, 1000, 100))
    check_class_order(CASCADE, pool_of(tmp_path, {"a": labels, "b": wrong}, labels, 1000), "val")


def test_a_single_sample_says_nothing(tmp_path: Path) -> None:
    labels = np.array([1])
    check_class_order(CASCADE, pool_of(tmp_path, {"a": labels, "b": 1 - labels}, labels, 2), "val")
