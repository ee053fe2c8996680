"""Real networks with their images, as pools: for the benchmarks that predict and search by time."""

import importlib.util
import os
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encas.data import open_images
from encas.export import MemberSpec, record
from encas.export.source import open_network, spec_of
from encas.pool import Pool
from encas.preprocess import Preprocess

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
IMAGENET_STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RAW = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "divisor": 1}
SIDES = (96, 128, 160, 192, 224, 256)


@dataclass(frozen=True)
class RealPool:
    """A pool with splits `val` and `test`, and the images of both."""

    pool: Pool
    val: Sequence[Path] | np.ndarray
    test: Sequence[Path] | np.ndarray


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
    return RealPool(_recorded(folder / "cifar10-pool", specs, file), images[:n:2], images[1:n:2])


def photographs(folder: Path, data: Path) -> RealPool:
    """Six MobileNets and three EfficientNet-Lites of 14 to 860 MMACs on 1,000 photographs."""
    csv, specs = _photographs(folder, data), _nine_networks(data)
    pool = _recorded(folder / "photographs-pool", specs, csv, classes=[str(j) for j in range(1000)])
    return _with_photographs(pool, csv)


def variants(folder: Path, data: Path) -> RealPool:
    """The same nine networks at six input sides each, 8 to 830 MMACs; ten minutes to record."""
    csv, specs = _photographs(folder, data), []
    for spec in _nine_networks(data):
        usual = open_network(spec)
        for side in SIDES:
            sized = usual.preprocess.model_copy(update={"size": (side, side)})
            file = folder / "variants" / f"{spec.name}@{side}.onnx"
            if not file.is_file():
                file.parent.mkdir(exist_ok=True)
                open_network(spec.model_copy(update={"preprocess": sized})).write_onnx(file)
            specs.append(MemberSpec(source=f"onnx:{file}", name=file.stem, preprocess=sized))
    pool = _recorded(folder / "variants-pool", specs, csv, classes=[str(j) for j in range(1000)])
    return _with_photographs(pool, csv)


def recorded(given: Path, folder: Path) -> RealPool:
    """The members of a pool as ONNX files, which open in no time; its val and test must be at hand."""
    pool, specs = Pool.open(given), []
    for member in pool.file.members:
        file = folder / f"{given.name}-onnx" / f"{member.name}.onnx"
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            open_network(spec_of(member, pool.path, allow_code=True)).write_onnx(file)
        specs.append(MemberSpec(source=f"onnx:{file}", name=member.name, preprocess=member.preprocess))
    images = {}
    for split in ("val", "test"):
        data = pool.split(split).data
        same = record(
            folder / f"{given.name}-pool", specs, pool.path / data.path, split=split, rows=data.rows
        )
        images[split] = open_images(pool.path / data.path).rows(data.rows).images
    return RealPool(same, images["val"], images["test"])


def _photographs(folder: Path, data: Path) -> Path:
    """Unpack them, and name the list of their classes."""
    with tarfile.open(data / "imagenet/photographs.tar") as tar:
        tar.extractall(folder / "photographs", filter="data")
    (csv,) = (folder / "photographs").rglob("labels.csv")
    return csv


def _nine_networks(data: Path) -> list[MemberSpec]:
    os.environ["ENCAS_TEST_IMAGENET"] = str(data / "imagenet")  # where the two modules find their weights
    sys.path[:0] = [str(Path(__file__).parents[2] / "tests/real"), str(Path(__file__).parent)]
    names = sorted(
        p.name.removesuffix("_int8.npz") for p in (data / "imagenet/mobilenets").glob("*_int8.npz")
    )
    specs = [MemberSpec(source=f"torch:photograph_networks:{name}", name=name) for name in names]
    return specs + [MemberSpec(source=f"torch:lite_networks:lite{i}", name=f"lite{i}") for i in range(3)]


def _with_photographs(pool: Pool, csv: Path) -> RealPool:
    names = [line.split(",")[0] for line in csv.read_text().splitlines()[1:]]
    images = [csv.parent / name for name in names]
    return RealPool(pool, images[::2], images[1::2])


POOLS = {"cifar10": cifar10, "photographs": photographs, "variants": variants}


def _recorded(folder: Path, specs: list[MemberSpec], data: Path, classes: list[str] | None = None) -> Pool:
    for split, rows in (("val", "::2"), ("test", "1::2")):
        pool = record(folder, specs, data, split=split, rows=rows, classes=classes)
    return pool


def _module(name: str, path: Path) -> object:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
