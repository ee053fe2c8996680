"""The executor on CIFAR-10's real networks and test images: it decides as their recorded outputs do."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from encas.cascade import Answers, run_cascade
from encas.runtime import CascadeExecutor
from encas.runtime.preprocess import normalise

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "../shared/data/cifar10"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there"),
]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "executor_benchmark", ROOT / "benchmarks/runtime/executor.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images(benchmark: ModuleType) -> NDArray[np.uint8]:
    """The half of the test images that nothing is searched on."""
    chosen: NDArray[np.uint8] = benchmark.test_images(DATA)[5000:]
    return chosen


@pytest.fixture(scope="module")
def executor(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CascadeExecutor]:
    bundle = benchmark.make_bundle(tmp_path_factory.mktemp("cifar10"), DATA)
    with CascadeExecutor(bundle, "cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def recorded(executor: CascadeExecutor, images: NDArray[np.uint8]) -> tuple[Answers, NDArray[np.bool_]]:
    """Decisions from outputs of every network on every image, and which of them rounding cannot change."""
    cascade = executor.bundle.cascade
    tensor = normalise(images, executor.bundle.stage_members[0].preprocess)
    outputs = [
        np.concatenate(
            [executor.runners[name].run(tensor[at : at + 500]) for at in range(0, len(tensor), 500)]
        )
        for name in cascade.member_names
    ]
    stored = [probs.astype(np.float16) for probs in outputs]
    answers = run_cascade(cascade, lambda stage, rows: stored[stage][rows], len(images), (1, 1, 1))
    clear = np.ones(len(images), np.bool_)
    for j, stage in enumerate(cascade.stages[:-1]):
        confidence = (sum(probs.astype(np.float32) for probs in stored[: j + 1]) / np.float32(j + 1)).max(
            axis=1
        )
        assert stage.threshold is not None
        clear &= np.abs(confidence - stage.threshold) > 1e-4
    assert clear.mean() > 0.99
    return answers, clear


@pytest.mark.parametrize("size", [1, 7, 64])
def test_every_test_image_in_any_order(
    size: int, executor: CascadeExecutor, images: NDArray[np.uint8], recorded: Any
) -> None:
    answers, clear = recorded
    order = np.random.default_rng(size).permutation(len(images))
    stage, label = np.empty_like(answers.exit_stage), np.empty_like(answers.label)
    for at in range(0, len(images), size):
        rows = order[at : at + size]
        found = executor.run(images[rows])
        stage[rows], label[rows] = found.exit_stage, found.label
    assert np.array_equal(stage[clear], answers.exit_stage[clear])
    assert np.array_equal(label[clear], answers.label[clear])
    assert len(set(stage)) == 3
