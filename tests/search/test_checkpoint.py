from pathlib import Path

import numpy as np
import pytest

from encas.errors import InvalidInput
from encas.search.checkpoint import Checkpoint
from encas.search.ledger import Evaluations

EVALUATIONS = Evaluations(np.array([[1, 2, 3], [518, 0, 50]]), np.array([[0.25, 1e9], [1 / 3, 2e-3]]))


def test_evaluations_come_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "new" / "checkpoint.npz", "this problem")
    checkpoint.write(EVALUATIONS)
    read = checkpoint.read(3)
    assert (read.genomes == EVALUATIONS.genomes).all()
    assert (read.objectives == EVALUATIONS.objectives).all()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["checkpoint.npz"]


def test_a_checkpoint_of_another_problem_counts_as_none(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "checkpoint.npz", "this problem").write(EVALUATIONS)
    assert len(Checkpoint(tmp_path / "checkpoint.npz", "another").read(3).genomes) == 0


def test_no_checkpoint_is_no_evaluations(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz", "this problem")
    assert checkpoint.read(3).genomes.shape == (0, 3)
    checkpoint.remove()
    checkpoint.write(EVALUATIONS)
    checkpoint.remove()
    assert not checkpoint.path.exists()


@pytest.mark.parametrize("keep", [0, 10, -50])
def test_a_broken_checkpoint_gets_one_line(tmp_path: Path, keep: int) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz", "this problem")
    checkpoint.write(EVALUATIONS)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:keep])
    with pytest.raises(InvalidInput, match=r"checkpoint\.npz: not a whole checkpoint"):
        checkpoint.read(3)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    np.savez(path, problem=np.array("p"), genomes=np.array([{"a": 1}], object), objectives=np.zeros((1, 2)))
    with pytest.raises(InvalidInput, match="not a whole checkpoint"):
        Checkpoint(path, "p").read(3)
