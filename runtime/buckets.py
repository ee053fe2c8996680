"""Batches padded to a few sizes, in memory of the device that is kept: what CUDA needs to be quick.

Everything works on any provider, the CPU included.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from encas.cascade import Rows
from encas.runtime.inputs import Inputs
from encas.runtime.preprocess import Tensor
from encas.runtime.session import Session, create_session, device_memory, open_session

_log = logging.getLogger("encas.runtime")
T = TypeVar("T")
MAX_BUCKET = 64
# One node, Gather along the first axis: x (n, c, h, w), rows (b,) -> y (b, c, h, w).
_GATHER = bytes.fromhex(
    "08081205656e6361733a700a140a01780a04726f777312017922064761746865721201675a1f0a0178121a0a18080112"
    "140a0312016e0a031201630a031201680a031201775a130a04726f7773120b0a09080712050a03120162621f0a017912"
    "1a0a18080112140a031201620a031201630a031201680a0312017742040a001010"
)


class _Here(threading.local):
    is_device_thread = False


_here = _Here()


def _enter() -> None:
    _here.is_device_thread = True


@cache
def _device_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "encas-device", initializer=_enter)


def on_device(provider: str, call: Callable[[], T]) -> T:
    """Call in the one thread of this process that talks to the GPU; on a CPU, here.

    ONNX Runtime keeps CUDA graphs by thread, and while one is captured no other thread may use the device.
    """
    if provider == "cpu" or _here.is_device_thread:
        return call()
    return _device_thread().submit(call).result()


def bucket_sizes(limit: int) -> tuple[int, ...]:
    """Powers of two below the limit, and the limit."""
    return (*(2**power for power in range((limit - 1).bit_length())), limit)


@dataclass(frozen=True)
class Bucket:
    """One size, with memory of its own that never moves, as a CUDA graph needs it."""

    size: int
    samples: Any  # OrtValue (size, c, h, w)
    rows: Any  # OrtValue (size,) int64
    run: Any  # IOBinding of the network
    gather: Any  # IOBinding of the gathering
    probs: Any  # OrtValue (size, classes)
    network: Session


class Buckets:
    """One network, run on padded batches. Calls from several threads wait for each other."""

    def __init__(
        self,
        session: Session,
        shape: tuple[int, int, int],
        n_outputs: int,
        limit: int,
        of_size: Callable[[int], Session] | None = None,
    ) -> None:
        """Set aside memory for every bucket.

        Args:
            session: The network.
            shape: (c, h, w) of a sample.
            n_outputs: Numbers that it answers per sample.
            limit: Size of the largest bucket; more samples run one bucket after another.
            of_size: Opens the network once more, for a bucket of one size; by default all share `session`.
        """
        self.session, self.provider = session, session.provider
        self._shape, self._n_outputs = shape, n_outputs
        # TensorRT would compile it anew for every number of rows.
        self._gather = create_session(_GATHER, "cpu" if session.provider == "cpu" else "cuda")
        self._lock = threading.Lock()
        self._of_size = of_size or (lambda _size: session)
        self._buckets = tuple(self._bucket(size) for size in bucket_sizes(limit))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the buckets, rising."""
        return tuple(bucket.size for bucket in self._buckets)

    def warm_up(self) -> None:
        """Run every bucket once, in both ways, the largest first; graphs are captured then."""
        sample = np.zeros((1, *self._shape), np.float32)
        source = self.upload(sample)
        for size in reversed(self.sizes):
            self.run(np.repeat(sample, size, axis=0))
            self.run_rows(source, np.zeros(size, np.intp))

    def run(self, tensor: Tensor) -> NDArray[np.float32]:
        """Run (n, c, h, w) samples of the host, and return (n, n_outputs)."""
        return on_device(self.provider, lambda: self._run(tensor))

    def _run(self, tensor: Tensor) -> NDArray[np.float32]:
        found = np.empty((len(tensor), self._n_outputs), np.float32)
        with self._lock:
            for bucket, part in self._parts(len(tensor)):
                bucket.samples.update_inplace(_padded(tensor[part], bucket.size))
                found[part] = self._probs(bucket, part)
        return found

    def upload(self, tensor: Tensor) -> Any:
        """Copy (n, c, h, w) samples to the device, as an OrtValue for `run_rows`."""
        return on_device(self.provider, lambda: self._upload(tensor))

    def _upload(self, tensor: Tensor) -> Any:
        value = device_memory(tensor.shape, np.float32, self.provider)
        value.update_inplace(np.ascontiguousarray(tensor))
        return value

    def run_rows(self, source: Any, rows: Rows) -> NDArray[np.float32]:
        """Run some rows of uploaded samples; only the row numbers and the answers cross to and fro.

        Returns:
            (len(rows), n_outputs).
        """
        return on_device(self.provider, lambda: self._run_rows(source, rows))

    def _run_rows(self, source: Any, rows: Rows) -> NDArray[np.float32]:
        found = np.empty((len(rows), self._n_outputs), np.float32)
        with self._lock:
            for bucket, part in self._parts(len(rows)):
                bucket.rows.update_inplace(_padded(rows[part].astype(np.int64), bucket.size))
                self._fill(bucket, source)
                found[part] = self._probs(bucket, part)
        return found

    def _fill(self, bucket: Bucket, source: Any) -> None:
        bucket.gather.bind_ortvalue_input("x", source)
        bucket.gather.bind_ortvalue_input("rows", bucket.rows)
        try:
            self._gather.run_with_iobinding(bucket.gather)
        finally:
            bucket.gather.clear_binding_inputs()  # or the source would stay until the bucket is next used

    def _parts(self, n: int) -> list[tuple[Bucket, slice]]:
        """Cut n rows into parts, each with the smallest bucket that holds it."""
        limit = self._buckets[-1].size
        parts = [slice(start, min(start + limit, n)) for start in range(0, n, limit)]
        return [
            (next(bucket for bucket in self._buckets if bucket.size >= part.stop - part.start), part)
            for part in parts
        ]

    def _probs(self, bucket: Bucket, part: slice) -> NDArray[np.float32]:
        bucket.network.handle.run_with_iobinding(bucket.run)
        probs: NDArray[np.float32] = bucket.probs.numpy()[: part.stop - part.start]
        return probs

    def _bucket(self, size: int) -> Bucket:
        samples = device_memory((size, *self._shape), np.float32, self.provider)
        rows = device_memory((size,), np.int64, self.provider)
        probs = device_memory((size, self._n_outputs), np.float32, self.provider)
        network = self._of_size(size)
        gather, run = self._gather.io_binding(), network.handle.io_binding()
        gather.bind_ortvalue_output("y", samples)
        run.bind_ortvalue_input(self.session.input, samples)
        run.bind_ortvalue_output(self.session.output, probs)
        return Bucket(size, samples, rows, run, gather, probs, network)


class Uploads:
    """The images of one call on the device: prepared and copied when a stage first asks for them."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._sources: dict[int, tuple[Rows, Any]] = {}  # by preprocessing: rows of the call, their samples

    def source(self, which: int, rows: Rows, buckets: Buckets) -> tuple[Any, Rows]:
        """Return what `run_rows` takes; a later call asks for the same rows or for fewer."""
        if which not in self._sources:
            self._sources[which] = rows, buckets.upload(self._inputs.tensor(which, rows))
        have, source = self._sources[which]
        return source, np.searchsorted(have, rows)


def open_buckets(
    session: Session,
    model: Path,
    shape: tuple[int, int, int],
    n_outputs: int,
    limit: int = MAX_BUCKET,
    *,
    graphs: bool = False,
) -> Buckets:
    """Put buckets around a network.

    Args:
        session: The network, opened.
        model: Its file, to open it once more for each graph.
        shape: As `Buckets`.
        n_outputs: As `Buckets`.
        limit: As `Buckets`.
        graphs: On "cuda" capture each bucket as a CUDA graph, if the network allows it. See docs/latency.md
            for what is known of it.
    """
    return on_device(
        session.provider, lambda: _opened(session, model, shape, n_outputs, limit, graphs=graphs)
    )


def _opened(
    session: Session, model: Path, shape: tuple[int, int, int], n_outputs: int, limit: int, *, graphs: bool
) -> Buckets:
    if graphs and session.provider == "cuda":

        def of_size(_size: int) -> Session:
            # One session for each size: for a new shape cuDNN drops the kernels that it compiled for the
            # last one, and a graph that has captured them would replay freed memory.
            return open_session(model, session.provider, session.output, graphs=True)

        try:
            buckets = Buckets(session, shape, n_outputs, limit, of_size)
            buckets.warm_up()
        except Exception as error:  # of ONNX Runtime, whose exceptions have no common base
            _log.info("%s: no CUDA graph can be made of it: %s", model, error)
        else:
            return buckets
    return Buckets(session, shape, n_outputs, limit)


def _padded(array: NDArray[Any], size: int) -> NDArray[Any]:
    """Repeat the first row, which is a real one: zeros might be slow, and leftovers NaN."""
    if len(array) == size:
        return np.ascontiguousarray(array)
    return np.concatenate([array, np.repeat(array[:1], size - len(array), axis=0)])
