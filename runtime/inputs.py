"""The images of one call of the executor, from what the caller gave to what a stage's network takes."""

import math
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow

from encas.cascade import Rows
from encas.errors import InvalidInput, TooLarge
from encas.preprocess import Preprocess
from encas.runtime.images import DEFAULT_LIMITS, AnyImage, Limits, decode
from encas.runtime.preprocess import Tensor, keeps_size, normalise, prepare_into

# Parts of a batch for each thread: images differ, and a thread that is done early takes another part.
_PARTS = 4
# Numbers of a tensor below which handing a part to a thread is not worth it: 21 images of 32 x 32.
_PART = 2**16


class Threads:
    """One thread for each processor that this process may use, started when first needed.

    Decoding, resizing and normalising leave Python's lock alone.
    """

    def __init__(self) -> None:
        self._n = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._n, "encas-images")

    def for_parts(self, n: int, size: int, work: Callable[[range], None]) -> None:
        """Call `work` with ranges that together are `range(n)`; what the first of them raises is raised.

        Args:
            n: Samples of a tensor.
            size: Numbers of each.
            work: Prepares a range of them.
        """
        n_parts = min(n, _PARTS * self._n, n * size // _PART)
        if self._n == 1 or n_parts < 2:
            work(range(n))
            return
        edges = [n * part // n_parts for part in range(n_parts + 1)]
        parts = [self._pool.submit(work, range(*pair)) for pair in pairwise(edges)]
        try:
            for part in parts:
                part.result()
        finally:
            for part in parts:
                part.cancel()

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False)


class Decoding:
    """What the calls of one executor may decode and keep; they share this."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        """Begin with nothing kept."""
        self.limits = limits
        self._lock = threading.Lock()
        self._n_kept = 0

    def keeps(self, pixels: int, kept: list[int]) -> bool:
        """Whether so many more pixels may be kept; they are then counted, and noted in `kept`."""
        most = self.limits.kept_pixels
        with self._lock:
            if most is not None and self._n_kept + pixels > most:
                return False
            self._n_kept += pixels
            kept.append(pixels)
        return True

    def release(self, kept: list[int]) -> None:
        """Count what was noted as kept no more."""
        with self._lock:
            self._n_kept -= sum(kept)
            kept.clear()


class Inputs:
    """The images of one call, prepared when a stage first asks, and only for the rows that it asks for.

    An image is decoded once, when it is first needed, and kept for as long as a later stage might want it
    prepared in another way.
    """

    def __init__(
        self,
        specs: Sequence[Preprocess],
        images: Sequence[AnyImage] | NDArray[np.uint8],
        threads: Threads,
        decoding: Decoding | None = None,
    ) -> None:
        self.n = len(images)
        self._decoding = decoding or Decoding()
        self._admitted: dict[int, int] = {}  # row -> its pixels
        self._stopped = False
        self._kept: list[int] = []
        weakref.finalize(self, self._decoding.release, self._kept)
        self.n_resized = 0
        self._specs = specs
        # Pillow's images read their file when first used, which two threads must not do to the same one.
        self._images: Sequence[AnyImage] | NDArray[np.uint8] = (
            images
            if isinstance(images, np.ndarray)
            else [_read(image, row) for row, image in enumerate(images)]
        )
        self._threads = threads
        self._decoded: dict[int, pillow.Image] = {}
        # Index of the preprocessing -> the rows that were prepared, and their tensor.
        self._prepared: dict[int, tuple[Rows, Tensor]] = {}

    @classmethod
    def ready(cls, spec: Preprocess, tensor: Tensor, threads: Threads) -> "Inputs":
        """Take a tensor that the caller has prepared."""
        inputs = cls([spec], np.empty((len(tensor), 0, 0), np.uint8), threads)
        inputs._prepared[0] = (np.arange(len(tensor)), tensor)
        return inputs

    def stop(self) -> None:
        """Decode nothing more, since nobody waits for it; what is under way in other threads then fails."""
        self._stopped = True

    def tensor(self, which: int, rows: Rows) -> Tensor:
        """Return the samples of some rows; a later call asks for the same rows or for fewer."""
        if which in self._prepared:
            have, tensor = self._prepared[which]
            if len(have) != len(rows):
                tensor = tensor[np.searchsorted(have, rows)]
        else:
            tensor = self._prepare(self._specs[which], rows)
            self.n_resized += len(rows)
        self._prepared[which] = (rows, tensor)
        return tensor

    def prepared(self, which: int, rows: Rows) -> Tensor:
        """Prepare rows in any order, for several threads at once; what they decode is kept to the end."""
        if which in self._prepared:  # by the caller
            _, tensor = self._prepared[which]
            return tensor if len(rows) == self.n else tensor[rows]
        return self._made(self._specs[which], rows, self._decoded, keep=len(self._specs) > 1)

    def _prepare(self, spec: Preprocess, rows: Rows) -> Tensor:
        is_last = len(self._prepared) + 1 == len(self._specs)
        decoded, self._decoded = self._decoded, {}  # the other rows are done with
        self._decoding.release(self._kept)
        return self._made(spec, rows, decoded, keep=not is_last)

    def _made(
        self, spec: Preprocess, rows: Rows, decoded: Mapping[int, pillow.Image], *, keep: bool
    ) -> Tensor:
        images = self._images
        if isinstance(images, np.ndarray):
            pixels = images.reshape(*images.shape[:3], -1)
            if keeps_size(pixels.shape[1:3], spec) and pixels.shape[3] == spec.channels:
                return normalise(pixels[rows], spec)
        tensor = np.empty((len(rows), *spec.shape), np.float32)

        def work(part: range) -> None:
            for at in part:
                row = int(rows[at])
                image = decoded[row] if row in decoded else self._decode(row)
                if keep and row not in self._decoded and self._keeps(image):
                    self._decoded[row] = image
                prepare_into(tensor[at], image, spec)

        self._threads.for_parts(len(rows), math.prod(spec.shape), work)
        return tensor

    def _decode(self, row: int) -> pillow.Image:
        def admit(pixels: int) -> None:
            if self._stopped:
                raise InvalidInput("the call was given up")
            self._admitted[row] = pixels
            most = self._decoding.limits.batch_pixels
            if most is not None and sum(list(self._admitted.values())) > most:
                raise TooLarge(
                    f"image {row}: with it, the images of this request have more than {most} pixels; "
                    "send fewer at a time, or smaller ones"
                )

        return decode(self._images[row], f"image {row}", self._decoding.limits, admit)

    def _keeps(self, image: pillow.Image) -> bool:
        return self._decoding.keeps(image.width * image.height, self._kept)


def _read(image: AnyImage, row: int) -> AnyImage:
    return decode(image, f"image {row}") if isinstance(image, pillow.Image) else image
