"""Requests per second, latency and CPU time of `encas serve` beside LitServe and plain FastAPI, and overload.

    python benchmarks/serving/serving.py --out out/serving

The cascade is resnet20 > resnet44 > resnet56 on CIFAR-10 test images, from the shared data folder beside the
repository. JPEG: one image of 256 x 256, which is decoded and resized; tensor: one prepared float32 sample.
Every server runs alone, with the same client. Whole run: about eight minutes.

    python benchmarks/serving/serving.py --bundle BUNDLE --images DIR --servers encas "1 thread"

takes another bundle and JPEG files for it, and says what `encas serve` costs there.
"""

import argparse
import asyncio
import base64
import contextlib
import importlib.util
import io
import json
import multiprocessing
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from encas.bundle import Bundle
from encas.runtime import CascadeExecutor, decode
from encas.runtime.machine import usable_cores
from encas.runtime.preprocess import normalise, prepare_batch
from encas.runtime.session import sleeping_threads

HERE = Path(__file__).resolve().parent
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
SIDE = 256


def load(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


client = load(HERE / "client.py")
executor_benchmark = load(HERE.parent / "runtime/executor.py")


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


ENCAS = {  # options of `encas serve`
    "encas": (),
    "1 thread": ("--threads", "1"),
    "2 workers": ("--workers", "2"),
    "delay 5 ms": ("--max-queue-delay-ms", "0,5"),
}


def call(server: str, kind: str, body: bytes, n: int = 1, model: str = "cifar10") -> object:
    """The same input as each server takes it."""
    if server in ENCAS and kind == "jpeg":
        headers = {"Inference-Header-Content-Length": "0"}
        return client.Call(f"/v2/models/{model}/infer", headers, body)
    if server in ENCAS:
        tensor = {"name": "image", "datatype": "FP32", "shape": [n, 3, 32, 32]}
        tensor["parameters"] = {"binary_data_size": len(body)}
        text = json.dumps({"inputs": [tensor]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        return client.Call(f"/v2/models/{model}/infer", headers, text + body)
    if server == "litserve":
        text = json.dumps({"kind": kind, "data": base64.b64encode(body).decode()}).encode()
        return client.Call("/predict", {"Content-Type": "application/json"}, text)
    return client.Call(f"/{kind}", {}, body)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def cpu_s(pid: int) -> float:
    total = 0.0
    for one in tree(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) * TICK_S
    return total


def rss_mb(pid: int) -> float:
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in tree(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def started(server: str, bundle: Path, *options: str) -> Iterator[tuple[int, int]]:
    """Run a server; its process and its port."""
    port = free_port()
    if server in ENCAS:
        command = [Path(sys.executable).with_name("encas"), "serve", bundle, "--port", str(port)]
        command += ["--provider", "cpu", *ENCAS[server], *options]
        health = "/v2/health/ready"
    else:
        script = "litserve_peer.py" if server == "litserve" else "fastapi_peer.py"
        command = [sys.executable, HERE / script, server, bundle, str(port)]
        health = "/health"
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(600):
            assert process.poll() is None, f"{server} did not start"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{health}") as answer:
                    if answer.status == 200:
                        break
            except OSError:
                time.sleep(0.1)
        yield process.pid, port
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # LitServe leaves its workers behind
        process.wait()


def alone_ms(
    bundle: Path, n_threads: int, bodies: dict[str, list[bytes]], tensors: np.ndarray | None
) -> dict:
    """CPU time of decoding, resizing and the members' runs for one sample, without any server."""
    sleeping_threads(n_threads)
    with CascadeExecutor(bundle, "cpu") as executor:
        executor.warm_up(1)
        return {kind: _alone_ms(executor, kind, bodies[kind], tensors) for kind in bodies}


def _alone_ms(executor: CascadeExecutor, kind: str, bodies: list[bytes], tensors: np.ndarray | None) -> float:
    members, runners = executor.bundle.stage_members, executor.runners
    exits = executor.run(tensors if tensors is not None else bodies).exit_stage
    for body in bodies[:20]:
        executor.run([body] if kind == "jpeg" else tensors[:1])
    start_s = time.process_time()
    for i, body in enumerate(bodies):
        image = decode(body) if kind == "jpeg" else None
        prepared = {} if image is not None else {members[0].preprocess: tensors[i : i + 1]}
        for member in members[: exits[i] + 1]:
            if member.preprocess not in prepared:
                prepared[member.preprocess] = prepare_batch([image], member.preprocess)
            runners[member.name].run(prepared[member.preprocess])
    return 1e3 * (time.process_time() - start_s) / len(bodies)


def drive(
    server: str, pid: int, port: int, kind: str, bodies: list[bytes], options: argparse.Namespace
) -> list:
    model = Bundle.open(options.bundle).name if options.bundle else "cifar10"
    requests = [call(server, kind, body, model=model).encoded("localhost") for body in bodies]
    asyncio.run(client.closed_loop(port, requests, 8, min(2.0, options.seconds)))
    rows = []
    for concurrency in options.concurrency:
        before_s = cpu_s(pid)
        result = asyncio.run(client.closed_loop(port, requests, concurrency, options.seconds))
        n = sum(map(len, result.latencies_s.values()))
        row = {
            "server": server,
            "input": kind,
            "concurrency": concurrency,
            "requests_per_s": result.per_s,
            "p50_ms": result.quantile_ms(0.5),
            "p99_ms": result.quantile_ms(0.99),
            "cpu_ms": 1e3 * (cpu_s(pid) - before_s) / max(1, n),
            "not_200": n - len(result.ok),
            "latencies_s": result.ok,
        }
        rows.append(row)
        print(
            f"{server:10}{kind:8}{concurrency:4}{row['requests_per_s']:10.1f} /s{row['p50_ms']:9.2f}"
            f"{row['p99_ms']:9.2f} ms{row['cpu_ms']:9.3f} ms CPU{row['not_200']:5} failed",
            flush=True,
        )
    return rows


def peak_per_s(port: int, requests: list[bytes], options: argparse.Namespace) -> float:
    """Goodput at the concurrency that a server can follow; measured before and after the overload."""
    return asyncio.run(client.closed_loop(port, requests, 8, max(2.0, 2 * options.seconds))).per_s


def overload(
    bundle: Path, bodies: list[bytes], tensors: np.ndarray | None, options: argparse.Namespace
) -> dict:
    """Four times what the server can do, at a fixed rate.

    Tensors go several to a request: the client would need a core for networks this small. JPEG files go as
    they are.
    """
    n, kind, model = 1, "jpeg", Bundle.open(bundle).name
    if tensors is not None:
        n, kind = options.overload_samples, "tensor"
        bodies = [tensors[i : i + n].tobytes() for i in range(0, len(tensors) - n, n)]
    server = options.overload_server
    requests = [call(server, kind, body, n, model).encoded("localhost") for body in bodies]
    queue = ("--max-queue-size", str(16 * n), "--request-timeout-s", str(options.deadline_s))
    with started(server, bundle, *queue) as (pid, port):
        asyncio.run(client.closed_loop(port, requests, 4, 2))
        peaks_per_s = [peak_per_s(port, requests, options)]
        memory_mb, offered_per_s = [rss_mb(pid)], 4 * peaks_per_s[0]

        async def run() -> object:
            async def watch() -> None:
                while True:
                    await asyncio.sleep(1)
                    memory_mb.append(rss_mb(pid))

            watcher = asyncio.create_task(watch())
            result = await client.fixed_rate(port, requests, offered_per_s, options.overload_seconds)
            watcher.cancel()
            return result

        result = asyncio.run(run())
        peaks_per_s.append(peak_per_s(port, requests, options))
    found = {
        "peaks_per_s": peaks_per_s,
        "offered_per_s": offered_per_s,
        "goodput_per_s": result.per_s,
        "of_mean_peak": result.per_s / float(np.mean(peaks_per_s)),
        "accepted_p99_ms": result.quantile_ms(0.99),
        "refused_p99_ms": result.quantile_ms(0.99, 503),
        "refused_p50_ms": result.quantile_ms(0.5, 503),
        "statuses": {status: len(times) for status, times in sorted(result.latencies_s.items())},
        "broken": result.n_broken,
        "memory_mb": memory_mb,
    }
    shown = {key: value for key, value in found.items() if key != "memory_mb"}
    print(f"overload: {shown}, memory {memory_mb[0]:.0f} -> {memory_mb[-1]:.0f} MB", flush=True)
    return found


def picture(rows: list, path: Path) -> None:
    import matplotlib  # noqa: PLC0415

    matplotlib.use("agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    kinds = list(dict.fromkeys(row["input"] for row in rows))
    servers = list(dict.fromkeys(row["server"] for row in rows))
    figure, axes = plt.subplots(2, len(kinds), figsize=(6 * len(kinds), 7), squeeze=False)
    for column, kind in enumerate(kinds):
        for line, (key, title) in enumerate(
            (("requests_per_s", "requests/s"), ("p99_ms", "p99 latency, ms"))
        ):
            for i, server in enumerate(servers):
                mine = [row for row in rows if row["input"] == kind and row["server"] == server]
                places = np.arange(len(mine)) + 0.8 * (i + 0.5) / len(servers)
                axes[line, column].bar(places, [row[key] for row in mine], 0.8 / len(servers), label=server)
                axes[line, column].set_xticks(
                    np.arange(len(mine)) + 0.4, [f"concurrency {row['concurrency']}" for row in mine]
                )
            axes[line, column].set(title=kind, ylabel=title)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper center", ncols=len(servers))
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=executor_benchmark.DATA)
    parser.add_argument("--out", type=Path, default=Path("out/serving"))
    parser.add_argument("--servers", nargs="+", default=[*ENCAS, "litserve", "fastapi", "whole"])
    parser.add_argument("--inputs", nargs="+", default=["jpeg", "tensor"])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=8.0, help="for each figure")
    parser.add_argument("--overload-seconds", type=float, default=60.0, help="0: none")
    parser.add_argument("--overload-server", choices=ENCAS, default="encas")
    parser.add_argument("--bundle", type=Path, help="another one; with --images")
    parser.add_argument("--images", type=Path, help="folder of JPEG files for --bundle")
    parser.add_argument("--overload-samples", type=int, default=8, help="in each request")
    parser.add_argument("--deadline-s", type=float, default=1.0, help="in the overload run")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pixels = executor_benchmark.test_images(options.data)[5000:5512]
    tensors = normalise(pixels, executor_benchmark.SPEC)
    bodies = {"jpeg": [jpeg(image) for image in pixels], "tensor": [tensor.tobytes() for tensor in tensors]}
    if options.bundle:
        files = sorted(options.images.rglob("*.jp*g"))[:150]
        tensors, bodies = None, {"jpeg": [file.read_bytes() for file in files]}
        options.inputs = ["jpeg"]
    rows, alone, spawn = [], {}, multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or executor_benchmark.make_bundle(Path(folder), options.data).path
        bodies = {kind: bodies[kind] for kind in options.inputs}
        for n_threads in (usable_cores(), 1):  # a process has one pool of threads for good
            with ProcessPoolExecutor(1, spawn) as process:
                alone[n_threads] = process.submit(alone_ms, bundle, n_threads, bodies, tensors).result()
            print(f"alone: {n_threads} threads, {alone[n_threads]} ms of CPU per request", flush=True)
        for server in options.servers:
            with started(server, bundle) as (pid, port):
                for kind in options.inputs:
                    rows += drive(server, pid, port, kind, bodies[kind], options)
        stress = (
            overload(bundle, bodies.get("jpeg", []), tensors, options) if options.overload_seconds else None
        )
    machine = {"machine": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()}
    raw = {"machine": machine, "alone_cpu_ms": alone, "rows": rows, "overload": stress}
    (options.out / "serving.json").write_text(json.dumps(raw))
    picture(rows, options.out / "serving.png")
    print(f"raw numbers and the picture are in {options.out}")


if __name__ == "__main__":
    main()
