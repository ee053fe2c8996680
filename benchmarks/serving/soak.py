"""Hours of mixed load on one server: does its memory grow, and do its answers come later?

    encas serve BUNDLE --port 8000 &
    python benchmarks/serving/soak.py http://127.0.0.1:8000 --pid $! --minutes 120

Clients ask one after the other, with images, JSON, raw pixels, several images at once, and one request in ten
that is to be refused. Each minute gives the server's memory and the 99th percentile; printed is the slope of
memory over the minutes after the first tenth, with its 95 % interval, and the change of the 99th percentile
from the first to the last third.
"""

import argparse
import io
import json
import os
import threading
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from scipy.stats import linregress, t

MIX = ("file", "json", "raw", "several", "refused")
SHARES = (0.4, 0.2, 0.2, 0.1, 0.1)


def requests(side: int) -> dict[str, tuple[bytes, dict[str, str]]]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, side, side, 3), np.uint8)
    files = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG")
        files.append(file.getvalue())

    def head(shape: list[int], size: int, datatype: str) -> bytes:
        parameters = {"binary_data_size": size}
        tensor = {"name": "image", "shape": shape, "datatype": datatype, "parameters": parameters}
        return json.dumps({"inputs": [tensor]}).encode()

    raw = pixels[:1].tobytes()
    raw_head = head([1, side, side, 3], len(raw), "UINT8")
    several = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    several_head = head([4], len(several), "BYTES")
    small = {"name": "image", "shape": [1, 16, 16, 3], "datatype": "UINT8"}
    text = json.dumps({"inputs": [{**small, "data": pixels[0, :16, :16].ravel().tolist()}]}).encode()
    name = "Inference-Header-Content-Length"
    return {
        "file": (files[0], {name: "0"}),
        "json": (text, {}),
        "raw": (raw_head + raw, {name: str(len(raw_head))}),
        "several": (several_head + several, {name: str(len(several_head))}),
        "refused": (files[1][: len(files[1]) // 3], {name: "0"}),
    }


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--bucket-s", type=float, default=60)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = httpx.get(f"{args.url}/v2/models").json()["models"][0]
    wanted, stop = requests(args.side), threading.Event()
    latencies: list[list[float]] = [[]]
    wrong: list[str] = []

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with httpx.Client(base_url=args.url, timeout=60) as client:
            while not stop.is_set():
                kind = str(rng.choice(MIX, p=SHARES))
                body, headers = wanted[kind]
                start_s = time.perf_counter()
                answer = client.post(f"/v2/models/{model}/infer", content=body, headers=headers)
                latencies[-1].append(time.perf_counter() - start_s)
                if answer.status_code not in ((200, 400) if kind == "refused" else (200,)):
                    wrong.append(f"{kind}: {answer.status_code} {answer.text[:100]}")

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(args.clients)]
    for thread in threads:
        thread.start()
    memory_mb, p99_ms, n_requests = [], [], 0
    for _ in range(round(args.minutes * 60 / args.bucket_s)):
        time.sleep(args.bucket_s)
        latencies.append([])
        done = latencies[-2]
        memory_mb.append(resident_mb(args.pid))
        p99_ms.append(float(1e3 * np.quantile(done, 0.99)))
        n_requests += len(done)
        print(
            f"{len(memory_mb):4d} {len(done):7d} requests {memory_mb[-1]:7.1f} MiB {p99_ms[-1]:7.1f} ms",
            flush=True,
        )
    stop.set()
    for thread in threads:
        thread.join()
    settled = len(memory_mb) // 10
    hours = np.arange(settled, len(memory_mb)) * args.bucket_s / 3600
    fit = linregress(hours, memory_mb[settled:])
    half = float(t.ppf(0.975, len(hours) - 2)) * fit.stderr
    third = len(p99_ms) // 3
    first, last = float(np.median(p99_ms[:third])), float(np.median(p99_ms[-third:]))
    found = {
        "requests": n_requests,
        "wrong": len(wrong),
        "memory_mib_per_hour": [fit.slope - half, fit.slope, fit.slope + half],
        "p99_ms_first_and_last_third": [first, last],
    }
    print(json.dumps(found, indent=2))
    print(*wrong[:3], sep="\n")
    if args.out is not None:
        args.out.write_text(json.dumps({**found, "memory_mib": memory_mb, "p99_ms": p99_ms}) + "\n")


if __name__ == "__main__":
    main()
