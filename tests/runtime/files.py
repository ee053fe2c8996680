"""Small files of every kind that people have, made from two photographs that come with scikit-learn."""

import io
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image as pillow

ORIENTATION = 0x0112  # the tag of EXIF
# Width and height of tall, wide, odd and tiny images.
SIZES = [(1, 1), (37, 1), (1, 37), (17, 13), (97, 31), (31, 97), (64, 64), (65, 63), (150, 101), (101, 151)]


@cache
def golden_files() -> tuple[tuple[str, bytes], ...]:
    """Name and content of each."""
    files = []
    for index, (width, height) in enumerate(SIZES):
        image = photograph(index).resize((width, height), pillow.Resampling.LANCZOS)
        for name, write in _KINDS.items():
            files.append((f"{name}, {width} x {height}", write(image)))
    return tuple(files)


def photograph(index: int) -> pillow.Image:
    """Return parts of both, that differ from index to index."""
    whole = _photographs()[index % 2]
    return whole.crop((10 * index, 5 * index, 400 + 10 * index, 350 + 5 * index))


def encoded(image: pillow.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def _photographs() -> tuple[pillow.Image, ...]:
    datasets = pytest.importorskip("sklearn.datasets")
    return tuple(pillow.fromarray(datasets.load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))


def _jpeg(mode: str = "RGB", **options: Any) -> Callable[[pillow.Image], bytes]:
    return lambda image: encoded(image.convert(mode), "JPEG", **options)


def _png(mode: str) -> Callable[[pillow.Image], bytes]:
    return lambda image: encoded(_with_alpha(image).convert(mode), "PNG")


def _with_alpha(image: pillow.Image) -> pillow.Image:
    image = image.copy()
    image.putalpha(image.convert("L").point(lambda level: 255 - level))
    return image


def _turned(orientation: int) -> Callable[[pillow.Image], bytes]:
    exif = pillow.Exif()
    exif[ORIENTATION] = orientation
    return _jpeg(exif=exif)


def _deep(kind: str) -> Callable[[pillow.Image], bytes]:
    def write(image: pillow.Image) -> bytes:
        levels = np.asarray(image.convert("L")).astype(np.uint16) * 257
        return encoded(pillow.fromarray(levels), kind)

    return write


def _see_through(image: pillow.Image) -> bytes:
    return encoded(image.quantize(16), "PNG", transparency=3)


def _moving(kind: str) -> Callable[[pillow.Image], bytes]:
    return lambda image: encoded(
        image, kind, save_all=True, append_images=[image.transpose(pillow.Transpose.FLIP_LEFT_RIGHT)]
    )


def _saved(kind: str, mode: str = "RGB", **options: Any) -> Callable[[pillow.Image], bytes]:
    return lambda image: encoded(_with_alpha(image).convert(mode), kind, **options)


_KINDS: dict[str, Callable[[pillow.Image], bytes]] = {
    "JPEG 4:4:4": _jpeg(subsampling="4:4:4", quality=95),
    "JPEG 4:2:2": _jpeg(subsampling="4:2:2"),
    "JPEG 4:2:0": _jpeg(subsampling="4:2:0"),
    "JPEG of low quality": _jpeg(quality=5),
    "progressive JPEG": _jpeg(progressive=True),
    "progressive JPEG 4:4:4": _jpeg(progressive=True, subsampling="4:4:4"),
    "JPEG with restarts": _jpeg(restart_marker_blocks=2),
    "gray JPEG": _jpeg("L"),
    "CMYK JPEG": _jpeg("CMYK"),
    "JPEG of RGB": _jpeg(keep_rgb=True),
    "JPEG upside down": _turned(3),
    "JPEG turned right": _turned(6),
    "JPEG turned left": _turned(8),
    "two JPEGs in one": _moving("MPO"),
    "PNG": _png("RGB"),
    "PNG with alpha": _png("RGBA"),
    "gray PNG": _png("L"),
    "gray PNG with alpha": _png("LA"),
    "palette PNG": _png("P"),
    "palette PNG with a hole": _see_through,
    "PNG of one bit": _png("1"),
    "PNG of 16 bits": _deep("PNG"),
    "GIF": _saved("GIF"),
    "GIF that moves": _moving("GIF"),
    "WebP": _saved("WEBP"),
    "lossless WebP with alpha": _saved("WEBP", "RGBA", lossless=True),
    "BMP": _saved("BMP"),
    "gray BMP": _saved("BMP", "L"),
    "TIFF": _saved("TIFF"),
    "TIFF of CMYK": _saved("TIFF", "CMYK"),
    "TIFF of 16 bits": _deep("TIFF"),
    "PPM": _saved("PPM"),
}
