"""Resizing only what a crop keeps, to the same bytes as resizing an image and cropping it.

Pillow resizes in two passes, along rows and then along columns, and rounds to whole levels in between. What a
pixel becomes depends on where it lies in the whole image, and `resize` takes the edges of a part as float32.
So a part can be asked for by itself only where its edges and the scale are binary fractions that float32
holds (as for 224 of 256: any length divided by 256). Otherwise a pass is made for the whole length of its own
direction; across it, it is still made for no more than the crop needs.
"""

from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow

from encas.runtime import resize_compiled
from encas.runtime.axis import REACH, Axis, is_tall

# Share of the pixels above which two passes of our own, with copies in between, save no time.
_WORTH_IT = 0.9


def resize_pixels(
    image: pillow.Image,
    size: tuple[int, int],
    crop: tuple[int, int, int, int],
    resample: pillow.Resampling,
    passes: ModuleType | None = None,
) -> NDArray[np.uint8]:
    """Resize to (width, height) and crop to (left, top, right, bottom), which lies within.

    Args:
        image: RGB or L.
        size: Of the whole.
        crop: The part to return as (height, width, channels) or (height, width).
        resample: Any filter.
        passes: Compiled ones to use whatever the image; by default they are used where they are worth it.
    """
    x, y = Axis(image.width, size[0], crop[0], crop[2]), Axis(image.height, size[1], crop[1], crop[3])
    if image.size != size and resize_compiled.suits(image, x, y, resample):
        passes = passes or resize_compiled.kernels(image)
        if passes is not None:
            return resize_compiled.resize(passes, image, x, y, resample)
    return np.asarray(resize_part(image, size, crop, resample), np.uint8)


def resize_part(
    image: pillow.Image,
    size: tuple[int, int],
    crop: tuple[int, int, int, int],
    resample: pillow.Resampling,
) -> pillow.Image:
    """Resize to (width, height) and crop to (left, top, right, bottom), which lies within."""
    if image.size == size:
        return image if crop == (0, 0, *size) else image.crop(crop)
    x, y = Axis(image.width, size[0], crop[0], crop[2]), Axis(image.height, size[1], crop[1], crop[3])
    if resample not in REACH or (x.kept, y.kept) == size or is_tall(x, y):
        return _whole(image, x, y, resample)
    across, down = x.edges(), y.edges()
    if across and down:
        return image.resize((x.kept, y.kept), resample, (across[0], down[0], across[1], down[1]))
    first, last = y.needed(REACH[resample])
    whole = x.target * (y.source + y.target)
    part = (x.kept if across else x.target) * (last - first) + x.kept * (y.kept if down else y.target)
    if part > _WORTH_IT * whole:
        return _whole(image, x, y, resample)
    return _in_passes(image, x, y, resample)


def _whole(image: pillow.Image, x: Axis, y: Axis, resample: pillow.Resampling) -> pillow.Image:
    image = image.resize((x.target, y.target), resample)
    return image.crop((x.start, y.start, x.stop, y.stop)) if image.size != (x.kept, y.kept) else image


def _in_passes(image: pillow.Image, x: Axis, y: Axis, resample: pillow.Resampling) -> pillow.Image:
    first, last = y.needed(REACH[resample])
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
