"""Resizing only what a crop keeps, to the same bytes as resizing an image and cropping it.

Pillow resizes in two passes, along rows and then along columns, and rounds to whole levels in between. What a
pixel becomes depends on where it lies in the whole image, and `resize` takes the edges of a part as float32.
So a part can be asked for by itself only where its edges and the scale are binary fractions that float32
holds (as for 224 of 256: any length divided by 256). Otherwise a pass is made for the whole length of its own
direction; across it, it is still made for no more than the crop needs.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image as pillow

# How far to either side a filter reaches, in pixels of the smaller image.
_REACH = {
    pillow.Resampling.BOX: 0.5,
    pillow.Resampling.BILINEAR: 1.0,
    pillow.Resampling.HAMMING: 1.0,
    pillow.Resampling.BICUBIC: 2.0,
    pillow.Resampling.LANCZOS: 3.0,
}
# Share of the pixels above which two passes of our own, with copies in between, save no time.
_WORTH_IT = 0.9


class _Axis(NamedTuple):
    """One direction: `source` pixels are resized to `target`, of which `start` to `stop` are kept."""

    source: int
    target: int
    start: int
    stop: int

    @property
    def kept(self) -> int:
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


def resize_part(
    image: pillow.Image,
    size: tuple[int, int],
    crop: tuple[int, int, int, int],
    resample: pillow.Resampling,
) -> pillow.Image:
    """Resize to (width, height) and crop to (left, top, right, bottom), which lies within."""
    if image.size == size:
        return image if crop == (0, 0, *size) else image.crop(crop)
    x, y = _Axis(image.width, size[0], crop[0], crop[2]), _Axis(image.height, size[1], crop[1], crop[3])
    if resample not in _REACH or (x.kept, y.kept) == size or _is_tall(x, y):
        return _whole(image, x, y, resample)
    across, down = x.edges(), y.edges()
    if across and down:
        return image.resize((x.kept, y.kept), resample, (across[0], down[0], across[1], down[1]))
    first, last = y.needed(_REACH[resample])
    whole = x.target * (y.source + y.target)
    part = (x.kept if across else x.target) * (last - first) + x.kept * (y.kept if down else y.target)
    if part > _WORTH_IT * whole:
        return _whole(image, x, y, resample)
    return _in_passes(image, x, y, resample)


def _whole(image: pillow.Image, x: _Axis, y: _Axis, resample: pillow.Resampling) -> pillow.Image:
    image = image.resize((x.target, y.target), resample)
    return image.crop((x.start, y.start, x.stop, y.stop)) if image.size != (x.kept, y.kept) else image


def _is_tall(x: _Axis, y: _Axis) -> bool:
    """Whether Pillow might resize columns first: since version 13, if more than twice as much is lost there.

    That is decided by the size that is asked for, so neither the whole nor the part may be that tall.
    """
    return any(
        y.source > rows and y.source - rows > 2 * (x.source - columns)
        for rows, columns in ((y.target, x.target), (y.kept, x.kept))
    )


def _in_passes(image: pillow.Image, x: _Axis, y: _Axis, resample: pillow.Resampling) -> pillow.Image:
    first, last = y.needed(_REACH[resample])
    rows = image if last - first == y.source else image.crop((0, first, x.source, last))
    across, down = x.edges(), y.edges()
    if across:
        rows = rows.resize((x.kept, rows.height), resample, (across[0], 0, across[1], rows.height))
    else:
        rows = rows.resize((x.target, rows.height), resample).crop((x.start, 0, x.stop, rows.height))
    if down:
        box = (0, down[0] - first, x.kept, down[1] - first)
        return rows.resize((x.kept, y.kept), resample, box)
    if rows.height != y.source:
        # The rows where they were; nobody looks at what is above and below.
        canvas = pillow.new(rows.mode, (x.kept, y.source), None)
        canvas.paste(rows, (0, first))
        rows = canvas
    return rows.resize((x.kept, y.target), resample).crop((0, y.start, x.kept, y.stop))
