"""An ONNX file as a member: recorded in ONNX Runtime, exported with a free batch axis and a softmax."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from encas.errors import InvalidInput, require
from encas.export import graph
from encas.export.macs import count_graph_macs
from encas.member import Precision
from encas.preprocess import Preprocess
from encas.runtime import Session, open_session

_CLOSE = 1e-3  # what two runs of one network may differ by in a probability


@dataclass(frozen=True)
class OnnxNetwork:
    """See `encas.export.source.Network`."""

    model: onnx.ModelProto  # free batch axis, ends in a softmax
    session: Session
    preprocess: Preprocess
    n_classes: int
    macs: int
    params: int
    precision: Precision
    engine: str

    def probs(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, c) softmax outputs for (n, channels, height, width) inputs."""
        return self.session.run(tensor)

    def write_onnx(self, path: Path) -> None:
        """Write it as an ONNX graph with a free batch axis that does what `probs` does."""
        graph.save(self.model, path)


def open_onnx(path: Path, preprocess: Preprocess, device: str) -> OnnxNetwork:
    """Open a classifier that takes images and answers with logits or probabilities.

    Raises:
        InvalidInput: Not such a graph, its input has another shape than the preprocessing, or its batch axis
            is fixed and cannot be freed.
    """
    place = str(path)
    original = graph.load(path)
    batch, *sample = graph.dims_of(graph.image_input(original, place))
    if any(side not in (None, wanted) for side, wanted in zip(sample, preprocess.shape, strict=True)):
        found = ", ".join("?" if side is None else str(side) for side in sample)
        raise InvalidInput(
            f"{place}: takes samples of shape ({found}), the preprocessing makes {preprocess.shape}"
        )
    if batch not in (None, 1):
        raise InvalidInput(f"{place}: takes {batch} samples at a time; export it with a free batch axis")
    graph.class_output(original, place)
    freed = graph.with_free_batch(original, place)
    given = _answers(freed, 2, preprocess, device, place)
    if batch == 1:
        _check_freed(original, given, preprocess, device, place)
    if given.ndim != 2 or len(given) != 2:
        raise InvalidInput(f"{place}: must answer 2 samples with (2, classes), answers with {given.shape}")
    _check_answers(freed, given, place)
    named = graph.with_classes(freed, place, given.shape[1])
    model = named if is_distribution(given) else graph.with_softmax(named, place)
    return OnnxNetwork(
        model=model,
        session=open_session(model.SerializeToString(), device),
        preprocess=preprocess,
        n_classes=given.shape[1],
        macs=count_graph_macs(original, preprocess.shape, place),
        params=_count_weights(original),
        precision=graph.precision_of(original),
        engine=f"onnxruntime {require('onnxruntime', 'cpu').__version__}" + (" cuda" * (device == "cuda")),
    )


def _check_answers(model: onnx.ModelProto, given: NDArray[np.float32], place: str) -> None:
    """Refuse answers that a softmax would make neither right nor wrong enough to be noticed."""
    if not np.isfinite(given).all():
        raise InvalidInput(f"{place}: answers noise with NaN or infinity; logits or probabilities are needed")
    if graph.n_softmaxes_at_end(model, place) > 1:
        raise InvalidInput(f"{place}: ends in two softmaxes, which flatten its answers; export it with one")
    if given.min() >= 0 and given.max() <= 1 and not is_distribution(given):
        raise InvalidInput(
            f"{place}: answers with numbers from 0 to 1 that do not sum to 1, as a sigmoid does; export it "
            "with logits, or with a softmax at the end"
        )


def is_distribution(outputs: NDArray[np.float32]) -> bool:
    """Whether all rows are probabilities already."""
    return bool(outputs.min() >= 0 and np.abs(outputs.sum(axis=1) - 1).max() < _CLOSE)


def random_samples(n: int, preprocess: Preprocess) -> NDArray[np.float32]:
    """(n, channels, height, width) noise, the same at every call."""
    return np.random.default_rng(0).standard_normal((n, *preprocess.shape), np.float32)


def _answers(
    model: onnx.ModelProto, n: int, preprocess: Preprocess, device: str, place: str
) -> NDArray[np.float32]:
    """Run a graph on noise."""
    session = open_session(model.SerializeToString(), device, place=place)
    try:
        return session.run(random_samples(n, preprocess))
    except Exception as error:  # ONNX Runtime's
        reason = " ".join(str(error).split())[:300]
        raise InvalidInput(f"{place}: cannot run on {n} samples of {preprocess.shape}: {reason}") from None


def _check_freed(
    original: onnx.ModelProto,
    given: NDArray[np.float32],
    preprocess: Preprocess,
    device: str,
    place: str,
) -> None:
    """Compare a graph whose batch axis was freed with the graph as it was, one sample at a time."""
    session = open_session(original.SerializeToString(), device)
    samples = random_samples(len(given), preprocess)
    each = np.concatenate([session.run(sample[np.newaxis]) for sample in samples])
    if each.shape != given.shape or not np.allclose(each, given, rtol=_CLOSE, atol=_CLOSE):
        raise InvalidInput(
            f"{place}: is made for one sample at a time, and mixes samples when given several; export it "
            "with a free batch axis"
        )


def _count_weights(model: onnx.ModelProto) -> int:
    """Count the numbers in floating-point constants, as parameters are counted."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    constants = [tensor for tensor in model.graph.initializer if tensor.data_type in floats]
    return sum(int(np.prod(tensor.dims)) for tensor in constants)
