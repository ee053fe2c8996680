"""Whether the members of a cascade count the classes in the same order, told from their recorded answers."""

import numpy as np
from numpy.typing import NDArray

from encas.cascade import Cascade
from encas.errors import InvalidInput
from encas.pool import Pool

_FACTOR = 2  # so many times as often right under another order is no accident
_LEAST = 0.1  # nor is being right so much more often


def check_class_order(cascade: Cascade, pool: Pool, split: str) -> None:
    """Check that no member would be far more often right if its classes were named otherwise.

    Averaging the probabilities of members that disagree on what class 3 is makes an answer that looks sound
    and is wrong. The other order is learned on every second sample and tried on the rest.

    Raises:
        InvalidInput: Names the member, and one class that it takes for another.
    """
    labels = pool.labels(split)
    for name in dict.fromkeys(cascade.member_names):
        answers = pool.probs(name, split).argmax(axis=1)
        order = _usual_label(answers[::2], labels[::2], pool.n_classes)
        right = float(np.mean(answers[1::2] == labels[1::2])) if len(labels) > 1 else 1.0
        reordered = float(np.mean(order[answers[1::2]] == labels[1::2])) if len(labels) > 1 else 0.0
        if reordered >= _FACTOR * right and reordered - right > _LEAST:
            moved = int(np.flatnonzero(order != np.arange(len(order)))[0])
            raise InvalidInput(
                f"{pool.path}: member '{name}' counts the classes in another order: {right:.0%} of its "
                f"answers on '{split}' are right, {reordered:.0%} would be if its class {moved} were "
                f"{int(order[moved])}, and so on; record it with the classes in the pool's order"
            )


def _usual_label(answers: NDArray[np.intp], labels: NDArray[np.int64], n_classes: int) -> NDArray[np.intp]:
    """For each class that a member answers, which label such samples have most often."""
    counts = np.zeros((n_classes, n_classes), np.intp)
    np.add.at(counts, (answers, labels), 1)
    order: NDArray[np.intp] = counts.argmax(axis=1)
    never = counts.sum(axis=1) == 0
    order[never] = np.flatnonzero(never)
    return order
