from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pillow = pytest.importorskip("PIL.Image")

from encas.runtime.axis import Axis  # noqa: E402
from encas.runtime.resize import resize_part  # noqa: E402

FILTERS = ("NEAREST", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")


def noise(width: int, height: int, mode: str = "RGB") -> Any:
    shape = (height, width) if mode == "L" else (height, width, 3)
    return pillow.fromarray(np.random.default_rng(width + height).integers(0, 256, shape, np.uint8))


def assert_same_as_the_whole(image: Any, size: tuple[int, int], crop: tuple[int, int, int, int]) -> None:
    for name in FILTERS:
        resample = pillow.Resampling[name]
        part, whole = resize_part(image, size, crop, resample), image.resize(size, resample).crop(crop)
        assert np.array_equal(np.asarray(part), np.asarray(whole)), name


@pytest.mark.slow
@settings(max_examples=150)
@given(
    st.tuples(st.integers(1, 160), st.integers(1, 160)),
    st.one_of(
        st.tuples(st.integers(1, 120), st.integers(1, 120)),
        st.tuples(st.sampled_from([32, 64, 96]), st.sampled_from([32, 64, 96])),
    ),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.sampled_from(["RGB", "L"]),
)
def test_any_part_has_the_bytes_of_the_whole(
    source: tuple[int, int], size: tuple[int, int], share: tuple[float, ...], mode: str
) -> None:
    kept = [1 + int(part * (side - 1)) for part, side in zip(share[:2], size, strict=True)]
    start = [int(part * (side - k)) for part, side, k in zip(share[2:], size, kept, strict=True)]
    crop = (start[0], start[1], start[0] + kept[0], start[1] + kept[1])
    assert_same_as_the_whole(noise(*source, mode), size, crop)


@pytest.mark.parametrize(
    ("source", "size", "kept"),
    [
        ((299, 299), (256, 256), (224, 224)),  # both directions by themselves
        ((500, 375), (341, 256), (224, 224)),  # rows by themselves
        ((375, 500), (256, 341), (224, 224)),  # columns by themselves
        ((500, 375), (330, 248), (224, 224)),  # neither
        ((300, 900), (30, 31), (8, 8)),  # tall: Pillow may resize columns first
        ((100, 60), (200, 120), (150, 40)),  # enlarged
    ],
)
def test_the_middle_has_the_bytes_of_the_whole(
    source: tuple[int, int], size: tuple[int, int], kept: tuple[int, int]
) -> None:
    left, top = ((side - k) // 2 for side, k in zip(size, kept, strict=True))
    assert_same_as_the_whole(noise(*source), size, (left, top, left + kept[0], top + kept[1]))


def test_a_part_is_asked_for_by_itself_only_where_float32_can_say_where_it_lies() -> None:
    assert Axis(299, 256, 16, 240).edges() == (18.6875, 280.3125)
    assert Axis(500, 341, 58, 282).edges() is None  # 58 * 500 / 341 is no binary fraction
    assert Axis(500, 341, 0, 341).edges() == (0, 500)  # all of it is what Pillow does by itself
    assert Axis(372, 248, 12, 236).edges() == (18, 354)  # 372 is 12 times 31, 248 is 8 times 31
    assert Axis(4095, 8192, 1, 8191).edges() is None  # 8191 * 4095 / 8192 has more than 24 bits


def test_an_image_of_the_right_size_is_only_cropped() -> None:
    image = noise(20, 10)
    assert resize_part(image, (20, 10), (0, 0, 20, 10), pillow.Resampling.BICUBIC) is image
    assert resize_part(image, (20, 10), (5, 0, 15, 10), pillow.Resampling.BICUBIC).size == (10, 10)
