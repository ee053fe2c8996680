"""A process of its own that makes an ONNX graph compute in int8; see `encas.export.variants`.

    python -m encas.export.quantizer SOURCE.onnx TARGET.onnx CALIBRATION.npy

ONNX Runtime's tools open sessions with a pool of threads of their own, which it refuses in a process where
all sessions share one, as ours do.
"""

import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.registry import QDQRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

_BATCH = 4
_CPU_FLAGS = Path("/proc/cpuinfo")


class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Hands out the images that ranges are told from."""

    def __init__(self, name: str, tensor: NDArray[np.float32]) -> None:
        self._parts: Iterator[NDArray[np.float32]] = (
            tensor[start : start + _BATCH] for start in range(0, len(tensor), _BATCH)
        )
        self._name = name

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next few images, None behind the last."""
        part = next(self._parts, None)
        return None if part is None else {self._name: np.ascontiguousarray(part)}


def quantize(source: Path, target: Path, calibration: Path) -> None:
    """Write `source` with int8 weights (a range for each channel) and uint8 activations, as QDQ nodes.

    The softmax stays in float32: confidences are compared with thresholds, and with 256 values between 0 and
    1 a thousand probabilities miss the sum of 1 by tenths. So does the last layer: the means that come into
    it often lie half-way between two values of 8 bits, and which one they become would depend on the order in
    which they were summed, which depends on how many images are answered together.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        kept = _last_layer(prepared)
        session = InferenceSession(str(prepared), providers=["CPUExecutionProvider"])
        quantize_static(
            prepared,
            target,
            Reader(session.get_inputs()[0].name, np.load(calibration, mmap_mode="r")),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[name for name in QDQRegistry if name != "Softmax"],
            nodes_to_exclude=kept,
            per_channel=True,
            reduce_range=not has_vnni(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _last_layer(path: Path) -> list[str]:
    """Name the last layer with weights, if it is not the only one; all nodes get names for it."""
    model = onnx.load(path)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    onnx.save(model, path)
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    return layers[-1:] if len(layers) > 1 else []


def has_vnni(cpuinfo: Path = _CPU_FLAGS) -> bool:
    """Whether products of uint8 and int8 are summed in 32 bits; older x86 processors saturate at 16.

    Processors that are not x86 do not, and say nothing of it.
    """
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    return "vnni" in text or "avx2" not in text


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    quantize(*map(Path, sys.argv[1:4]))
