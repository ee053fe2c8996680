"""Resizing with compiled passes where numba is installed, and where they give Pillow's bytes."""

import ctypes
import logging
import math
import threading
from contextlib import suppress
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow
from PIL import __version__ as PILLOW

from encas.runtime.axis import REACH, Axis, is_tall

Pixels = NDArray[np.uint8]

_log = logging.getLogger("encas.runtime")
# Pixels of an image below which Pillow is as fast.
_WORTH_IT = 2**12
_LOADING = threading.Lock()
_SHOWS_MEMORY = int(PILLOW.partition(".")[0]) >= 13


def kernels(image: pillow.Image) -> ModuleType | None:
    """Return the compiled passes if they are worth it for this image and can be relied on."""
    if image.width * image.height < _WORTH_IT:
        return None
    with _LOADING:
        return _checked()


@cache
def _checked() -> ModuleType | None:
    passes = load()
    return passes if passes is not None and agrees(passes) else None


def load() -> ModuleType | None:
    """Import the compiled passes, which takes numba; it is compiled at the first import of all."""
    try:
        from encas.runtime import resize_kernels  # noqa: PLC0415
    except ImportError:
        return None
    except Exception as error:  # a compiler has many ways to fail, and Pillow resizes all the same
        _log.warning("numba cannot compile resizing here, Pillow resizes: %s", error)
        return None
    return resize_kernels


def agrees(passes: ModuleType) -> bool:
    """Whether a small image comes out as Pillow makes it."""
    pixels = np.random.default_rng(0).integers(0, 256, (41, 53, 3), np.uint8)
    for image in (pillow.fromarray(pixels), pillow.fromarray(pixels[..., 0])):
        for resample in REACH:
            for size in ((23, 17), (90, 70)):
                x, y = Axis(53, size[0], 3, 20), Axis(41, size[1], 2, 16)
                whole = image.resize(size, resample).crop((3, 2, 20, 16))
                if not np.array_equal(resize(passes, image, x, y, resample), np.asarray(whole)):
                    return False
    return True


def suits(image: pillow.Image, x: Axis, y: Axis, resample: pillow.Resampling) -> bool:
    """Whether the passes can do it."""
    # Here a crop changes nothing about the order of the passes, so that of the whole image counts.
    whole = (axis._replace(start=0, stop=axis.target) for axis in (x, y))
    return resample in REACH and image.mode in ("RGB", "L") and not is_tall(*whole)


def resize(passes: ModuleType, image: pillow.Image, x: Axis, y: Axis, resample: pillow.Resampling) -> Pixels:
    """Resize to (height, width, channels) or, if gray, (height, width), along rows and then along columns."""
    channels, packed = (4, 3) if image.mode == "RGB" else (1, 1)
    first, last = y.needed(REACH[resample])
    step = passes.LANES // channels
    source, owner = _bytes(image, channels)
    rows = _at_least(source[first:last], passes.ROWS, channels * _taps(x, resample, step))
    starts, weights = _weigh(
        passes, x, resample, step, channels, (0, max(x.source, _taps(x, resample, step)))
    )
    taps = _taps(y, resample, passes.TAPS)
    # One byte more than the pixels take, since the last one is written with four.
    between = np.empty((max(len(rows), taps), packed * x.kept + 1), np.uint8)
    along_rows = passes.resize_colours if channels == 4 else passes.resize_grays
    along_rows(rows, starts, weights, between[: len(rows)])
    del owner
    between[len(rows) :] = 0
    starts, weights = _weigh(passes, y, resample, passes.TAPS, 1, (first, len(between)))
    out = np.empty((y.kept, packed * x.kept), np.uint8)
    passes.resize_columns(between, starts, weights, out)
    return out.reshape(y.kept, x.kept, 3) if packed == 3 else out


def _taps(axis: Axis, resample: pillow.Resampling, step: int) -> int:
    """Weights of a pixel, in whole steps."""
    reach = REACH[resample] * max(1.0, axis.source / axis.target)
    return -(-(2 * math.ceil(reach) + 1) // step) * step


def _weigh(
    passes: ModuleType,
    axis: Axis,
    resample: pillow.Resampling,
    step: int,
    repeat: int,
    available: tuple[int, int],
) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Compute starts and weights; available: the first pixel that there is, and how many there are."""
    starts = np.empty(axis.kept, np.intp)
    weights = np.empty((axis.kept, _taps(axis, resample, step) * repeat), np.int32)
    lengths = (axis.source, axis.target, axis.start, *available)
    passes.weigh(*lengths, int(resample), REACH[resample], repeat, starts, weights)
    return starts, weights


def _at_least(pixels: Pixels, n_rows: int, n_bytes: int) -> Pixels:
    """Add rows and columns, which weigh nothing, to an image that has too few for one step."""
    lacking = max(0, n_rows - len(pixels)), max(0, n_bytes - pixels.shape[1])
    return np.pad(pixels, ((0, lacking[0]), (0, lacking[1]))) if any(lacking) else pixels


class _ArrowArray(ctypes.Structure):
    """Arrow's C data interface, in which Pillow shows its memory; see arrow.apache.org/docs/format."""

    _fields_ = (
        ("length", ctypes.c_int64),
        ("null_count", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("n_buffers", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
        ("children", ctypes.POINTER(ctypes.c_void_p)),
        ("dictionary", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )


_pointer_of = ctypes.PyDLL(None).PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def _bytes(image: pillow.Image, channels: int) -> tuple[Pixels, object]:
    """Return the (height, width * channels) memory of an image, and an object that keeps it alive.

    Pillow keeps four bytes for a pixel of RGB. It does not show large images, which lie in several pieces,
    and before version 13 showing them again and again ends the process; these are copied.
    """
    shape = image.height, image.width * channels
    capsule = None
    if _SHOWS_MEMORY:
        with suppress(ValueError):
            _, capsule = image.__arrow_c_array__()
    if capsule is None:
        copied = np.asarray(image.convert("RGBX") if channels == 4 else image)
        return copied.reshape(shape), copied
    array = _ArrowArray.from_address(_pointer_of(capsule, b"arrow_array"))
    if array.n_children:
        array = _ArrowArray.from_address(array.children[0])
    size = shape[0] * shape[1]
    memory = (ctypes.c_uint8 * size).from_address(array.buffers[1] + array.offset)
    return np.ctypeslib.as_array(memory).reshape(shape), capsule
