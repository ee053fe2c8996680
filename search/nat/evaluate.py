"""What an architecture is worth: its error on images that it was not trained on, and its MACs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encas.data import Image, LabelledImages
from encas.preprocess import Preprocess
from encas.runtime.images import decode
from encas.runtime.preprocess import cut, normalise
from encas.search.nat.calibrate import answers
from encas.search.nat.folder import at_resolution
from encas.search.nat.macs import count_macs
from encas.search.nat.space import Arch
from encas.search.nat.supernet import Supernet

_BATCH = 250
_KEPT_BYTES = 2 * 2**30  # of pixels: 17 resolutions of 10,000 images would be 24 GiB


@dataclass(frozen=True)
class Prepared:
    """Images as networks see them, decoded and resized once for each resolution while there is room."""

    images: LabelledImages
    preprocess: Preprocess
    resize: Literal["image", "tensor"] = "image"  # whether its size is left to the architectures
    kept_bytes: int = _KEPT_BYTES
    _pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)  # what was used last comes last

    def pixels(self, resolution: int) -> NDArray[np.uint8]:
        """(n, resolution, resolution, 3), kept in memory; resolutions that were not asked for lately go."""
        if resolution not in self._pixels:
            room = self.kept_bytes - self._bytes(resolution)
            while self._pixels and sum(map(self._bytes, self._pixels)) > room:
                del self._pixels[next(iter(self._pixels))]
            parts = [self._prepared(part, resolution) for part in self.images.batches(_BATCH)]
            self._pixels[resolution] = np.concatenate(parts)
        self._pixels[resolution] = self._pixels.pop(resolution)
        return self._pixels[resolution]

    def tensors(self, resolution: int) -> Iterator[Tensor]:
        """Batches of (b, 3, resolution, resolution), channels last in memory."""
        for pixels in self._parts(self.preprocess.size[0] if self.resize == "tensor" else resolution):
            tensor = torch.from_numpy(normalise(pixels, self.preprocess))
            yield at_resolution(tensor.to(memory_format=torch.channels_last), resolution)

    def _parts(self, side: int) -> Iterator[NDArray[np.uint8]]:
        if self._bytes(side) > self.kept_bytes:  # prepared anew each time
            yield from (self._prepared(part, side) for part in self.images.batches(_BATCH))
            return
        pixels = self.pixels(side)
        yield from (pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH))

    def _prepared(self, images: Sequence[Image], side: int) -> NDArray[np.uint8]:
        spec = self.preprocess.model_copy(update={"size": (side, side)})
        return np.stack([cut(decode(image), spec) for image in images])

    def _bytes(self, side: int) -> int:
        return len(self.images) * side * side * 3


@dataclass(frozen=True)
class Judge:
    """Evaluates architectures on the same images, after calibration on others."""

    val: Prepared
    calibration: Prepared

    def objectives(self, supernet: Supernet, arch: Arch) -> tuple[float, int]:
        """Error in [0, 1], and multiply-accumulates of one image."""
        probs = answers(
            supernet,
            arch,
            self.val.tensors(arch.resolution),
            calibration=self.calibration.tensors(arch.resolution),
        )
        error = float(np.mean(probs.argmax(axis=1) != self.val.images.labels))
        return error, count_macs(supernet.space, arch, supernet.n_classes)
