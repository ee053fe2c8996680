"""A threshold between two confidences, in few digits."""

import numpy as np

_MOST_DIGITS = 12


def between(low: float, high: float) -> float:
    """Return a number that is short to write, and that `high` exceeds as float32 while `low` does not.

    Cascades compare confidences with the threshold rounded to float32, so both of its roundings, to few
    digits and then to float32, must leave it between the two: `low <= threshold < high`.

    Args:
        low: The largest confidence of those that stay; where nobody does, any negative number.
        high: The smallest confidence of those that leave; float32, as `low`.
    """
    if low < 0:
        return 0.0
    if not low < high:
        raise ValueError(f"nothing is between {low} and {high}")
    middle = low + (high - low) / 2
    for digits in range(_MOST_DIGITS):
        short = round(middle, digits)
        if low <= float(np.float32(short)) < high:
            return short
    return low
