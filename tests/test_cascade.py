import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from encas.cascade import as_recorded


def one_by_one(probs: NDArray[np.float32]) -> NDArray[np.float32]:
    return probs.astype(np.float16).astype(np.float32)


def test_rounding_in_bulk_gives_every_float16_its_own_neighbourhood() -> None:
    stored = np.arange(0x3C01, dtype=np.uint16).view(np.float16).astype(np.float32)  # all in [0, 1]
    ties = ((stored[1:].astype(np.float64) + stored[:-1]) / 2).astype(np.float32)
    zero, one = np.float32(0), np.float32(1)
    beside = [np.nextafter(x, y) for x in (stored, ties) for y in (zero, one)]
    tiny = np.array([1e-45, 1e-40, 1e-30, 2**-25, 2**-24], np.float32)
    for probs in (stored, ties, *beside, np.tile(tiny, 100)):
        assert len(probs) >= 256
        assert np.array_equal(as_recorded(probs), one_by_one(probs))


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0, 30))
def test_rounding_in_bulk_is_rounding_one_by_one(seed: int, n: int, spread: float) -> None:
    logits = spread * np.random.default_rng(seed).normal(size=(n, 37)).astype(np.float32)
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    assert np.array_equal(as_recorded(probs), one_by_one(probs))
    assert np.array_equal(as_recorded(probs[::2, ::3]), one_by_one(probs[::2, ::3]))


@pytest.mark.filterwarnings("ignore:overflow")
def test_what_are_no_probabilities_is_rounded_as_numpy_does() -> None:
    for odd in (np.nan, np.inf, -1e-3, 7.5, 1e6):
        probs = np.full((30, 10), 0.1, np.float32)
        probs[3, 3] = odd
        assert np.array_equal(as_recorded(probs), one_by_one(probs), equal_nan=True)


def test_recorded_probabilities_stay_as_they_are() -> None:
    stored = np.linspace(0, 1, 1000).astype(np.float16)
    assert np.array_equal(as_recorded(stored), stored)
    assert as_recorded(stored).dtype == np.float32
