"""What an architecture is worth: its error on images that it was not trained on, and its MACs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encas.data import LabelledImages
from encas.preprocess import Preprocess
from encas.runtime.images import decode
from encas.runtime.preprocess import cut, normalise
from encas.search.nat.calibrate import answers
from encas.search.nat.folder import at_resolution
from encas.search.nat.macs import count_macs
from encas.search.nat.space import Arch
from encas.search.nat.supernet import Supernet

_BATCH = 250


@dataclass(frozen=True)
class Prepared:
    """Images as networks see them, decoded and resized once for each resolution."""

    images: LabelledImages
    preprocess: Preprocess
    resize: Literal["image", "tensor"] = "image"  # whether its size is left to the architectures
    _pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def pixels(self, resolution: int) -> NDArray[np.uint8]:
        """(n, resolution, resolution, 3), kept in memory."""
        if resolution not in self._pixels:
            spec = self.preprocess.model_copy(update={"size": (resolution, resolution)})
            self._pixels[resolution] = np.stack(
                [cut(decode(image), spec) for part in self.images.batches(_BATCH) for image in part]
            )
        return self._pixels[resolution]

    def tensors(self, resolution: int) -> Iterator[Tensor]:
        """Batches of (b, 3, resolution, resolution), channels last in memory."""
        pixels = self.pixels(self.preprocess.size[0] if self.resize == "tensor" else resolution)
        for start in range(0, len(pixels), _BATCH):
            tensor = torch.from_numpy(normalise(pixels[start : start + _BATCH], self.preprocess))
            yield at_resolution(tensor.to(memory_format=torch.channels_last), resolution)


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
