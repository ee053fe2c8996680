"""From a file to a tensor, byte for byte what timm makes of it."""

import io
import tarfile
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pillow = pytest.importorskip("PIL.Image")
data = pytest.importorskip("timm.data")
pytest.importorskip("sklearn")

from encas.errors import InvalidInput  # noqa: E402
from encas.preprocess import CropMode, Interpolation, Preprocess  # noqa: E402
from encas.runtime.images import decode  # noqa: E402
from encas.runtime.preprocess import prepare  # noqa: E402

from .files import ORIENTATION, encoded, golden_files, photograph  # noqa: E402

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "../shared/data/imagenet/photographs.tar"
FILTERS: tuple[Interpolation, ...] = ("bilinear", "bicubic", "lanczos", "nearest")
MODES: tuple[CropMode, ...] = ("center", "squash", "border")
SPECS = [
    Preprocess(size=size, interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct)
    for size, interpolation, crop_mode, crop_pct in product(
        ((56, 56), (48, 72)), FILTERS, MODES, (0.875, 0.9, 1.0)
    )
]
# Those of real networks: sizes and shares of timm's configurations.
PHOTOGRAPH_SPECS = [
    Preprocess(size=(128, 128), interpolation="bilinear", crop_pct=0.875),
    Preprocess(size=(224, 224), interpolation="bilinear", crop_pct=0.875),
    Preprocess(size=(224, 224), crop_pct=0.875),
    Preprocess(size=(224, 224), crop_pct=0.9),
    Preprocess(size=(224, 224), crop_pct=0.95),
    Preprocess(size=(224, 224), crop_mode="squash"),
    Preprocess(size=(240, 240), crop_pct=0.882),
    Preprocess(size=(260, 260), crop_pct=0.89),
    Preprocess(size=(288, 288), crop_pct=0.95, crop_mode="border"),
    Preprocess(size=(224, 224), interpolation="lanczos", crop_pct=0.875, crop_mode="squash"),
]


@cache
def transform_of(spec: Preprocess) -> Any:
    return data.create_transform(
        spec.shape,
        interpolation=spec.interpolation,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
        mean=spec.mean,
        std=spec.std,
        is_training=False,
    )


def timms_image(content: bytes) -> Any:
    """Read a file as timm's datasets do."""
    return pillow.open(io.BytesIO(content)).convert("RGB")


def assert_same(content: bytes, spec: Preprocess) -> None:
    ours, timms = prepare(decode(content), spec), transform_of(spec)(timms_image(content)).numpy()
    assert ours.dtype == timms.dtype == np.float32
    assert ours.shape == timms.shape == spec.shape
    assert ours.tobytes() == timms.tobytes()


@pytest.mark.slow
def test_there_are_enough_of_them() -> None:
    assert len({content for _, content in golden_files()}) > 250
    assert len(SPECS) == 72


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_every_file_has_the_pixels_that_timm_sees() -> None:
    for name, content in golden_files():
        assert np.array_equal(np.asarray(decode(content)), np.asarray(timms_image(content))), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("which", range(len(SPECS)))
def test_every_file_gives_the_bytes_of_timm(which: int) -> None:
    for _, content in golden_files():
        if not is_nothing_to_timm(timms_image(content).size, SPECS[which]):
            assert_same(content, SPECS[which])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_every_file_gives_the_bytes_of_timm_prepared_in_one_of_the_ways() -> None:
    tried = 0
    for index, (_, content) in enumerate(golden_files()):
        which = 7 * index % len(SPECS)
        if not is_nothing_to_timm(timms_image(content).size, SPECS[which]):
            assert_same(content, SPECS[which])
            tried += 1
    assert tried > 200


def is_nothing_to_timm(size: tuple[int, int], spec: Preprocess) -> bool:
    """Whether timm would make the shorter side zero pixels long, and fail."""
    width, height = (
        side * spec.crop_pct / target for side, target in zip(size, spec.size[::-1], strict=True)
    )
    return spec.crop_mode == "border" and min(width, height) / max(width, height) * min(spec.size) < 1


def test_the_orientation_of_a_photograph_is_left_as_timm_leaves_it() -> None:
    image = photograph(0).resize((40, 30))
    exif = pillow.Exif()
    exif[ORIENTATION] = 6
    plain, turned = encoded(image, "JPEG"), encoded(image, "JPEG", exif=exif)
    assert decode(turned).size == timms_image(turned).size == (40, 30)
    assert np.array_equal(np.asarray(decode(turned)), np.asarray(decode(plain)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_of_a_file_that_was_cut_off_there_is_what_timm_sees_or_nothing(kind: str) -> None:
    whole = encoded(photograph(1).resize((64, 48)), kind)
    for length in [*range(1, len(whole), max(1, len(whole) // 40)), len(whole) - 2, len(whole) - 1]:
        try:
            expected = np.asarray(timms_image(whole[:length]))
        except (OSError, SyntaxError, ValueError):
            with pytest.raises(InvalidInput):
                decode(whole[:length])
        else:
            assert np.array_equal(np.asarray(decode(whole[:length])), expected), length


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_of_a_damaged_jpeg_file_there_is_what_timm_sees_or_nothing() -> None:
    rng = np.random.default_rng(0)
    for options in ({}, {"progressive": True}, {"subsampling": "4:4:4", "restart_marker_blocks": 2}):
        whole = encoded(photograph(2).resize((40, 31)), "JPEG", **options)
        for _ in range(100):
            broken = bytearray(whole)
            for at in rng.integers(0, len(whole), 2):
                broken[at] = rng.integers(256)
            try:
                ours = np.asarray(decode(bytes(broken)))
            except InvalidInput:
                continue
            assert np.array_equal(ours, np.asarray(timms_image(bytes(broken))))


@pytest.mark.real
@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="the shared data folder is not there")
@pytest.mark.parametrize("spec", PHOTOGRAPH_SPECS, ids=lambda spec: f"{spec.size[0]}-{spec.crop_pct}")
def test_a_thousand_photographs_give_the_bytes_of_timm(spec: Preprocess) -> None:
    with tarfile.open(PHOTOGRAPHS) as tar:
        names = [name for name in tar.getnames() if name.endswith(".jpg")]
        assert len(names) == 1000
        for name in names:
            file = tar.extractfile(name)
            assert file is not None
            assert_same(file.read(), spec)
