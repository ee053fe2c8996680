"""Real networks with their images, as pools: for the benchmarks that predict and search by time."""

import importlib.util
import os
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encas.export import MemberSpec, record
from encas.pool import Pool
from encas.preprocess import Preprocess

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
IMAGENET_STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RAW = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "divisor": 1}


@dataclass(frozen=True)
class RealPool:
    """A pool with splits `val` and `test`, and all images in the order of both."""

    pool: Pool
    images: Sequence[Path] | np.ndarray  # even ones are val, odd ones test


def cifar10(folder: Path, data: Path, n: int = 2000) -> RealPool:
    """Six networks of 12 to 125 MMACs on n test images of CIFAR-10."""
    reader = _module("read_cifar10", data / "cifar10/read_cifar10.py")
    images, labels = reader.load(data / "cifar10/cifar10.npz", "test")[:2]
    file = folder / "cifar10.npz"
    np.savez(file, images=images[:n], labels=labels[:n].astype(np.int64))
    specs = []
    for path in sorted((data / "cifar10/onnx").glob("*.onnx")):
        statistics = RAW if "mlperf" in path.stem else IMAGENET_STATISTICS
        specs.append(
            MemberSpec(
                source=f"onnx:{path}", name=path.stem, preprocess=Preprocess(size=(32, 32), **statistics)
            )
        )
    return RealPool(_recorded(folder / "cifar10-pool", specs, file), images[:n])


def photographs(folder: Path, data: Path) -> RealPool:
    """Six MobileNets and three EfficientNet-Lites of 14 to 860 MMACs on 1,000 photographs."""
    with tarfile.open(data / "imagenet/photographs.tar") as tar:
        tar.extractall(folder / "photographs", filter="data")
    (csv,) = (folder / "photographs").rglob("labels.csv")
    os.environ["ENCAS_TEST_IMAGENET"] = str(data / "imagenet")  # where the two modules find their weights
    sys.path[:0] = [str(Path(__file__).parents[2] / "tests/real"), str(Path(__file__).parent)]
    names = sorted(
        p.name.removesuffix("_int8.npz") for p in (data / "imagenet/mobilenets").glob("*_int8.npz")
    )
    specs = [MemberSpec(source=f"torch:photograph_networks:{name}", name=name) for name in names]
    specs += [MemberSpec(source=f"torch:lite_networks:lite{i}", name=f"lite{i}") for i in range(3)]
    pool = _recorded(folder / "photographs-pool", specs, csv, classes=[str(j) for j in range(1000)])
    rows = [line.split(",")[0] for line in csv.read_text().splitlines()[1:]]
    return RealPool(pool, [csv.parent / name for name in rows])


POOLS = {"cifar10": cifar10, "photographs": photographs}


def _recorded(folder: Path, specs: list[MemberSpec], data: Path, classes: list[str] | None = None) -> Pool:
    for split, rows in (("val", "::2"), ("test", "1::2")):
        pool = record(folder, specs, data, split=split, rows=rows, classes=classes)
    return pool


def _module(name: str, path: Path) -> object:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
