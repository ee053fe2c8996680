"""The whole path through the command line, as a user would walk it, on real networks and images."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from encas.bundle import Bundle
from encas.cascade import Answers, Cascade, as_recorded
from encas.evaluation import recorded_answers
from encas.pool import Pool
from encas.runtime import CascadeExecutor, create_session

ENCAS = Path(sys.executable).with_name("encas")
# Rounding to float16, as pools store probabilities, can move one by half a step: 2**-12 below 1.
NEAR = 1e-4 + 2**-12
BATCHES = (1, 7, 64)
FEW = 200  # images that are asked about in small batches too


def encas(*words: object, cwd: Path) -> Any:
    """Run a command and return what it prints with --json."""
    command = [str(ENCAS), *(str(word) for word in words), "--json"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Walk:
    """A folder with pool/, front/, cascade.json and bundle/ in it."""

    folder: Path

    @property
    def pool(self) -> Pool:
        return Pool.open(self.folder / "pool")

    @property
    def cascade(self) -> Cascade:
        return Cascade.read(self.folder / "cascade.json")

    @property
    def bundle(self) -> Bundle:
        return Bundle.open(self.folder / "bundle")

    def accuracy(self, name: str) -> float:
        """Share of right answers of a member over both splits."""
        right = [self.pool.probs(name, s).argmax(axis=1) == self.pool.labels(s) for s in ("val", "test")]
        return float(np.mean(np.concatenate(right)))

    def find(self, min_accuracy: float, *export_options: str) -> None:
        """Search, pick, export."""
        options = ("--evaluations", 30_000, "--seed", 1, "--report-fraction", 0)
        encas("search", "--pool", "pool", *options, cwd=self.folder)
        encas("pick", "front", "--min-accuracy", min_accuracy, cwd=self.folder)
        # Few images: the tests below compare every one of the test split.
        encas("export", "cascade.json", "--samples", 64, *export_options, cwd=self.folder)

    def recorded(self) -> tuple[Answers, NDArray[np.bool_]]:
        """What the pool says of the test split, and which samples no rounding can move over a threshold."""
        cascade, pool = self.cascade, self.pool
        total = np.zeros(())
        clear = np.ones(pool.split("test").n, np.bool_)
        for j, stage in enumerate(cascade.stages[:-1]):
            assert stage.threshold is not None
            total = total + as_recorded(pool.probs(stage.member, "test"))
            clear &= np.abs(total.max(axis=1) / (j + 1) - stage.threshold) > NEAR
        return recorded_answers(cascade, pool, "test"), clear


@dataclass(frozen=True)
class Decisions:
    """Class and exit stage of every sample."""

    label: NDArray[np.intp]
    exit_stage: NDArray[np.intp]

    @classmethod
    def in_batches(
        cls, ask: "Callable[[NDArray[np.intp]], tuple[Any, Any]]", n: int, size: int
    ) -> "Decisions":
        """Ask about all samples in random order, `size` at a time."""
        order = np.random.default_rng(size).permutation(n)
        label, exit_stage = np.empty(n, np.intp), np.empty(n, np.intp)
        for start in range(0, n, size):
            rows = order[start : start + size]
            label[rows], exit_stage[rows] = ask(rows)
        return cls(label, exit_stage)

    def assert_equal(self, expected: Answers, clear: NDArray[np.bool_]) -> None:
        np.testing.assert_array_equal(self.label[clear], expected.label[clear])
        np.testing.assert_array_equal(self.exit_stage[clear], expected.exit_stage[clear])


def assert_executor_agrees(walk: Walk, images: Any) -> None:
    """The executor decides as the pool recorded, for every test sample, at every batch size."""
    expected, clear = walk.recorded()
    assert clear.mean() > 0.98
    with CascadeExecutor(walk.bundle, "cpu") as executor:

        def ask(rows: NDArray[np.intp]) -> tuple[Any, Any]:
            some = images[rows] if isinstance(images, np.ndarray) else [images[row] for row in rows]
            answers = executor.run(some)
            return answers.label, answers.exit_stage

        for size in BATCHES:
            Decisions.in_batches(ask, len(images), size).assert_equal(expected, clear)


def assert_single_file_agrees(walk: Walk, images: Any, folder: Path, image_size: Any = None) -> None:
    """The single file answers every image as the executor does; the first ones at every batch size."""
    from encas.export import write_single_file
    from encas.export.single_file import tensors_of

    single = write_single_file(walk.bundle, folder / "cascade.onnx", image_size=image_size)
    session = create_session(single.path, "cpu")
    outputs = ["probs", "exit_stage", "macs"]
    with CascadeExecutor(walk.bundle, "cpu") as executor:
        for size in BATCHES:
            for start in range(0, len(images) if size == max(BATCHES) else min(FEW, len(images)), size):
                some = images[start : start + size]
                probs, exit_stage, macs = session.run(outputs, tensors_of(single, some))
                expected = executor.run(some)
                assert probs == pytest.approx(expected.probs, abs=1e-5)
                np.testing.assert_array_equal(probs.argmax(axis=1), expected.label)
                np.testing.assert_array_equal(exit_stage, expected.exit_stage)
                np.testing.assert_array_equal(macs, expected.macs)


def assert_server_agrees(
    walk: Walk,
    images: Any,
    start_server: "Callable[..., AbstractContextManager[Any]]",
    as_input: "Callable[[Any], Any]",
) -> None:
    """The server decides as the pool recorded, for every test sample, at every batch size."""
    http = pytest.importorskip("tritonclient.http")
    expected, clear = walk.recorded()
    with start_server(walk.folder / "bundle", "--provider", "cpu") as server:
        client = http.InferenceServerClient(server.url.removeprefix("http://"), network_timeout=120)
        name = walk.bundle.name

        def ask(rows: NDArray[np.intp]) -> tuple[Any, Any]:
            wanted = [http.InferRequestedOutput(output) for output in ("class", "exit_stage")]
            some = images[rows] if isinstance(images, np.ndarray) else [images[row] for row in rows]
            reply = client.infer(name, [as_input(some)], outputs=wanted)
            return reply.as_numpy("class"), reply.as_numpy("exit_stage")

        for size in BATCHES:
            Decisions.in_batches(ask, len(images), size).assert_equal(expected, clear)
        client.close()


@pytest.fixture(scope="session")
def helpers() -> Any:
    """The functions above: a test folder is no package, so a fixture is how its tests get at them."""
    return sys.modules[__name__]
