"""Gears against the best cascade alone, at four times what the latter can do.

    python benchmarks/serving/gears.py --out out/gears

Six published networks on CIFAR-10, from the shared data folder beside the repository: recorded and searched
on 5,000 test images, asked about the other 5,000. The front's most accurate cascade is served alone, and as
gear 0 before three cheaper ones; requests of eight images come at four times the rate that the single cascade
reaches, for a minute each, under the same deadline. Answers are compared with the labels. The bundle is made
in a few minutes, stays in --out and is taken again; the two runs take three.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import serving
import yaml

from encas.bundle import Bundle
from encas.files import write_model
from encas.gears import figures_of

NETWORKS = (
    "mlperf_tiny_resnet8",
    "resnet20",
    "resnet32",
    "mlperf_tiny_resnet8_large",
    "resnet44",
    "resnet56",
)
IMAGENET = {"size": 32, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
RAW = {"size": 32, "divisor": 1, "mean": [0, 0, 0], "std": [1, 1, 1]}
N_SEARCHED = 5000
client = serving.client


def encas(folder: Path, *words: object) -> None:
    command = [str(word) for word in (Path(sys.executable).with_name("encas"), *words)]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def make_bundle(folder: Path, data: Path, pixels: np.ndarray, labels: np.ndarray, n_gears: int) -> Bundle:
    """Record, search and export, with what a user would type."""
    if not (folder / "bundle").exists():
        np.savez(folder / "test.npz", images=pixels, labels=labels)
        members = [
            {
                "source": f"onnx:{data.resolve()}/onnx/{name}.onnx",
                "preprocess": RAW if name.startswith("mlperf") else IMAGENET,
            }
            for name in NETWORKS
        ]
        (folder / "members.yml").write_text(yaml.safe_dump(members))
        encas(
            folder,
            *("pool", "record", "pool", "--members", "members.yml", "--data", "test.npz"),
            *("--rows", f":{N_SEARCHED}"),
        )
        encas(folder, "search", "--pool", "pool", "--evaluations", 20_000, "--seed", 1)
        encas(folder, "export", "front", "--gears", n_gears, "-o", "bundle", "--name", "cifar10")
    return Bundle.open(folder / "bundle")


def without_gears(bundle: Bundle, path: Path) -> Bundle:
    """The same bundle with its best cascade only."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(bundle.path, path)
    (path / "gears.json").unlink()
    files = {name: digest for name, digest in bundle.file.files.items() if name != "gears.json"}
    write_model(path / "bundle.json", bundle.file.model_copy(update={"files": files}).sealed())
    return Bundle.open(path)


def request(pixels: np.ndarray, outputs: tuple[str, ...]) -> bytes:
    body = np.ascontiguousarray(pixels).tobytes()
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape)}
    tensor["parameters"] = {"binary_data_size": len(body)}
    text = json.dumps({"inputs": [tensor], "outputs": [{"name": name} for name in outputs]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return client.Call("/v2/models/cifar10/infer", headers, text + body).encoded("localhost")


def drive(
    name: str,
    bundle: Bundle,
    pixels: np.ndarray,
    labels: np.ndarray,
    per_s: float | None,
    options: argparse.Namespace,
) -> dict:
    """Peak of a closed loop, then a fixed rate; per_s None: four times that peak."""
    n = options.samples
    outputs = ("class", "gear") if bundle.cheaper else ("class",)
    starts = range(0, len(pixels) - n + 1, n)
    requests = [request(pixels[i : i + n], outputs) for i in starts]
    truth = [labels[i : i + n] for i in starts]
    right, counts = Counter(), Counter()

    def answered(number: int, body: bytes) -> None:
        found = {output["name"]: output["data"] for output in json.loads(body)["outputs"]}
        gear = found["gear"][0] if "gear" in found else 0
        counts[gear] += n
        right[gear] += int((np.array(found["class"]) == truth[number]).sum())

    with serving.started("encas", bundle.path, "--request-timeout-s", str(options.deadline_s)) as (_, port):
        asyncio.run(client.closed_loop(port, requests, 4, 2))
        peak = asyncio.run(client.closed_loop(port, requests, 8, options.peak_seconds))
        per_s = per_s or 4 * peak.per_s
        result = asyncio.run(client.fixed_rate(port, requests, per_s, options.seconds, answered))
    _, figures = figures_of(bundle.gears)
    total = sum(counts.values())
    good = [latency_s for latency_s in result.ok if latency_s <= options.deadline_s]
    found = {
        "name": name,
        "peak_per_s": peak.per_s,
        "offered_per_s": per_s,
        "goodput_per_s": len(good) / options.seconds,
        "p50_ms": result.quantile_ms(0.5),
        "p99_ms": result.quantile_ms(0.99),
        "statuses": {status: len(times) for status, times in sorted(result.latencies_s.items())},
        "shares": {gear: counts[gear] / total for gear in sorted(counts)},
        "accuracy": sum(right.values()) / total,
        "accuracy_by_gear": {gear: right[gear] / counts[gear] for gear in sorted(counts)},
        "promised": sum(counts[gear] * figures[gear].accuracy for gear in counts) / total,
    }
    print(json.dumps(found, indent=1), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=serving.executor_benchmark.DATA)
    parser.add_argument("--out", type=Path, default=Path("out/gears"))
    parser.add_argument("--gears", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8, help="in each request")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--peak-seconds", type=float, default=8.0)
    parser.add_argument("--deadline-s", type=float, default=1.0)
    parser.add_argument("--only-make", action="store_true", help="make the bundle, and drive nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    reader = serving.load(options.data / "read_cifar10.py")
    pixels, labels, *_ = reader.load(options.data / "cifar10.npz", "test")
    bundle = make_bundle(options.out, options.data, pixels, np.asarray(labels), options.gears)
    split, figures = figures_of(bundle.gears)
    for number, (gear, one) in enumerate(zip(bundle.gears, figures, strict=True)):
        print(f"gear {number}: {one.accuracy:.4f} on {split}, {one.macs / 1e6:.1f} MMACs: {gear}", flush=True)
    if options.only_make:
        return
    asked = pixels[N_SEARCHED:], np.asarray(labels)[N_SEARCHED:]
    single = drive("single", without_gears(bundle, options.out / "single"), *asked, None, options)
    geared = drive("gears", bundle, *asked, single["offered_per_s"], options)
    ratio = geared["goodput_per_s"] / single["goodput_per_s"]
    off = 100 * (geared["accuracy"] - geared["promised"])
    print(f"goodput with gears: {ratio:.2f} times; accuracy {off:+.2f} points off the front's for the mix")
    raw = {"cores": os.cpu_count(), "load": os.getloadavg(), "single": single, "gears": geared}
    (options.out / "gears.json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
