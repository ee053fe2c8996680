"""From decoded pixels to a network's tensor, with the same bytes as timm's evaluation transform."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow

from encas.preprocess import Preprocess
from encas.runtime.resize import resize_pixels

Tensor = NDArray[np.float32]  # (n, channels, height, width)
FILTERS = {
    "nearest": pillow.Resampling.NEAREST,
    "bilinear": pillow.Resampling.BILINEAR,
    "bicubic": pillow.Resampling.BICUBIC,
    "lanczos": pillow.Resampling.LANCZOS,
    "box": pillow.Resampling.BOX,
    "hamming": pillow.Resampling.HAMMING,
}


def prepare(image: pillow.Image, spec: Preprocess) -> NDArray[np.float32]:
    """Turn an image into a (channels, height, width) tensor."""
    tensor: NDArray[np.float32] = prepare_batch([image], spec)[0]
    return tensor


def prepare_batch(images: Sequence[pillow.Image], spec: Preprocess) -> Tensor:
    """Turn n images, of any sizes, into a (n, channels, height, width) tensor."""
    tensor = np.empty((len(images), *spec.shape), np.float32)
    for row, image in enumerate(images):
        prepare_into(tensor[row], image, spec)
    return tensor


def prepare_into(sample: NDArray[np.float32], image: pillow.Image, spec: Preprocess) -> None:
    """Write an image into a (channels, height, width) part of a tensor."""
    # One at a time: what is written stays in the processor's cache until the last step.
    _normalise(cut(image, spec)[None], spec, sample[None])


def normalise(pixels: NDArray[np.uint8], spec: Preprocess) -> Tensor:
    """Turn (n, height, width, channels) pixels of the right size into a tensor."""
    n, height, width, channels = pixels.shape
    tensor = np.empty((n, channels, height, width), np.float32)
    _normalise(pixels, spec, tensor)
    return tensor


def _normalise(pixels: NDArray[np.uint8], spec: Preprocess, tensor: Tensor) -> None:
    """Divide by the divisor, subtract the mean, divide by the standard deviation, as torchvision does.

    Every step rounds to float32: folding them into one multiplication would change the last bits. A table of
    256 results for each channel gives the same bits, and in numpy takes half as long again.
    """
    np.divide(pixels.transpose(0, 3, 1, 2), np.float32(spec.divisor), out=tensor, dtype=np.float32)
    tensor -= np.array(spec.mean, np.float32).reshape(-1, 1, 1)
    tensor /= np.array(spec.std, np.float32).reshape(-1, 1, 1)


def keeps_size(size: tuple[int, int], spec: Preprocess) -> bool:
    """Whether an image of this (height, width) passes through with its pixels unchanged."""
    if size != spec.size:
        return False
    return resized(size, spec) == size


def resized(size: tuple[int, int], spec: Preprocess) -> tuple[int, int]:
    """(height, width) to which an image of a (height, width) is resized, before the crop.

    center: the shorter side fills its side of the target; squash: both sides do, whatever the shape;
    border: the longer side does, and the rest is filled.
    """
    height, width = size
    target_height, target_width = (math.floor(side / spec.crop_pct) for side in spec.size)
    if spec.crop_mode == "squash":
        return target_height, target_width
    if spec.crop_mode == "center" and target_height == target_width:
        # A square target rounds the longer side down; the other cases round to the nearest.
        short, long = min(size), int(target_height * max(size) / min(size))
        return (target_height, long) if height == short else (long, target_height)
    ratios = height / target_height, width / target_width
    ratio = max(ratios) if spec.crop_mode == "border" else min(ratios)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def cut(image: pillow.Image, spec: Preprocess) -> NDArray[np.uint8]:
    """Resize and crop to (height, width, channels)."""
    mode = "RGB" if spec.channels == 3 else "L"
    if image.mode != mode:
        image = image.convert(mode)
    height, width = resized((image.height, image.width), spec)
    if height < spec.size[0] or width < spec.size[1]:
        image = _filled(image.resize((width, height), FILTERS[spec.interpolation]), spec)
        width, height = image.size
    # Rounded as timm does, which is not the same as halving.
    top, left = round((height - spec.size[0]) / 2), round((width - spec.size[1]) / 2)
    crop = (left, top, left + spec.size[1], top + spec.size[0])
    pixels = resize_pixels(image, (width, height), crop, FILTERS[spec.interpolation])
    return pixels.reshape(*spec.size, spec.channels)


def _filled(image: pillow.Image, spec: Preprocess) -> pillow.Image:
    """Fill around an image that is smaller than the target."""
    height, width = spec.size
    canvas = pillow.new(image.mode, (max(width, image.width), max(height, image.height)), fill(spec))
    canvas.paste(image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2))
    return canvas


def fill(spec: Preprocess) -> int | tuple[int, ...]:
    """Black, or for border the mean colour, which normalisation turns into zero."""
    if spec.crop_mode != "border":
        return 0
    fill = tuple(min(255, max(0, round(spec.divisor * mean))) for mean in spec.mean)
    return fill if len(fill) > 1 else fill[0]
