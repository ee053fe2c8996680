"""Two processes that train one supernetwork: what they compute, and what becomes of them when one ends."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from encas.errors import InvalidInput
from encas.search.nat.images import Share
from encas.search.nat.processes import gathered
from encas.search.nat.recipes import Step

from .together import SIZE, batches, recipe, supernet

PROGRAM = Path(__file__).parent / "together.py"


def run(folder: Path, what: str) -> tuple[int, list[str], str]:
    """Exit code, lines of the processes, and complaints; a hang is a failure."""
    done = subprocess.run(
        [sys.executable, PROGRAM, folder, what],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return done.returncode, sorted(done.stdout.splitlines()), done.stderr


def test_shares_are_the_parts_of_the_batch_that_one_process_draws() -> None:
    whole, labels = batches(Share()).draw(3, 16)
    parts = [batches(Share(rank, 4)).draw(3, 16) for rank in range(4)]
    assert torch.equal(torch.cat([images for images, _ in parts]), whole)
    assert torch.equal(torch.cat([part for _, part in parts]), labels)


@pytest.mark.parametrize("n", [3, 8])
def test_a_batch_that_cannot_be_shared_evenly_is_told(n: int) -> None:
    with pytest.raises(InvalidInput, match=f"a batch of {SIZE} images cannot be shared by {n} processes"):
        batches(Share(0, n))


def test_more_processes_than_gpus_are_told() -> None:
    n = torch.cuda.device_count() + 2
    message = f"--processes {n}: each needs a GPU, there are {n - 2}"
    with pytest.raises(InvalidInput, match=message), gathered(n, print, "cuda"):
        pass


@pytest.mark.slow
def test_a_step_is_taken_along_the_mean_of_the_gradients_of_the_shares(tmp_path: Path) -> None:
    code, lines, complaints = run(tmp_path, "one step")
    assert (code, lines) == (0, ["0 1 0", "1 1 0"]), complaints
    nets, norms = [supernet(0).train() for _ in range(2)], Counter[str]()
    for rank, net in enumerate(nets):
        step = Step(0, 1, np.random.default_rng((1, 2, 0)))
        archs = recipe().archs(step)
        recipe().backward(net, archs, *batches(Share(rank, 2)).draw(0, 16), step)
    found = load_file(tmp_path / "0")
    pairs = dict(zip(nets[0].net.named_parameters(), nets[1].net.parameters(), strict=True))
    means = {
        key: (one.grad + other.grad) / 2
        for (key, one), other in pairs.items()
        if one.grad is not None and other.grad is not None
    }
    norm = torch.sqrt(torch.stack([mean.square().sum() for mean in means.values()]).sum())
    rate = 0.1 * min(0.5 / 0.15, 0.5 / 0.85)
    for (key, parameter), _ in pairs.items():
        before = parameter.detach()
        if key not in means:
            assert torch.equal(found[f"net.{key}"], before)
            continue
        gradient = means[key] * min(1.0, 5.0 / float(norm)) + (3e-4 * before if before.ndim > 1 else 0)
        after = before - rate * 1.9 * gradient  # Nesterov's first step
        torch.testing.assert_close(found[f"net.{key}"], after, rtol=1e-4, atol=1e-6)
        norms["moved"] += int(not torch.equal(after, before))
    assert norms["moved"] > 50
    for key, statistic in nets[0].net.named_buffers():
        if statistic.is_floating_point():
            both = (statistic + nets[1].net.get_buffer(key)) / 2
            torch.testing.assert_close(found[f"net.{key}"], both, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_what_is_no_number_in_one_process_is_skipped_in_all_and_all_end_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    code, lines, complaints = run(tmp_path, "poisoned")
    assert (code, lines) == (0, ["0 4 1", "1 4 1"]), complaints
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    assert (tmp_path / "checkpoint").read_bytes() == (tmp_path / "0").read_bytes()
    tensors = load_file(tmp_path / "0")
    assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("killed", "training: process 1 of 0 to 1 was ended by SIGKILL; the same command goes on\n"),
        ("damaged", "cat.jpg: is no image that Pillow can read\n"),
    ],
)
def test_a_process_that_ends_ends_all_with_one_line(tmp_path: Path, what: str, line: str) -> None:
    code, lines, complaints = run(tmp_path, what)
    assert (code, lines, complaints) == (1, [], line)
    assert not is_running(int((tmp_path / "1.pid").read_text()))


@pytest.mark.slow
def test_after_one_was_killed_they_go_on_and_end_with_the_same_bytes(tmp_path: Path) -> None:
    assert run(tmp_path / "stopped", "killed")[0] == 1
    assert (tmp_path / "stopped/checkpoint").exists() and not (tmp_path / "stopped/0").exists()
    for folder in ("stopped", "whole"):
        assert run(tmp_path / folder, "whole")[:2] == (0, ["0 4 0", "1 4 0"])
    for rank in ("0", "1"):
        assert (tmp_path / "stopped" / rank).read_bytes() == (tmp_path / "whole/0").read_bytes()


@pytest.mark.slow
def test_when_the_first_process_is_killed_the_others_end(tmp_path: Path) -> None:
    code, lines, _ = run(tmp_path, "first-killed")
    assert (code, lines) == (-9, [])
    until_s = time.monotonic() + 30
    while is_running(int((tmp_path / "1.pid").read_text())):
        assert time.monotonic() < until_s
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
