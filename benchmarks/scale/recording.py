"""How long a recording takes on a cluster of one machine, beside the same without Ray.

    python benchmarks/scale/recording.py here --data ../shared/data/cifar10 --work FOLDER
    python benchmarks/scale/recording.py ray --data ../shared/data/cifar10 --work FOLDER
    python benchmarks/scale/recording.py ray-one-core --data ../shared/data/cifar10 --work FOLDER
    python benchmarks/scale/recording.py two-nodes --data ../shared/data/cifar10 --work FOLDER
    python benchmarks/scale/recording.py report --work FOLDER

The six published CIFAR-10 networks answer images of CIFAR-10, by the command as users give it, from its start
to its end. "ray" starts a cluster for the command, as `--ray` alone does, and
"ray-one-core" gives each job one core; "two-nodes" finds one of two nodes
of one core each, whose start is not counted. All must write the same bytes. Run one after the other on a
machine that does nothing else, several times in turns; each run takes minutes.
"""

import argparse
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import yaml

RAW = {"size": [32, 32], "interpolation": "bilinear", "crop_pct": 1.0}
RESNET = {**RAW, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TINY = {**RAW, "mean": [0, 0, 0], "std": [1, 1, 1], "divisor": 1}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("way", choices=["here", "ray", "ray-one-core", "two-nodes", "report"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--images", type=int, default=24_000)
    options = parser.parse_args()
    results = options.work / "results.jsonl"
    if options.way == "report":
        report([json.loads(line) for line in results.read_text().splitlines()])
        return
    prepare(options.work, options.data, options.images)
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    with cluster(options.way) as arguments:
        found = timed(options.work, options.way, arguments)
    with results.open("a") as file:
        file.write(json.dumps({**found, "images": options.images}) + "\n")
    print(found)


def prepare(work: Path, data: Path, n: int) -> None:
    """Write the images of the training set as arrays, and the list of networks."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "images.npz").exists():
        sys.path.insert(0, str(data))
        import read_cifar10  # noqa: PLC0415

        images, labels, _ = read_cifar10.load(data / "cifar10.npz", "train")
        np.savez(work / "images.npz", images=images[:n], labels=labels[:n].astype(np.int64))
    members = [
        {"source": f"onnx:{file.resolve()}", "preprocess": TINY if "tiny" in file.name else RESNET}
        for file in sorted((data / "onnx").glob("*.onnx"))
    ]
    (work / "members.yml").write_text(yaml.safe_dump(members))


@contextmanager
def cluster(way: str) -> Iterator[list[str]]:
    """Yield what the command line gets besides."""
    alone = {"here": [], "ray": ["--ray"], "ray-one-core": ["--ray", "--ray-cores", "1"]}
    if way in alone:
        yield alone[way]
        return
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    node = {"num_cpus": 1, "object_store_memory": 2**30, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    made.add_node(**node)
    try:
        yield ["--ray", made.address]
    finally:
        made.shutdown()


def timed(work: Path, way: str, arguments: list[str]) -> dict[str, object]:
    pool = work / "pool"
    shutil.rmtree(pool, ignore_errors=True)
    command = [Path(sys.executable).with_name("encas"), "pool", "record", pool, *arguments]
    command += ["--data", work / "images.npz", "--members", work / "members.yml"]
    start_s = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start_s
    digest = hashlib.sha256()
    for file in sorted(path for path in pool.rglob("*") if path.is_file()):
        digest.update(file.relative_to(pool).as_posix().encode() + file.read_bytes())
    return {"way": way, "seconds": round(seconds, 2), "sha256": digest.hexdigest()[:16]}


def report(results: list[dict[str, object]]) -> None:
    seconds: dict[str, list[float]] = {}
    for one in results:
        seconds.setdefault(str(one["way"]), []).append(float(str(one["seconds"])))
    here = median(seconds["here"])
    print(f"same bytes: {len({one['sha256'] for one in results}) == 1}, images {results[0]['images']}")
    for way, all_s in seconds.items():
        shown = ", ".join(f"{one:.1f}" for one in all_s)
        print(f"{way:10} {median(all_s):7.1f} s  {median(all_s) / here - 1:+7.1%}  of {shown}")


if __name__ == "__main__":
    main()
