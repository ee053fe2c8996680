"""The tiny siblings of all published experiments, from one command.

    python benchmarks/experiments.py prepare datasets [--cifar10 cifar10.npz] [--imagenet FOLDER]
    python benchmarks/experiments.py run datasets experiments [NAME ...]

`prepare` makes what they need: pairs of scikit-learn's digits (100 classes), CIFAR-10's binary files from a
packed copy of the images, and a pool of 67 networks on some images of ImageNet (see docs/imagenet.md).
`run` runs them one after the other, prints their tables, and says how long each took.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
TINY = ("tiny_cifar10", "tiny_cifar100", "tiny_imagenet", "tiny_timm")
PAIRS = {"train": 8000, "val": 1000, "test": 1000}


def digit_pairs(folder: Path) -> None:
    """Two digits beside one another, 16 x 16 pixels; no digit is in two splits."""
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(pixels))
    parts = dict(zip(PAIRS, np.split(order, [1197, 1497]), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    for split, n in PAIRS.items():
        left, right = (drawn(digits.target, parts[split], rng.permutation(n) % 10, rng) for _ in range(2))
        images = np.zeros((n, 16, 16), np.uint8)
        images[:, 4:12, :8], images[:, 4:12, 8:] = pixels[left], pixels[right]
        labels = 10 * digits.target[left] + digits.target[right]
        np.savez(folder / f"{split}.npz", images=images, labels=labels)


def drawn(
    labels: NDArray[np.int64], rows: NDArray[np.intp], wanted: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.intp]:
    """A row of each wanted label, any of those in a split."""
    return np.array([rng.choice(rows[labels[rows] == label]) for label in wanted])


def prepare(data: Path, cifar10: Path | None, imagenet: Path | None) -> None:
    digit_pairs(data / "digit-pairs")
    if cifar10 is not None:
        command = [ROOT / "benchmarks" / "cifar10.py", "prepare", cifar10, data]
        subprocess.run([sys.executable, *map(str, command)], check=True)
    if imagenet is not None:
        options = ["--val-rows", "5000", "--v2-rows", "4000"]
        command = [ROOT / "benchmarks" / "search" / "imagenet.py", "pool", imagenet, data / "imagenet-small"]
        subprocess.run([sys.executable, *map(str, command), *options], check=True)


def run(data: Path, out: Path, names: list[str]) -> None:
    encas, taken = Path(sys.executable).with_name("encas"), {}
    for name in names:
        started_s = time.monotonic()
        config = ROOT / "configs" / "experiments" / f"{name}.yml"
        print(f"\n== {name}", flush=True)
        command = [encas, "experiment", config, "--data", data, "--out", out / name, "--threads", "2"]
        subprocess.run([*map(str, command)], check=True)
        taken[name] = time.monotonic() - started_s
    for name, seconds in taken.items():
        print(f"{name}: {seconds / 60:.1f} min")
    print(f"together: {sum(taken.values()) / 60:.1f} min")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("prepare")
    one.add_argument("data", type=Path)
    one.add_argument("--cifar10", type=Path)
    one.add_argument("--imagenet", type=Path)
    two = commands.add_parser("run")
    two.add_argument("data", type=Path)
    two.add_argument("out", type=Path)
    two.add_argument("names", nargs="*", default=list(TINY))
    args = parser.parse_args()
    if args.command == "prepare":
        prepare(args.data, args.cifar10, args.imagenet)
    else:
        run(args.data, args.out, args.names)


if __name__ == "__main__":
    main()
