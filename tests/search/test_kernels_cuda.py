"""The loop for CUDA devices: in numba's simulator of a device, and on a device where there is one."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("numba")

from encas.errors import InvalidInput
from encas.pool import Member, Pool
from encas.search.evaluate import Evaluator

M, STAGES = 4, 3


def made_pool(path: Path, n: int, n_classes: int) -> Pool:
    """Half of the probabilities in eighths, for ties and confidences exactly at a threshold."""
    rng = np.random.default_rng(n_classes)
    pool = Pool.open_or_create(path, n_classes).with_split("val", rng.integers(n_classes, size=n))
    for index in range(M):
        eighths = rng.multinomial(8, rng.dirichlet(np.full(n_classes, 0.4), n)) / 8
        fine = rng.dirichlet(np.full(n_classes, 0.3), n)
        probs = np.where(np.arange(n)[:, None] % 2, eighths, fine).astype(np.float16)
        pool = pool.with_outputs(
            Member(name=f"net{index}", source="imported", macs=10**index), "val", probs, "test"
        )
    return pool


def counted(pool: Pool, device: Any, genomes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    members = pool.members_with("val")
    evaluator = Evaluator.open(pool, "val", members, np.ones(M), max_stages=STAGES, device=device)
    rng = np.random.default_rng(0)
    found = evaluator.counts(rng.integers(evaluator.space.n_values, size=(genomes, 2 * STAGES - 1)))
    return found.right, found.reached


def assert_same_counts(path: Path, n: int, n_classes: int, genomes: int) -> None:
    pool = made_pool(path, n, n_classes)
    for found, expected in zip(counted(pool, "cuda", genomes), counted(pool, "cpu", genomes), strict=True):
        assert np.array_equal(found, expected)
        assert found.any()


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [10, 100])
def test_a_simulated_device_counts_what_the_processor_counts(n_classes: int, tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util, pathlib\n"
        "spec = importlib.util.spec_from_file_location('these', sys.argv[1])\n"
        "these = importlib.util.module_from_spec(spec); spec.loader.exec_module(these)\n"
        "these.assert_same_counts(pathlib.Path(sys.argv[2]), 60, int(sys.argv[3]), 40)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, __file__, str(tmp_path / "pool"), str(n_classes)],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        check=True,
    )


def works() -> bool:
    from encas.search.kernels_cuda import cuda

    return bool(cuda.is_available())


@pytest.mark.gpu
@pytest.mark.skipif(not works(), reason="numba finds no CUDA device")
@pytest.mark.parametrize("n_classes", [2, 10, 100, 1000])
def test_a_device_counts_what_the_processor_counts(n_classes: int, tmp_path: Path) -> None:
    assert_same_counts(tmp_path / "pool", 3000, n_classes, 500)


@pytest.mark.skipif(works(), reason="numba finds a CUDA device")
def test_where_there_is_no_device_the_line_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"device 'cuda': .* use device 'cpu'"):
        counted(made_pool(tmp_path / "pool", 20, 3), "cuda", 1)
