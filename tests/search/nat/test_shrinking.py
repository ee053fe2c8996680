"""Progressive shrinking: what is trained when, and that being stopped changes nothing."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encas.search.nat.calibrate import answers as answers_of
from encas.search.nat.images import CroppedAndFlipped, Pixels, Scale
from encas.search.nat.recipes import Sandwich, Step, at
from encas.search.nat.shrinking import Begins, Shrinking
from encas.search.nat.space import Arch
from encas.search.nat.spaces import SPACES
from encas.search.nat.supernet import Supernet
from encas.search.nat.trainer import Progress, Schedule, Settings, Trainer

from .nets import images

SPACE = SPACES["tiny-mbv3-w1.0"]
BEGINS = Begins(0.2, 0.4, 0.6)
RECIPE = Shrinking(SPACE, BEGINS, "kl", n_random=2)


def archs(index: int, n_steps: int = 100, recipe: Shrinking = RECIPE) -> list[Arch]:
    return list(recipe.archs(Step(index, n_steps, np.random.default_rng(index))))


def sizes(first: int, last: int) -> tuple[set[int], set[int], set[int]]:
    """Kernels, depths and expands of the last stage that random networks have in some steps."""
    stages = [arch.stages[3] for index in range(first, last) for arch in archs(index)[1:]]
    return (
        {kernel for stage in stages for kernel in stage.kernels},
        {len(stage.kernels) for stage in stages},
        {expand for stage in stages for expand in stage.expands},
    )


def test_each_phase_adds_smaller_choices_to_those_before() -> None:
    assert all(archs(index) == [SPACE.largest] for index in range(20))
    assert sizes(20, 40) == ({3, 5}, {3}, {4})
    assert sizes(40, 50) == ({3, 5}, {2, 3}, {4})
    assert sizes(50, 60) == ({3, 5}, {1, 2, 3}, {4})
    assert sizes(60, 80) == ({3, 5}, {1, 2, 3}, {3, 4})
    assert sizes(80, 100) == ({3, 5}, {1, 2, 3}, {2, 3, 4})


def test_every_network_is_one_of_the_space_below_the_resolution_of_the_day() -> None:
    growing = replace(RECIPE, growing=((0.5, 24),))
    for index in range(100):
        first, *others = archs(index, recipe=growing)
        assert first.resolution == (24 if index < 50 else 32)
        assert len(others) == (0 if index < 20 else 2)
        for arch in others:
            SPACE.check(arch)
            assert arch.resolution <= first.resolution


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7, 10, 99, 100, 1234])
def test_channels_are_sorted_once_before_the_first_narrow_network(n_steps: int) -> None:
    rng = np.random.default_rng(0)
    found = [index for index in range(n_steps) if RECIPE.sorts(Step(index, n_steps, rng))]
    late = [index for index in range(n_steps) if index / n_steps >= 0.6]
    assert found == late[:1]
    assert not any(Sandwich(SPACE, 10, "kl").sorts(Step(index, n_steps, rng)) for index in range(n_steps))


def test_phases_of_no_length_add_their_choices_at_once() -> None:
    recipe = replace(RECIPE, begins=Begins(0.5, 0.5, 1.0))
    found = [arch for index in range(50, 100) for arch in archs(index, recipe=recipe)]
    assert {len(arch.stages[3].kernels) for arch in found} == {1, 2, 3}
    assert {expand for arch in found for expand in arch.stages[3].expands} == {4}


N_STEPS = 10
SMALL = replace(RECIPE, n_random=1, growing=((1.0, 16),))


def halves(n: int) -> Pixels:
    """Noise, redder or greener in the upper or the lower half, which is the label."""
    rng = np.random.default_rng(0)
    labels, images = rng.integers(4, size=n), rng.integers(200, size=(n, 16, 16, 3), dtype=np.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        y = 8 * (label // 2)
        image[y : y + 8, :, label % 2] += 50
    return Pixels(images, labels)


def trainer(recipe: Shrinking = SMALL, n_steps: int = N_STEPS, size: int = 4) -> Trainer:
    batches = CroppedAndFlipped(halves(4 * size), Scale((0.5,) * 3, (0.3,) * 3), size, seed=1)
    supernet = Supernet(SPACE, 4, torch.Generator().manual_seed(0))
    return Trainer(supernet, recipe, batches, Settings(Schedule(0.05, n_steps), seed=1))


class StoppedError(Exception):
    """Instead of a kill."""


@pytest.mark.slow
def test_stopped_at_any_step_and_started_again_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    trainer().run(tmp_path / "whole")
    for last in range(1, N_STEPS):
        clock, place = iter(range(100)), tmp_path / f"{last}"

        def stop(progress: Progress, last: int = last) -> None:
            if progress.step == last + 1:
                raise StoppedError  # one step more is done than is kept

        def time_s(clock: Iterator[int] = clock) -> float:
            return float(next(clock))

        with pytest.raises(StoppedError):
            trainer().run(place, every_s=last, clock=time_s, tell=stop)
        told: list[int] = []
        trainer().run(place, tell=lambda progress, told=told: told.append(progress.step))  # type: ignore[misc]
        assert told[0] == last + 1
        assert place.read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.slow
def test_the_largest_network_does_not_notice_the_sorting_in_the_midst_of_its_training() -> None:
    """It would if momentum stayed with channels that have moved away."""
    answers = []
    for expand in (0.5, 1.0):
        trained = trainer(replace(SMALL, begins=Begins(1.0, 1.0, expand)), n_steps=4)
        kernels = trained.supernet.net.get_parameter("stages.3.1.depth.conv.weight")
        trained.run()
        with torch.no_grad():
            logits = trained.supernet(images(3, 16), archs(0, recipe=SMALL)[0])
        answers.append((kernels, logits))
    torch.testing.assert_close(answers[0][1], answers[1][1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(answers[0][0], answers[1][0], atol=1e-3)


@pytest.mark.slow
def test_the_largest_and_the_smallest_network_learn() -> None:
    trained = trainer(n_steps=120, size=16)
    shown: list[Progress] = []
    trained.run(tell=shown.append)
    assert [one.name for one in shown[0].recent] == ["largest"]
    assert [one.name for one in shown[-1].recent] == ["largest", "random"]
    data = halves(200)
    pixels = Scale((0.5,) * 3, (0.3,) * 3)(torch.from_numpy(data.images))
    for arch in (SPACE.largest, SPACE.smallest):
        probs = answers_of(trained.supernet, at(arch, 16), [pixels], calibration=[pixels])
        assert float((probs.argmax(1) == data.labels).mean()) > 0.8
