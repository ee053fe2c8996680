"""Preparing images of one size inside an ONNX graph, to the same bytes as Pillow and the runtime do.

Resizing an image whose size is known is a product with a matrix of weights along rows, and another one along
columns. Pillow's weights are whole numbers of 2^-22, and float64 holds their sums exactly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image as pillow

from encas.errors import InvalidInput
from encas.export.nodes import Nodes
from encas.preprocess import Preprocess
from encas.runtime.axis import REACH
from encas.runtime.preprocess import FILTERS, cut, fill, resized

_BITS = 22  # behind the point of Pillow's weights
_LEVELS, _MOST_LEVELS = 2**11, 2**22  # to compare orders by: that come out, and that go in
_GRAY = np.array([19595, 38470, 7471]) / 2**16  # Pillow's weights of red, green and blue
_ROWS, _COLUMNS = 2, 3  # axes of (n, channels, height, width)

Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Pass:
    """One direction of resizing and cropping, from source to kept pixels."""

    axis: int  # _ROWS: columns of pixels are made shorter; _COLUMNS: rows are
    weights: Weights  # (kept, source)

    @property
    def is_crop(self) -> bool:
        """Whether it keeps pixels next to each other as they are."""
        start = int(np.argmax(self.weights[0]))
        return np.array_equal(self.weights, np.eye(self.weights.shape[1])[start : start + len(self.weights)])

    def apply(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Do it to (n, channels, height, width) whole numbers."""
        sums = self.weights @ pixels if self.axis == _ROWS else pixels @ self.weights.T
        whole: NDArray[np.float64] = np.clip(np.floor(sums + 0.5), 0, 255)
        return whole


def add_preparation(nodes: Nodes, pixels: str, shape: Sequence[int], spec: Preprocess) -> str:
    """Add what turns uint8 images into what a network takes.

    Args:
        nodes: Of the graph in which the images are.
        pixels: Name of the images, uint8 (n, height, width, channels).
        shape: Height, width and channels; 3 channels, unless all networks take 1.
        spec: What to do.

    Returns:
        The name of the float32 tensor (n, channels, height, width).

    Raises:
        InvalidInput: Here Pillow resizes in a way that is not known.
    """
    height, width, channels = shape
    passes, background = plan(height, width, spec)
    current = nodes.add("Transpose", [pixels], "channels_first", perm=[0, 3, 1, 2])
    if channels != spec.channels:
        current = _add_gray(nodes, current)
    for number, one in enumerate(passes):
        current = _add_pass(nodes, current, one, number)
    if background is not None:
        current = nodes.add("Cast", [current], "before_background", to=TensorProto.DOUBLE)
        current = nodes.add("Add", [current, nodes.constant(background, "background")], "on_background")
    current = nodes.add("Cast", [current], "levels", to=TensorProto.FLOAT)
    # One step after the other, as the runtime does: each rounds to float32.
    current = nodes.add("Div", [current, nodes.constant(np.float32(spec.divisor), "divisor")], "divided")
    for operator, name, values in (("Sub", "centred", spec.mean), ("Div", "prepared", spec.std)):
        factor = nodes.constant(np.array(values, np.float32).reshape(-1, 1, 1), f"{name}_by")
        current = nodes.add(operator, [current, factor], name)
    return current


def plan(height: int, width: int, spec: Preprocess) -> tuple[list[Pass], Weights | None]:
    """Say how an image is resized, and what is added to it where it does not fill the target.

    Raises:
        InvalidInput: Here Pillow resizes in a way that is not known.
    """
    target = resized((height, width), spec)
    across = Pass(_COLUMNS, _weights(width, target[1], spec.size[1], spec))
    down = Pass(_ROWS, _weights(height, target[0], spec.size[0], spec))
    background = _background(target, spec)
    # Both orders often agree on a level, so there must be many of them.
    n = min(-(-_LEVELS // math.prod(spec.shape)), max(1, _MOST_LEVELS // (height * width)))
    samples = np.random.default_rng(0).integers(0, 256, (n, height, width, spec.channels), np.uint8)
    images = samples[..., 0] if spec.channels == 1 else samples
    expected = np.stack([cut(pillow.fromarray(image), spec) for image in images])
    for passes in ([across, down], [down, across]):  # which comes first is up to Pillow's version
        found = samples.transpose(0, 3, 1, 2).astype(np.float64)
        for one in passes:
            found = one.apply(found)
        found = found if background is None else found + background
        if np.array_equal(found.transpose(0, 2, 3, 1), expected):
            return passes, background
    raise InvalidInput(
        f"image size {height}x{width}: the installed Pillow resizes it to {target[0]}x{target[1]} in a way "
        "that the single file cannot repeat; leave the preparing outside"
    )


def _add_gray(nodes: Nodes, pixels: str) -> str:
    exact = nodes.add("Cast", [pixels], "colours", to=TensorProto.DOUBLE)
    parts = nodes.add("Mul", [exact, nodes.constant(_GRAY.reshape(3, 1, 1), "gray_weights")], "gray_parts")
    total = nodes.add(
        "ReduceSum", [parts, nodes.constant(np.array([1]), "colour_axis")], "gray_sum", keepdims=1
    )
    return _add_rounding(nodes, total, "gray")


def _add_rounding(nodes: Nodes, values: str, name: str) -> str:
    half = nodes.add("Add", [values, nodes.constant(np.float64(0.5), f"{name}_half")], f"{name}_raised")
    return nodes.add("Floor", [half], f"{name}_whole")


def _add_pass(nodes: Nodes, pixels: str, one: Pass, number: int) -> str:
    name = f"pass{number}"
    used = np.flatnonzero(one.weights.any(axis=0))
    first, last = int(used[0]), int(used[-1]) + 1
    if last - first < one.weights.shape[1]:
        edges = [
            nodes.constant(np.array([edge]), f"{name}_{what}")
            for what, edge in (("first", first), ("last", last))
        ]
        pixels = nodes.add(
            "Slice", [pixels, *edges, nodes.constant(np.array([one.axis]), f"{name}_axis")], f"{name}_part"
        )
    if one.is_crop:
        return pixels
    exact = nodes.add("Cast", [pixels], f"{name}_exact", to=TensorProto.DOUBLE)
    weights = one.weights[:, first:last]
    factors = nodes.constant(weights if one.axis == _ROWS else weights.T.copy(), f"{name}_weights")
    pair = [factors, exact] if one.axis == _ROWS else [exact, factors]
    whole = _add_rounding(nodes, nodes.add("MatMul", pair, f"{name}_sums"), name)
    limits = [
        nodes.constant(np.float64(limit), f"{name}_{what}") for what, limit in (("least", 0), ("most", 255))
    ]
    return nodes.add("Clip", [whole, *limits], f"{name}_levels")


def _weights(source: int, target: int, size: int, spec: Preprocess) -> Weights:
    """(size, source) weights: resized to `target`, and cut or filled to `size` around the middle."""
    whole = _resizing(source, target, spec)
    if target >= size:
        start = round((target - size) / 2)  # as the runtime crops
        return whole[start : start + size]
    filled = np.zeros((size, source))
    start = (size - target) // 2  # as it pastes
    filled[start : start + target] = whole
    return filled


def _resizing(source: int, target: int, spec: Preprocess) -> Weights:
    """(target, source) weights of one of Pillow's passes."""
    if source == target:
        return np.eye(source)
    resample = FILTERS[spec.interpolation]
    if resample == pillow.Resampling.NEAREST:
        ramp = pillow.fromarray(np.arange(source, dtype=np.int32)[None])
        nearest: Weights = np.eye(source)[np.asarray(ramp.resize((target, 1), resample))[0]]
        return nearest
    scale = source / target
    stretch = max(scale, 1.0)
    reach = REACH[resample] * stretch
    weights = np.zeros((target, source))
    for pixel in range(target):
        centre = (pixel + 0.5) * scale
        begin, end = max(0, int(centre - reach + 0.5)), min(source, int(centre + reach + 0.5))
        distances = (np.arange(begin, end) - centre + 0.5) * (1.0 / stretch)
        values = _filter(resample, distances)
        shares = values / np.cumsum(values)[-1] * 2**_BITS
        weights[pixel, begin:end] = np.trunc(shares + np.copysign(0.5, shares)) / 2**_BITS
    return weights


def _filter(resample: pillow.Resampling, x: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """How much pixels at a distance count."""
    near = np.abs(x)
    if resample == pillow.Resampling.BOX:
        return ((x > -0.5) & (x <= 0.5)).astype(np.float64)
    if resample == pillow.Resampling.BILINEAR:
        return np.asarray(np.maximum(0.0, 1.0 - near))
    if resample == pillow.Resampling.HAMMING:
        factor = float(np.float32(0.54)) + float(np.float32(0.46)) * np.cos(near * np.pi)
        hamming: Weights = np.where(near < 1, np.sinc(near) * factor, 0.0)
        return hamming
    if resample == pillow.Resampling.BICUBIC:
        inner = (1.5 * near - 2.5) * near * near + 1.0
        outer = (((near - 5.0) * near + 8.0) * near - 4.0) * -0.5
        bicubic: Weights = np.where(near < 1, inner, np.where(near < 2, outer, 0.0))
        return bicubic
    lanczos: Weights = np.where(near < 3, np.sinc(near) * np.sinc(near / 3.0), 0.0)
    return lanczos


def _background(target: tuple[int, int], spec: Preprocess) -> Weights | None:
    """(channels, height, width) levels around an image that does not fill the target, else 0."""
    if all(side >= size for side, size in zip(target, spec.size, strict=True)):
        return None
    levels = np.empty(spec.shape)
    levels[:] = np.reshape(fill(spec), (-1, 1, 1))
    (top, height), (left, width) = (
        (max(0, (size - side) // 2), side) for side, size in zip(target, spec.size, strict=True)
    )
    levels[:, top : top + height, left : left + width] = 0
    return levels
