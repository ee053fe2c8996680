"""Pillow's two passes, compiled: the same integers, added many at once.

A pixel is the sum of pixels under the filter, each times a weight that is rounded to 22 bits after the point.
Sums are integers, so the order of adding is free. Weights are padded with zeros to a whole number of steps;
where these would reach beyond the end, all of them begin earlier instead.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Weights = NDArray[np.int32]

LANES = 16  # bytes of a row that are taken at once, which is as many pixels, or a quarter as many
ROWS = 4  # rows that share one reading of the weights
TAPS = 4  # rows that are added at once
_BITS = 22
_BOX, _BILINEAR, _HAMMING, _BICUBIC = 4, 2, 5, 3  # Pillow's numbers


def _compiled(signature: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile now, or load what was compiled before; nothing is kept where nothing can be written."""

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(signature, nogil=True, cache=True, error_model="numpy")(function)  # type: ignore[no-any-return]
        except (RuntimeError, OSError):
            return njit(signature, nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]

    return compiled


@njit(inline="always")
def _filter(kind: int, x: float) -> float:  # noqa: PLR0911
    """How much a pixel at a distance counts."""
    if kind == _BOX:
        return 1.0 if -0.5 < x <= 0.5 else 0.0
    x = abs(x)
    if kind == _BILINEAR:
        return 1.0 - x if x < 1.0 else 0.0
    if kind == _HAMMING:
        if x == 0.0:
            return 1.0
        if x >= 1.0:
            return 0.0
        x *= math.pi
        return math.sin(x) / x * (float(np.float32(0.54)) + float(np.float32(0.46)) * math.cos(x))
    if kind == _BICUBIC:
        if x < 1.0:
            return (1.5 * x - 2.5) * x * x + 1.0
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0
    if x == 0.0:
        return 1.0
    if x >= 3.0:
        return 0.0
    x, third = x * math.pi, x / 3.0 * math.pi
    return math.sin(x) / x * (math.sin(third) / third)


_I8, _I32, _I64 = types.uint8, types.int32, types.intp


@_compiled(types.void(_I64, _I64, _I64, _I64, _I64, _I64, types.float64, _I64, _I64[::1], _I32[:, ::1]))
def weigh(
    source: int,
    target: int,
    start: int,
    first: int,
    available: int,
    kind: int,
    reach: float,
    repeat: int,
    starts: NDArray[np.intp],
    weights: Weights,
) -> None:
    """Compute where each pixel's weights begin, and the weights.

    Args:
        source: Length of the image in this direction.
        target: What it is resized to.
        start: First pixel of that to compute.
        first: Pixel of the source that is number 0 of what is available.
        available: So many pixels there are from there on.
        kind: Pillow's number of the filter.
        reach: Of the filter, in pixels of the smaller image.
        repeat: How often each weight stands, one for each byte of a pixel.
        starts: (n,) filled.
        weights: (n, taps * repeat) filled.
    """
    scale = source / target
    stretch = max(scale, 1.0)
    support, shrink, taps = reach * stretch, 1.0 / stretch, weights.shape[1] // repeat
    values = np.empty(taps)
    for at in range(len(starts)):
        center = (start + at + 0.5) * scale
        begin, end = max(0, int(center - support + 0.5)), min(source, int(center + support + 0.5))
        total = 0.0
        for k in range(end - begin):
            values[k] = _filter(kind, (k + begin - center + 0.5) * shrink)
            total += values[k]
        starts[at] = max(0, min(begin - first, available - taps))
        weights[at] = 0
        shift = begin - first - starts[at]
        for k in range(end - begin):
            value = (values[k] / total if total != 0.0 else values[k]) * (1 << _BITS)
            rounded = np.int32(value - 0.5 if value < 0 else value + 0.5)
            for byte in range(repeat):
                weights[at, (shift + k) * repeat + byte] = rounded


def _row_sums(channels: int) -> Any:
    """Make the function that computes one pixel of each of ROWS rows."""

    @intrinsic
    def sums(  # type: ignore[no-untyped-def]
        typing_context,  # noqa: ARG001
        source,
        row,
        column,
        weights,
        at,
        out,
        out_row,
        out_column,
    ):
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, row, column, weights, at, out, out_row, out_column = args
            i8, i32 = ir.IntType(8), ir.IntType(32)
            wide = ir.VectorType(i32, LANES)

            def address(array: Any, number: int, row: Any, column: Any) -> Any:
                """Of an element, in bytes from the beginning."""
                struct = context.make_array(signature.args[number])(context, builder, array)
                offset = builder.mul(builder.extract_value(struct.strides, 0), row)
                offset = builder.add(offset, column)
                return builder.gep(builder.bitcast(struct.data, i8.as_pointer()), [offset])

            def constant(values: list[int]) -> Any:
                return ir.Constant(ir.VectorType(i32, len(values)), values)

            index = at.type
            rows = [builder.add(row, index(r)) for r in range(ROWS)]
            begins = [address(source, 0, one, column) for one in rows]
            factors = address(weights, 3, at, index(0))
            half = constant([1 << (_BITS - 1)] * channels + [0] * (LANES - channels))
            totals = [cgutils.alloca_once_value(builder, half) for _ in rows]  # type: ignore[no-untyped-call]
            width = context.make_array(signature.args[3])(context, builder, weights).shape
            steps = builder.udiv(builder.extract_value(width, 1), index(LANES))
            with cgutils.for_range(builder, steps) as loop:
                offset = builder.mul(loop.index, index(LANES))
                place = builder.gep(factors, [builder.mul(offset, index(4))])
                factor = builder.load(builder.bitcast(place, wide.as_pointer()), align=4)
                for begin, total in zip(begins, totals, strict=True):
                    place = builder.gep(begin, [offset])
                    narrow = ir.VectorType(i8, LANES)
                    pixels = builder.load(builder.bitcast(place, narrow.as_pointer()), align=1)
                    product = builder.mul(builder.zext(pixels, wide), factor)
                    builder.store(builder.add(builder.load(total), product), total)
            for r, total in enumerate(totals):
                value, lanes = builder.load(total), LANES
                while lanes > channels:
                    lanes //= 2
                    low = builder.shuffle_vector(value, value, constant(list(range(lanes))))
                    high = builder.shuffle_vector(value, value, constant(list(range(lanes, 2 * lanes))))
                    value = builder.add(low, high)
                value = builder.ashr(value, constant([_BITS] * lanes))
                for limit, sign in ((0, "<"), (255, ">")):
                    limits = constant([limit] * lanes)
                    value = builder.select(builder.icmp_signed(sign, value, limits), limits, value)
                narrow = ir.VectorType(i8, lanes)
                place = address(out, 5, builder.add(out_row, index(r)), out_column)
                builder.store(
                    builder.trunc(value, narrow), builder.bitcast(place, narrow.as_pointer()), align=1
                )
            return context.get_dummy_value()

        return types.void(source, row, column, weights, at, out, out_row, out_column), generate

    return sums


_sums_of_colours, _sums_of_grays = _row_sums(4), _row_sums(1)
_SOURCE = types.Array(_I8, 2, "C", readonly=True)
_PASS = types.void(_SOURCE, _I64[::1], _I32[:, ::1], _I8[:, ::1])


@_compiled(_PASS)
def resize_colours(source: Pixels, starts: NDArray[np.intp], weights: Weights, out: Pixels) -> None:
    """Resize along rows from four bytes a pixel to three.

    Args:
        source: (rows, 4 * columns), at least ROWS and as many columns as there are weights.
        starts: (n,) see `weigh`.
        weights: (n, LANES * steps), each one four times.
        out: (rows, 3 * n + 1 or more) filled; what is behind the last pixel is of no use.
    """
    n_rows = len(out)
    for block in range(0, n_rows, ROWS):
        row = min(block, n_rows - ROWS)
        for at in range(len(starts)):
            _sums_of_colours(source, row, 4 * starts[at], weights, at, out, row, 3 * at)


@_compiled(_PASS)
def resize_grays(source: Pixels, starts: NDArray[np.intp], weights: Weights, out: Pixels) -> None:
    """Resize along rows, one byte a pixel; see `resize_colours`."""
    n_rows = len(out)
    for block in range(0, n_rows, ROWS):
        row = min(block, n_rows - ROWS)
        for at in range(len(starts)):
            _sums_of_grays(source, row, starts[at], weights, at, out, row, at)


@_compiled(_PASS)
def resize_columns(source: Pixels, starts: NDArray[np.intp], weights: Weights, out: Pixels) -> None:
    """Resize along columns.

    Args:
        source: (rows, bytes or more), as many rows as there are weights, or more.
        starts: (n,) see `weigh`.
        weights: (n, TAPS * steps).
        out: (n, bytes) filled.
    """
    width = out.shape[1]
    sums = np.empty(width, np.int32)
    for at in range(len(starts)):
        sums[:] = 1 << (_BITS - 1)
        for k in range(0, weights.shape[1], TAPS):
            w0, w1, w2, w3 = weights[at, k], weights[at, k + 1], weights[at, k + 2], weights[at, k + 3]
            row = starts[at] + k
            for x in range(width):
                sums[x] += (
                    np.int32(source[row, x]) * w0
                    + np.int32(source[row + 1, x]) * w1
                    + np.int32(source[row + 2, x]) * w2
                    + np.int32(source[row + 3, x]) * w3
                )
        for x in range(width):
            out[at, x] = min(max(sums[x] >> _BITS, 0), 255)
