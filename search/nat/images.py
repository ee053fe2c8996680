"""Images to train on: all in memory as pixels, and drawn in batches that are augmented on the way."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as pillow
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms  # type: ignore[import-untyped]

from encas.data import LabelledImages
from encas.errors import InvalidInput
from encas.runtime.images import decode


@dataclass(frozen=True)
class Pixels:
    """n square images of one size with their labels."""

    images: NDArray[np.uint8]  # (n, side, side, 3)
    labels: NDArray[np.int64]  # (n,)

    def __post_init__(self) -> None:
        """Check the shapes."""
        n, height, width, channels = self.images.shape
        if height != width or channels != 3 or len(self.labels) != n:
            raise ValueError(f"images must be square and in colour, one label each; are {self.images.shape}")

    @property
    def side(self) -> int:
        """Height and width in pixels."""
        return int(self.images.shape[1])

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class Scale:
    """What is done to pixels from 0 to 255 before a network sees them."""

    mean: tuple[float, ...]  # of pixels from 0 to 1, per channel
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """(n, side, side, 3) bytes to (n, 3, side, side) float32, the channels last in memory."""
        factor = 1 / (255 * torch.tensor(self.std, device=pixels.device))
        offset = torch.tensor(self.mean, device=pixels.device) / torch.tensor(self.std, device=pixels.device)
        scaled = pixels.float() * factor - offset
        return scaled.permute(0, 3, 1, 2)


class Batches(Protocol):
    """Batch number i is the same whenever it is asked for: what was stopped goes on with the same images."""

    @property
    def n_per_epoch(self) -> int:
        """How many batches see every image once."""

    def draw(self, index: int, resolution: int) -> tuple[Tensor, Tensor]:
        """(b, 3, resolution, resolution) images and (b,) labels."""


class CroppedAndFlipped:
    """The usual augmentation of small images: moved by some pixels, mirrored at the edges, and flipped."""

    def __init__(self, pixels: Pixels, scale: Scale, size: int, seed: int, *, padding: int = 2) -> None:
        if len(pixels) < size:
            raise InvalidInput(f"training needs at least one batch of {size} images, there are {len(pixels)}")
        self._pixels, self._scale, self._size = pixels, scale, size
        self._seed, self._padding = seed, padding

    @property
    def n_per_epoch(self) -> int:
        """How many batches see every image once; the rest that fills no batch waits for another epoch."""
        return len(self._pixels) // self._size

    def draw(self, index: int, resolution: int) -> tuple[Tensor, Tensor]:
        """(b, 3, resolution, resolution) images and (b,) labels."""
        rows = self._rows(index)
        rng = np.random.default_rng((self._seed, 1, index))
        pixels = _moved(self._pixels.images[rows], rng, self._padding)
        images = resized(self._scale(torch.from_numpy(pixels)), resolution)
        return images, torch.from_numpy(self._pixels.labels[rows])

    def _rows(self, index: int) -> NDArray[np.intp]:
        epoch, batch = divmod(index, self.n_per_epoch)
        order = np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._pixels))
        return order[batch * self._size : (batch + 1) * self._size]


class RandomlyTransformed:
    """What large networks are trained with: random crops of any size, flips and RandAugment."""

    def __init__(self, images: LabelledImages, scale: Scale, size: int, seed: int) -> None:
        if len(images) < size:
            raise InvalidInput(f"training needs at least one batch of {size} images, there are {len(images)}")
        self._images, self._scale, self._size, self._seed = images, scale, size, seed

    @property
    def n_per_epoch(self) -> int:
        """How many batches see every image once; the rest that fills no batch waits for another epoch."""
        return len(self._images) // self._size

    def draw(self, index: int, resolution: int) -> tuple[Tensor, Tensor]:
        """(b, 3, resolution, resolution) images and (b,) labels."""
        epoch, batch = divmod(index, self.n_per_epoch)
        order = np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._images))
        part = self._images.take(order[batch * self._size : (batch + 1) * self._size])
        transform = _random_transform(resolution)
        with _own_chance((self._seed, 1, index)):
            pixels = [
                np.asarray(transform(decode(image).convert("RGB")))
                for image in next(part.batches(self._size))
            ]
        return self._scale(torch.from_numpy(np.stack(pixels))), torch.from_numpy(part.labels)


@cache
def _random_transform(resolution: int) -> Callable[[pillow.Image], pillow.Image]:
    """RandomResizedCrop, flip, and timm's RandAugment of magnitude 9 with deviation 0.5."""
    settings = {"translate_const": int(0.45 * resolution), "img_mean": (124, 116, 104)}
    composed: Callable[[pillow.Image], pillow.Image] = transforms.Compose(
        [
            transforms.RandomResizedCrop(resolution, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            rand_augment_transform("rand-m9-mstd0.5", settings),
        ]
    )
    return composed


@contextmanager
def _own_chance(seed: tuple[int, ...]) -> Iterator[None]:
    """Seed the generators of others' libraries, and leave them as they were."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    first, second = (int(number) for number in np.random.SeedSequence(seed).generate_state(2))
    random.seed(first)
    np.random.seed(second)  # noqa: NPY002
    torch.manual_seed(first)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.random.set_rng_state(states[2])


def resized(images: Tensor, resolution: int) -> Tensor:
    """(n, c, h, w) images at another resolution, antialiased."""
    size = (resolution, resolution)
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def cut_mixed(
    images: Tensor, labels: Tensor, rng: np.random.Generator, *, probability: float, beta: float = 1.0
) -> tuple[Tensor, Tensor, float]:
    """Paste a box of another image into each (CutMix, Yun et al. 2019, arXiv:1905.04899).

    Returns:
        Images, the (b,) labels of what was pasted, and the share of the area that is left of the images.
    """
    if rng.random() >= probability:
        return images, labels, 1.0
    height, width = images.shape[2:]
    order = torch.from_numpy(rng.permutation(len(images)))
    top, bottom, left, right = _box(height, width, rng.beta(beta, beta), rng)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
    return mixed, labels[order], 1 - (bottom - top) * (right - left) / (height * width)


def cut_out(images: Tensor, rng: np.random.Generator, side: int) -> Tensor:
    """Blank a square, the same for a batch, perhaps partly outside (Cutout, arXiv:1708.04552)."""
    height, width = images.shape[2:]
    y, x = int(rng.integers(height)), int(rng.integers(width))
    blanked = images.clone()
    half = side // 2
    blanked[:, :, max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
    return blanked


def _moved(pixels: NDArray[np.uint8], rng: np.random.Generator, padding: int) -> NDArray[np.uint8]:
    """Crop (b, side, side, 3) images after padding by reflection, and flip half of them."""
    b, side = pixels.shape[:2]
    padded = np.pad(pixels, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="reflect")
    y, x = rng.integers(2 * padding + 1, size=(2, b))
    flip = rng.integers(2, size=b).astype(bool)
    columns = np.arange(side)[None].repeat(b, axis=0)
    columns[flip] = columns[flip, ::-1]
    rows = y[:, None] + np.arange(side)
    moved: NDArray[np.uint8] = padded[
        np.arange(b)[:, None, None], rows[:, :, None], (x[:, None] + columns)[:, None, :]
    ]
    return moved


def _box(height: int, width: int, left_over: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A box of the rest of the area around a uniform centre, cut off at the edges."""
    side = np.sqrt(1 - left_over)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    return (
        max(0, y - half_height),
        min(height, y + half_height),
        max(0, x - half_width),
        min(width, x + half_width),
    )
