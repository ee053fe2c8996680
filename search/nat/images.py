"""Images to train on: all in memory as pixels, and drawn in batches that are augmented on the way."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as pillow
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
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


Wanted = tuple[int, int]  # index and resolution of a batch


class Batches(Protocol):
    """Batch number i is the same whenever it is asked for: what was stopped goes on with the same images."""

    @property
    def n_per_epoch(self) -> int:
        """How many batches see every image once."""

    def stream(self, wanted: Iterable[Wanted]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (b, 3, resolution, resolution) images and (b,) labels of one batch after the other."""


@dataclass(frozen=True)
class Share:
    """The part of each batch that one of several processes draws."""

    rank: int = 0
    of: int = 1

    def rows(self, size: int) -> slice:
        """Which images of a batch.

        Raises:
            InvalidInput: They cannot be shared evenly, or one is left alone: nothing can be normalised by it.
        """
        n, rest = divmod(size, self.of)
        if rest or n < 2:
            raise InvalidInput(
                f"a batch of {size} images cannot be shared by {self.of} processes: "
                f"it must have 2 images or more for each, as many for one as for another"
            )
        return slice(self.rank * n, (self.rank + 1) * n)


class CroppedAndFlipped:
    """The usual augmentation of small images: moved by some pixels, mirrored at the edges, and flipped.

    The shares of all processes together are the batch that one process would draw.
    """

    def __init__(
        self,
        pixels: Pixels,
        scale: Scale,
        size: int,
        seed: int,
        *,
        padding: int = 2,
        share: Share = Share(),
    ) -> None:
        self._order = _Order(len(pixels), size, seed)
        self._pixels, self._scale, self._seed, self._padding = pixels, scale, seed, padding
        self._own = share.rows(size)

    @property
    def n_per_epoch(self) -> int:
        """How many batches see every image once; the rest that fills no batch waits for another epoch."""
        return self._order.n_per_epoch

    def stream(self, wanted: Iterable[Wanted]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches when they are asked for."""
        return (self.draw(index, resolution) for index, resolution in wanted)

    def draw(self, index: int, resolution: int) -> tuple[Tensor, Tensor]:
        """(b, 3, resolution, resolution) images and (b,) labels."""
        rows = self._order.rows(index)
        rng = np.random.default_rng((self._seed, 1, index))
        pixels = _moved(self._pixels.images[rows], rng, self._padding)[self._own]
        images = resized(self._scale(torch.from_numpy(pixels)), resolution)
        return images, torch.from_numpy(self._pixels.labels[rows][self._own])


class RandomlyTransformed:
    """What large networks are trained with: random crops of any size, flips and RandAugment.

    Preparing a batch takes longer than many a training step, so other processes can do it ahead; the batches
    do not depend on how many. The share of each of several training processes has its own chance.
    """

    def __init__(
        self,
        images: LabelledImages,
        scale: Scale,
        size: int,
        seed: int,
        *,
        share: Share = Share(),
        workers: int = 0,
    ) -> None:
        self._order = _Order(len(images), size, seed)
        self._images, self._scale, self._seed, self._workers = images, scale, seed, workers
        self._own = share.rows(size)
        self._chance = (seed, 1) if share.of == 1 else (seed, 1, share.of, share.rank)

    @property
    def n_per_epoch(self) -> int:
        """How many batches see every image once; the rest that fills no batch waits for another epoch."""
        return self._order.n_per_epoch

    def stream(self, wanted: Iterable[Wanted]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches in order; each worker prepares two ahead.

        Raises:
            InvalidInput: A file is damaged, which is told when its batch's turn has come; or a worker died.
        """
        loader: DataLoader[Drawn] = DataLoader(
            _Drawing(self),
            batch_size=None,
            sampler=wanted,
            num_workers=self._workers,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # the loader draws from it, and must not from the common one
        )
        with worker_deaths_told():
            for drawn in loader:
                if isinstance(drawn, str):
                    raise InvalidInput(drawn)
                pixels, labels = drawn
                yield self._scale(torch.from_numpy(pixels)), torch.from_numpy(labels)

    def draw(self, index: int, resolution: int) -> tuple[Tensor, Tensor]:
        """(b, 3, resolution, resolution) images and (b,) labels."""
        pixels, labels = self.pixels(index, resolution)
        return self._scale(torch.from_numpy(pixels)), torch.from_numpy(labels)

    def pixels(self, index: int, resolution: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(b, resolution, resolution, 3) pixels and (b,) labels.

        Raises:
            InvalidInput: Names a file that is damaged.
        """
        part = self._images.take(self._order.rows(index)[self._own])
        transform = _random_transform(resolution)
        with _own_chance((*self._chance, index)):
            images = [transform(decode(image).convert("RGB")) for image in next(part.batches(len(part)))]
        return np.stack([np.asarray(image) for image in images]), part.labels


@contextmanager
def worker_deaths_told() -> Iterator[None]:
    """Say in one line that a process which prepares images died; torch says so wherever the program is then.

    Raises:
        InvalidInput: One died within the block.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InvalidInput(
            "training images: a process that prepares them ended, perhaps for want of memory; "
            "use fewer --workers"
        ) from error


@dataclass(frozen=True)
class _Order:
    """Which images are in a batch: each once in an epoch, in a new order each time."""

    n: int
    size: int
    seed: int

    def __post_init__(self) -> None:
        if self.n < self.size:
            raise InvalidInput(f"training needs at least one batch of {self.size} images, there are {self.n}")

    @property
    def n_per_epoch(self) -> int:
        return self.n // self.size

    def rows(self, index: int) -> NDArray[np.intp]:
        epoch, batch = divmod(index, self.n_per_epoch)
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(self.n)
        return order[batch * self.size : (batch + 1) * self.size]


# What a worker sends: arrays, since tensors would go through shared memory, of which containers have little;
# and what is wrong in words, since the errors of workers arrive as tracebacks.
Drawn = tuple[NDArray[np.uint8], NDArray[np.int64]] | str


@dataclass(frozen=True)
class _Drawing(Dataset[Drawn]):
    batches: RandomlyTransformed

    def __getitem__(self, wanted: Wanted) -> Drawn:
        try:
            return self.batches.pixels(*wanted)
        except InvalidInput as error:
            return str(error)


def _as_it_is(drawn: Any) -> Any:
    return drawn


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
    torch.default_generator.manual_seed(first)
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
