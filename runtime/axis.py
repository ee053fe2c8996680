"""One direction of resizing, and which part of it is kept."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image as pillow

# How far to either side a filter reaches, in pixels of the smaller image.
REACH = {
    pillow.Resampling.BOX: 0.5,
    pillow.Resampling.BILINEAR: 1.0,
    pillow.Resampling.HAMMING: 1.0,
    pillow.Resampling.BICUBIC: 2.0,
    pillow.Resampling.LANCZOS: 3.0,
}


class Axis(NamedTuple):
    """One direction: `source` pixels are resized to `target`, of which `start` to `stop` are kept."""

    source: int
    target: int
    start: int
    stop: int

    @property
    def kept(self) -> int:
        """How many pixels there are in the end."""
        return self.stop - self.start

    def edges(self) -> tuple[float, float] | None:
        """Where the kept part lies in the source, if float32 can say it and the scale exactly."""
        if self.kept == self.target:
            return 0.0, float(self.source)
        odd = self.target // (self.target & -self.target)
        if self.source % odd:
            return None
        scale = self.source / self.target
        edges = self.start * scale, self.stop * scale
        exact = all(float(np.float32(edge)) == edge for edge in (*edges, edges[1] - edges[0]))
        return edges if exact else None

    def needed(self, reach: float) -> tuple[int, int]:
        """Pixels of the source that the kept part is made of, and one to either side."""
        scale = self.source / self.target
        reach *= max(1.0, scale)
        first, last = math.floor(self.start * scale - reach) - 1, math.ceil(self.stop * scale + reach) + 1
        return max(0, first), min(self.source, last)


def is_tall(x: Axis, y: Axis) -> bool:
    """Whether Pillow might resize columns first: since version 13, if more than twice as much is lost there.

    That is decided by the size that is asked for, so neither the whole nor the part may be that tall.
    """
    return any(
        y.source > rows and y.source - rows > 2 * (x.source - columns)
        for rows, columns in ((y.target, x.target), (y.kept, x.kept))
    )
