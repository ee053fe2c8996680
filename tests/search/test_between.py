import numpy as np
import pytest

from encas.search.between import between


def test_the_number_is_short() -> None:
    assert between(0.25, 0.75) == 0.5
    assert between(0.61, 0.66) == 0.64
    assert between(1.9, 2.9) == 2


def test_who_is_sure_enough_exceeds_it_and_nobody_else() -> None:
    rng = np.random.default_rng(0)
    low = rng.random(300).astype(np.float32)
    for high in (np.nextafter(low, np.float32(2)), low + np.float32(1e-4), low * 3):
        for a, b in zip(low.tolist(), high.tolist(), strict=True):
            assert a <= np.float32(between(a, b)) < b


def test_where_nobody_stays_it_is_zero() -> None:
    assert between(-1, 0.001) == 0


def test_nothing_is_between_equal_numbers() -> None:
    with pytest.raises(ValueError, match="nothing is between"):
        between(0.5, 0.5)
