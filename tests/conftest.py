"""Real data and real small networks that every test can have within a second, without torch.

The digits of scikit-learn (1,797 images of 8 x 8 pixels), and networks of one random hidden layer whose
output layer is fitted by ridge regression: real classifiers, of rising cost and accuracy.
"""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

from encas.bundle import Bundle, BundleFile, BundleMember, LabelsFile, Parity
from encas.cascade import Cascade, Stage
from encas.evaluation import evaluate
from encas.files import sha256_of, write_bytes, write_model
from encas.gears import GearsFile
from encas.pool import Member, Pool
from encas.preprocess import Preprocess

PREPROCESS = Preprocess(channels=1, size=(8, 8), interpolation="bilinear", mean=(0.0,), std=(1.0,))
HIDDEN = (4, 8, 16, 32, 64, 128, 256, 512)
N_VAL = 600
ENCAS = Path(sys.executable).with_name("encas")

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

# A shell that starts something in the background makes it ignore Ctrl-C, and so all that it starts itself:
# the commands whose Ctrl-C is tested here would never hear of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Digits:
    """All digits, the first half to fit the networks on."""

    images: NDArray[np.uint8]  # (1797, 8, 8)
    labels: NDArray[np.int64]

    @property
    def val(self) -> slice:
        return slice(597, 597 + N_VAL)

    @property
    def test(self) -> slice:
        return slice(597 + N_VAL, None)


@dataclass(frozen=True)
class Network:
    """softmax(relu(x W + b) V + c), x the 64 pixels in [0, 1]."""

    name: str
    w: NDArray[np.float32]
    b: NDArray[np.float32]
    v: NDArray[np.float32]
    c: NDArray[np.float32]

    @property
    def macs(self) -> int:
        return self.w.size + self.v.size

    def probs(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = images.reshape(len(images), 64).astype(np.float32) / np.float32(255)
        logits = np.maximum(x @ self.w + self.b, 0) @ self.v + self.c
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True), np.float32)

    def onnx_bytes(self, *, softmax: bool = True) -> bytes:
        """Return the network as an ONNX file with a free batch axis."""
        onnx = pytest.importorskip("onnx")
        helper, floats = onnx.helper, onnx.TensorProto.FLOAT
        nodes = [
            helper.make_node("Flatten", ["image"], ["x"]),
            helper.make_node("Gemm", ["x", "w", "b"], ["z"]),
            helper.make_node("Relu", ["z"], ["h"]),
            helper.make_node("Gemm", ["h", "v", "c"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probs"], axis=1),
        ]
        graph = helper.make_graph(
            nodes if softmax else nodes[:-1],
            self.name,
            [helper.make_tensor_value_info("image", floats, ["batch", 1, 8, 8])],
            [helper.make_tensor_value_info("probs" if softmax else "logits", floats, ["batch", 10])],
            [onnx.numpy_helper.from_array(getattr(self, name), name) for name in "wbvc"],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def _fit(images: NDArray[np.uint8], labels: NDArray[np.int64], hidden: int) -> Network:
    rng = np.random.default_rng(hidden)
    w = rng.normal(0, 0.35, (64, hidden)).astype(np.float32)
    b = rng.normal(0, 0.35, hidden).astype(np.float32)
    x = images.reshape(len(images), 64) / 255
    h = np.maximum(x @ w + b, 0)
    h1 = np.hstack([h, np.ones((len(h), 1))])
    targets = np.where(np.eye(10)[labels] > 0, 8.0, 0.0)
    solution = np.linalg.solve(h1.T @ h1 + 1.0 * np.eye(hidden + 1), h1.T @ targets).astype(np.float32)
    return Network(f"hidden{hidden:03d}", w, b, solution[:-1], solution[-1])


@pytest.fixture(scope="session")
def ray_token() -> str:
    """A token of this process for the clusters that it starts; Ray reads it once and keeps it.

    Without one, Ray would write one into the home folder. Processes of our clusters have it in their
    environment, by which tests tell them from others'.
    """
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    return os.environ["RAY_AUTH_TOKEN"]


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> None:
    """Let torch compute in one thread: for small networks several cost more than they bring."""
    torch = sys.modules.get("torch")
    if torch is not None and request.node.get_closest_marker("real") is None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Digits:
    datasets = pytest.importorskip("sklearn.datasets")
    loaded = datasets.load_digits()
    images = np.round(loaded.images * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    return Digits(images[order], loaded.target[order].astype(np.int64))


@pytest.fixture(scope="session")
def networks(digits: Digits) -> tuple[Network, ...]:
    """Eight networks, from 296 to 37,888 MACs."""
    return tuple(_fit(digits.images[:597], digits.labels[:597], hidden) for hidden in HIDDEN)


@pytest.fixture(scope="session")
def _pool_once(
    digits: Digits, networks: tuple[Network, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("digits") / "pool"
    pool = Pool.open_or_create(path, [str(i) for i in range(10)])
    for name, rows in (("val", digits.val), ("test", digits.test)):
        pool = pool.with_split(name, digits.labels[rows])
        for network in networks:
            member = Member(
                name=network.name,
                source="imported",
                macs=network.macs,
                params=network.macs + network.b.size + network.c.size,
                preprocess=PREPROCESS,
            )
            pool = pool.with_outputs(member, name, network.probs(digits.images[rows]), "numpy")
    return path


@pytest.fixture
def pool_path(_pool_once: Path, tmp_path: Path) -> Path:
    """A pool of the eight networks on the splits val (600) and test (600), to be changed at will."""
    import shutil

    return Path(shutil.copytree(_pool_once, tmp_path / "pool"))


@pytest.fixture
def digits_cascade() -> Cascade:
    """Three stages that all get some of the samples."""
    return Cascade(
        stages=(
            Stage(member="hidden016", threshold=0.8),
            Stage(member="hidden064", threshold=0.8),
            Stage(member="hidden512"),
        )
    )


def write_bundle(
    path: Path,
    cascade: Cascade,
    networks: tuple[Network, ...],
    version: str = "1",
    cheaper: tuple[Cascade, ...] = (),
) -> None:
    """Write a bundle of the digit networks without going through an exporter."""
    names = {name for gear in (cascade, *cheaper) for name in gear.member_names}
    used = [network for network in networks if network.name in names]
    cascade.write(path / "cascade.json")
    if cheaper:
        write_model(path / "gears.json", GearsFile(cheaper=cheaper))
    write_model(path / "labels.json", LabelsFile(labels=tuple(f"digit {i}" for i in range(10))))
    for network in used:
        write_bytes(path / "members" / f"{network.name}.onnx", network.onnx_bytes())
    files = [*sorted(path.glob("*.json")), *sorted((path / "members").iterdir())]
    members = tuple(
        BundleMember(
            name=network.name,
            file=f"members/{network.name}.onnx",
            input="image",
            output="probs",
            preprocess=PREPROCESS,
            macs=network.macs,
            opset=18,
            source="imported",
            parity=Parity(n=1, max_abs_difference=0, changed_labels=0),
        )
        for network in used
    )
    digests = {str(file.relative_to(path)): sha256_of(file) for file in files}
    write_model(
        path / "bundle.json",
        BundleFile(name="digits", version=version, files=digests, members=members).sealed(),
    )


@pytest.fixture(scope="session")
def _bundle_once(networks: tuple[Network, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "bundle"
    stages = (
        Stage(member="hidden016", threshold=0.8),
        Stage(member="hidden064", threshold=0.8),
        Stage(member="hidden512"),
    )
    write_bundle(path, Cascade(stages=stages), networks)
    return path


@pytest.fixture
def bundle_path(_bundle_once: Path, tmp_path: Path) -> Path:
    """A bundle of `digits_cascade`, to be changed at will."""
    import shutil

    return Path(shutil.copytree(_bundle_once, tmp_path / "bundle"))


@pytest.fixture
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)


@pytest.fixture(scope="session")
def whole_bundle(networks: tuple[Network, ...], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of all eight networks, to be given other cascades by `dataclasses.replace`; its files stay."""
    path = tmp_path_factory.mktemp("digits") / "whole"
    stages = [Stage(member=network.name, threshold=0.8) for network in networks]
    stages[-1] = stages[-1].model_copy(update={"threshold": None})
    write_bundle(path, Cascade(stages=tuple(stages)), networks)
    return Bundle.open(path)


def _gear(pool: Pool, *stages: tuple[str, float | None]) -> Cascade:
    cascade = Cascade(stages=tuple(Stage(member=name, threshold=threshold) for name, threshold in stages))
    return cascade.model_copy(update={"evaluated": {"test": evaluate(cascade, pool, "test")}})


@pytest.fixture(scope="session")
def geared_bundle(
    _pool_once: Path, networks: tuple[Network, ...], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """A bundle of three gears, with figures on the split test; not to be changed."""
    path, pool = tmp_path_factory.mktemp("digits") / "geared", Pool.open(_pool_once)
    best = _gear(pool, ("hidden016", 0.8), ("hidden064", 0.8), ("hidden512", None))
    cheaper = (_gear(pool, ("hidden016", 0.8), ("hidden064", None)), _gear(pool, ("hidden008", None)))
    write_bundle(path, best, networks, cheaper=cheaper)
    return Bundle.open(path)


@dataclass(frozen=True)
class Served:
    """A running `encas serve` that can be asked."""

    url: str
    process: subprocess.Popen[str]
    grpc: str | None = None


@contextmanager
def running_server(
    *arguments: str | Path, encas: Sequence[str | Path] = (ENCAS,), complaints: bool = False
) -> Iterator[Served]:
    """Run `encas serve ARGUMENTS` on a free port; at the end it must stop cleanly, with no complaint.

    Where `complaints` are expected, their text does not matter.
    """
    command = [*encas, "serve", *arguments, "--port", "0"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            said.seek(0)
            assert " at http" in line, line + said.read()
            grpc = line.split(", gRPC at ")[1].strip() if ", gRPC at " in line else None
            yield Served(line.split(" at ")[1].split()[0], process, grpc)
        finally:
            process.terminate()
            code = process.wait(60)
        said.seek(0)
        assert (code, "" if complaints else said.read()) == (0, "")


@pytest.fixture(scope="session")
def served(_bundle_once: Path) -> Iterator[Served]:
    """One server of the digits bundle for all tests."""
    with running_server(_bundle_once, "--provider", "cpu") as server:
        yield server


@pytest.fixture(scope="session")
def start_server() -> Callable[..., AbstractContextManager[Served]]:
    """Start further servers."""
    return running_server


@pytest.fixture
def digits_files(digits: Digits, networks: tuple[Network, ...], tmp_path: Path) -> Path:
    """What `encas pool record` reads: networks that end in logits, images, how to prepare them."""
    folder = tmp_path / "files"
    for network in networks:
        write_bytes(folder / "networks" / f"{network.name}.onnx", network.onnx_bytes(softmax=False))
    np.savez(
        folder / "digits.npz",
        images=digits.images,
        labels=digits.labels,
        classes=[f"digit {i}" for i in range(10)],
    )
    write_model(folder / "preprocess.yml", PREPROCESS)
    return folder
