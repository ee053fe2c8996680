"""Batches that form stage by stage beside batches of the whole cascade, where networks gain from batches.

    python benchmarks/serving/batching.py --out out/batching

Two networks on CIFAR-10: pixels, random features, and a least-squares layer on them. The second one's 400 MB
of weights are read once for a batch, so 32 samples take little longer than one; a quarter of the samples get
there. Both servers run the same bundle in the same executor: `encas serve` with several delays, and FastAPI
with a batcher that runs the whole cascade on whatever waits. Three minutes.
"""

import argparse
import asyncio
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import serving
from onnx import helper, numpy_helper

from encas.bundle import Bundle
from encas.runtime import open_session
from encas.runtime.preprocess import normalise

HIDDEN = {"narrow": 1024, "wide": 32768}
N_FIT = 5000
SHARE_ON = 0.25  # of the samples, that the second network sees
SPEC = serving.executor_benchmark.SPEC
client = serving.client


def network(tensors: np.ndarray, labels: np.ndarray, hidden: int) -> bytes:
    """softmax(10 relu(x W) V), W random, V by least squares."""
    rng = np.random.default_rng(hidden)
    x = tensors.reshape(len(tensors), -1)
    w = rng.normal(0, x.shape[1] ** -0.5, (x.shape[1], hidden)).astype(np.float32)
    h = np.maximum(x @ w, 0)
    kernel = h @ h.T + 0.3 * hidden * np.eye(len(h), dtype=np.float32)
    v = h.T @ np.linalg.solve(kernel, np.eye(10, dtype=np.float32)[labels])
    nodes = [
        helper.make_node("Flatten", ["input"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probs"], axis=1),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", floats, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("probs", floats, ["batch", 10])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array((10 * v).astype(np.float32), "v")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def make_bundle(folder: Path, tensors: np.ndarray, labels: np.ndarray) -> Bundle:
    networks = {name: network(tensors[:N_FIT], labels[:N_FIT], hidden) for name, hidden in HIDDEN.items()}
    confidence = open_session(networks["narrow"], "cpu").run(tensors[N_FIT:]).max(axis=1)
    threshold = round(float(np.quantile(confidence, SHARE_ON)), 4)
    macs = {name: hidden * (3072 + 10) for name, hidden in HIDDEN.items()}
    return serving.executor_benchmark.write_bundle(folder, networks, macs, (threshold, None))


def by_batch(bundle: Bundle, tensors: np.ndarray) -> dict[int, float]:
    """Milliseconds of the second network at some batch sizes."""
    session = open_session(bundle.path / "members/wide.onnx", "cpu")
    times = {
        n: serving.executor_benchmark.taken_s(
            lambda n=n: session.run(tensors[:n]), 15, serving.time.perf_counter
        )
        for n in (1, 4, 8, 16, 32)
    }
    return {n: 1e3 * float(np.median(found)) for n, found in times.items()}


def driven(
    server: str, bundle: Bundle, bodies: list[bytes], options: argparse.Namespace, *words: str
) -> list[dict]:
    rows = []
    kind = "encas" if words or server == "encas" else server
    with serving.started(kind, bundle.path, *words) as (_, port):
        requests = [serving.call(kind, "tensor", body).encoded("localhost") for body in bodies]
        asyncio.run(client.closed_loop(port, requests, 8, 1))
        for concurrency in options.concurrency:
            found = asyncio.run(client.closed_loop(port, requests, concurrency, options.seconds))
            row = {
                "server": " ".join([server, *words]),
                "concurrency": concurrency,
                "per_s": found.per_s,
                "p50_ms": found.quantile_ms(0.5),
                "p99_ms": found.quantile_ms(0.99),
            }
            rows.append(row)
            times = f"{row['per_s']:9.0f} /s{row['p50_ms']:9.1f}{row['p99_ms']:9.1f} ms"
            print(f"{row['server']:38}{concurrency:5}{times}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=serving.executor_benchmark.DATA)
    parser.add_argument("--out", type=Path, default=Path("out/batching"))
    parser.add_argument("--concurrency", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--delays", nargs="+", default=["0", "0,20", "0,50"])
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    reader = serving.load(options.data / "read_cifar10.py")
    pixels, labels, *_ = reader.load(options.data / "cifar10.npz", "test")
    tensors = normalise(pixels, SPEC)
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), tensors, np.asarray(labels))
        times = by_batch(bundle, tensors)
        print("second network, ms by batch:", {n: round(ms, 1) for n, ms in times.items()}, flush=True)
        bodies = [tensor.tobytes() for tensor in tensors[N_FIT : N_FIT + 1000]]
        rows = driven("whole", bundle, bodies, options)
        for delay in options.delays:
            rows += driven("encas", bundle, bodies, options, "--max-queue-delay-ms", delay)
    raw = {"cores": os.cpu_count(), "wide_ms": times, "rows": rows}
    (options.out / "batching.json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
