import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pillow = pytest.importorskip("PIL.Image")
pytest.importorskip("numba")

from encas.runtime import resize_compiled  # noqa: E402
from encas.runtime.resize import resize_pixels  # noqa: E402

FILTERS = ("BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")
SIDE = st.integers(1, 80)


@pytest.fixture(scope="module")
def passes() -> ModuleType:
    loaded = resize_compiled.load()
    assert loaded is not None
    return loaded


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Any:
    shape = (height, width) if mode == "L" else (height, width, 3)
    pixels = np.random.default_rng(seed).choice([0, 1, 127, 254, 255], shape).astype(np.uint8)
    return pillow.fromarray(pixels)


@pytest.mark.slow
@settings(max_examples=300)
@given(
    st.tuples(SIDE, SIDE),
    st.tuples(SIDE, SIDE),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.sampled_from(["RGB", "L"]),
    st.integers(0, 99),
)
def test_any_part_has_the_bytes_of_pillow(
    passes: ModuleType,
    source: tuple[int, int],
    size: tuple[int, int],
    share: tuple[float, ...],
    mode: str,
    seed: int,
) -> None:
    kept = [1 + int(part * (side - 1)) for part, side in zip(share[:2], size, strict=True)]
    start = [int(part * (side - k)) for part, side, k in zip(share[2:], size, kept, strict=True)]
    crop = (start[0], start[1], start[0] + kept[0], start[1] + kept[1])
    image = noise(*source, mode, seed)
    for name in FILTERS:
        resample = pillow.Resampling[name]
        part, whole = (
            resize_pixels(image, size, crop, resample, passes),
            image.resize(size, resample).crop(crop),
        )
        assert np.array_equal(part, np.asarray(whole)), name


@pytest.mark.slow
@pytest.mark.parametrize("size", [(299, 299), (500, 375), (375, 500), (1024, 683)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_photographs_sizes_have_the_bytes_of_pillow(size: tuple[int, int], mode: str) -> None:
    image = noise(*size, mode)
    for target in ((256, 256), (341, 256), (600, 500)):
        crop = (16, 16, 240, 240)
        for name in FILTERS:
            whole = image.resize(target, pillow.Resampling[name]).crop(crop)
            part = resize_pixels(image, target, crop, pillow.Resampling[name])
            assert np.array_equal(part, np.asarray(whole)), name


def test_the_passes_agree_with_pillow_so_they_are_used_unless_an_image_is_tiny(passes: ModuleType) -> None:
    assert resize_compiled.kernels(noise(100, 100)) is passes
    assert resize_compiled.kernels(noise(10, 10)) is None


@pytest.mark.slow
def test_an_image_in_several_pieces_of_memory_has_the_bytes_of_pillow(passes: ModuleType) -> None:
    image = noise(2300, 2100)  # Pillow's pieces have at most 16 MB
    with pytest.raises(ValueError, match="not contiguous"):
        image.__arrow_c_array__()
    whole = image.resize((230, 210), pillow.Resampling.BICUBIC)
    part = resize_pixels(image, (230, 210), (0, 0, 230, 210), pillow.Resampling.BICUBIC, passes)
    assert np.array_equal(part, np.asarray(whole))


@pytest.mark.slow
def test_without_numba_pillow_resizes() -> None:
    script = (
        "import sys; sys.modules['numba'] = None; import numpy as np; from PIL import Image\n"
        "from encas.runtime import resize_compiled; from encas.runtime.resize import resize_pixels\n"
        "image = Image.fromarray(np.arange(30000, dtype=np.uint8).reshape(100, 100, 3))\n"
        "part = resize_pixels(image, (50, 40), (5, 5, 35, 35), Image.Resampling.BICUBIC)\n"
        "whole = image.resize((50, 40), Image.Resampling.BICUBIC).crop((5, 5, 35, 35))\n"
        "print(resize_compiled.kernels(image), np.array_equal(part, np.asarray(whole)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "True"]


@pytest.mark.slow
def test_where_numba_cannot_compile_pillow_resizes_and_the_log_says_so() -> None:
    script = (
        "import numba; numba.njit = lambda *_, **__: 1 / 0\n"
        "from encas.runtime import resize_compiled; from PIL import Image\n"
        "print(resize_compiled.kernels(Image.new('RGB', (100, 100))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None"]
    assert done.stderr.strip() == "numba cannot compile resizing here, Pillow resizes: division by zero"


def test_passes_that_differ_from_pillow_are_not_used(passes: ModuleType) -> None:
    wrong = ModuleType("wrong")
    wrong.__dict__.update(vars(passes))
    wrong.__dict__["weigh"] = lambda *arguments: (passes.weigh(*arguments), arguments[-1].__iadd__(1 << 14))
    assert resize_compiled.agrees(passes)
    assert not resize_compiled.agrees(wrong)
