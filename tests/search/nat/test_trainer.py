"""Training: it learns, goes on where it was stopped, and says when it lost its way."""

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from encas.data import LabelledImages
from encas.errors import InvalidInput
from encas.search.nat.calibrate import answers
from encas.search.nat.images import CroppedAndFlipped, Pixels, RandomlyTransformed, Scale
from encas.search.nat.recipes import Plain, Recipe, Sandwich, Seen, Step, at
from encas.search.nat.space import Arch
from encas.search.nat.spaces import SPACES
from encas.search.nat.supernet import Supernet
from encas.search.nat.trainer import Diverged, Progress, Schedule, Settings, Trainer, in_words

SPACE = SPACES["tiny-alphanet"]
SCALE = Scale((0.5,) * 3, (0.3,) * 3)


@pytest.fixture(scope="module")
def digits() -> Pixels:
    """Real handwritten digits, 16 pixels wide."""
    load = pytest.importorskip("sklearn.datasets").load_digits
    data = load()
    images = np.round(data.images * (255 / 16)).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    return Pixels(images[..., None].repeat(3, 3), data.target.astype(np.int64))


def supernet() -> Supernet:
    return Supernet(SPACE, 10, torch.Generator().manual_seed(0))


def trainer(digits: Pixels, n_steps: int, recipe: Recipe | None = None, size: int = 8) -> Trainer:
    sandwich = Sandwich(SPACE, 10, "alpha", growing=((1.0, 16),))
    batches = CroppedAndFlipped(digits, SCALE, size, seed=1, padding=1)
    return Trainer(supernet(), recipe or sandwich, batches, Settings(Schedule(0.05, n_steps), seed=1))


def weights(of: Trainer) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in of.supernet.net.state_dict().values())


def accuracy(network: Supernet, arch: Arch, digits: Pixels) -> float:
    images = SCALE(torch.from_numpy(digits.images[:500]))
    probs = answers(network, arch, [images], calibration=[images])
    return float((probs.argmax(1) == digits.labels[:500]).mean())


def test_the_rate_rises_and_falls() -> None:
    one_cycle, cosine = Schedule(1.0, 100), Schedule(1.0, 100, "cosine")
    assert one_cycle.rate(0) == pytest.approx(0.005 / 0.15)
    assert one_cycle.rate(14) == pytest.approx(0.145 / 0.15) and one_cycle.rate(15) > one_cycle.rate(16)
    assert one_cycle.rate(99) == pytest.approx(0.005 / 0.85)
    assert cosine.rate(0) > 0.999 and cosine.rate(99) < 1e-3
    assert cosine.rate(24) + cosine.rate(75) == pytest.approx(1.0)


@pytest.mark.slow
def test_largest_and_smallest_learn_together(digits: Pixels) -> None:
    trained = trainer(digits, 100, size=32)
    trained.run()
    largest, smallest = (
        Arch(16, arch.stem, arch.stages, arch.head) for arch in (SPACE.largest, SPACE.smallest)
    )
    assert accuracy(trained.supernet, largest, digits) > 0.8
    assert accuracy(trained.supernet, smallest, digits) > 0.6


@pytest.mark.slow
def test_stopped_and_started_again_it_ends_with_the_same_weights(digits: Pixels, tmp_path: Path) -> None:
    whole = trainer(digits, 4)
    whole.run()
    clock = iter(range(100))

    class StoppedError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise StoppedError  # the third step is done, but only two are in the checkpoint

    with pytest.raises(StoppedError):
        trainer(digits, 4).run(tmp_path / "x", every_s=2, clock=lambda: float(next(clock)), tell=stop)
    again, told = trainer(digits, 4), []
    again.run(tmp_path / "x", tell=lambda progress: told.append(progress.step))
    assert told == [3, 4]
    assert weights(again) == weights(whole)
    finished = trainer(digits, 4)
    finished.run(tmp_path / "x")
    assert weights(finished) == weights(whole)


class Poisoned(Plain):
    """Some steps give no number, as overflows do."""

    def backward(
        self, supernet: Supernet, archs: Sequence[Arch], images: Tensor, labels: Tensor, step: Step
    ) -> Sequence[Seen]:
        images = images * float("nan") if step.index in self.cut_out_steps else images
        return super().backward(supernet, archs, images, labels, step)

    cut_out_steps: Sequence[int] = ()


def poisoned(*steps: int) -> Poisoned:
    recipe = Poisoned([Arch(16, *list(vars(SPACE.smallest).values())[1:])])
    object.__setattr__(recipe, "cut_out_steps", steps)
    return recipe


def test_a_step_without_a_finite_loss_is_skipped_and_counted(digits: Pixels) -> None:
    told: list[Progress] = []
    trained = trainer(digits, 3, poisoned(1))
    trained.run(tell=told.append)
    assert [progress.skipped for progress in told] == [0, 1, 1]
    assert all(torch.isfinite(parameter).all() for parameter in trained.supernet.parameters())


def test_ten_in_a_row_stop_it(digits: Pixels) -> None:
    trained = trainer(digits, 30, poisoned(*range(2, 30)))
    with pytest.raises(Diverged, match=r"step 11 is the tenth in a row .* lower the learning rate"):
        trained.run()


def test_statistics_that_are_no_numbers_do_not_stay(digits: Pixels) -> None:
    trained = trainer(digits, 2, poisoned(1))
    trained.run()
    assert all(buffer.isfinite().all() for buffer in trained.supernet.buffers())


@pytest.mark.slow
def test_it_goes_on_from_a_checkpoint_in_the_layout_of_the_first_version(
    digits: Pixels, tmp_path: Path
) -> None:
    whole = trainer(digits, 2)
    tensors: dict[str, Tensor] = {}

    def keep(progress: Progress) -> None:
        if progress.step == 1:
            net = whole.supernet.net
            tensors.update({f"net.{key}": value.clone() for key, value in net.state_dict().items()})
            for key, parameter in net.named_parameters():
                momentum = whole._optimizer.state.get(parameter, {}).get("momentum_buffer")
                if momentum is not None:
                    tensors[f"momentum.{key}"] = momentum.clone()

    whole.run(tell=keep)
    where = {"where": '{"step": 1, "skipped": 0, "in_a_row": 0}'}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "x", metadata=where)
    again = trainer(digits, 2)
    again.run(tmp_path / "x")
    assert weights(again) == weights(whole)


def test_what_is_shown_is_the_mean_over_the_last_fifty_steps_of_each_network(digits: Pixels) -> None:
    class Known(Plain):
        """Two networks whose losses and accuracies are known; none in the step that is no number."""

        def backward(
            self, supernet: Supernet, archs: Sequence[Arch], images: Tensor, labels: Tensor, step: Step
        ) -> Sequence[Seen]:
            del supernet, archs, images, labels
            loss = torch.tensor(float("nan") if step.index == 57 else float(step.index))
            return [Seen("largest", loss, torch.tensor(0.5)), Seen("smallest", 2 * loss, torch.tensor(0.25))]

    told: list[Progress] = []
    trainer(digits, 60, Known([SPACE.smallest])).run(tell=told.append)
    assert in_words(told[0]) == "largest 0.00, 50.0 %; smallest 0.00, 25.0 %"
    largest, smallest = told[56].recent
    assert (largest.loss, smallest.loss) == (31.5, 63.0)
    assert told[57].recent == told[56].recent
    assert in_words(told[57]).endswith("; 1 skipped")


def test_the_smallest_the_largest_and_a_network_alone_are_shown(digits: Pixels) -> None:
    told: list[Progress] = []
    trainer(digits, 1).run(tell=told.append)
    trainer(digits, 1, Plain([at(SPACE.smallest, 16)])).run(tell=told.append)
    assert [[one.name for one in progress.recent] for progress in told] == [["largest", "smallest"], [""]]
    assert in_words(told[1]).startswith("loss 2.")
    assert all(0 <= one.accuracy <= 1 for progress in told for one in progress.recent)


def test_a_checkpoint_of_something_else_is_told(digits: Pixels, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="is no checkpoint of this training; remove it"):
        trainer(digits, 2).run(tmp_path / "x")


def test_the_smaller_networks_of_a_sandwich_see_no_more_than_the_largest() -> None:
    recipe = Sandwich(SPACE, 10, "kl", n_random=2, best_of=3, growing=((0.5, 24),))
    for index in range(20):
        for progress, highest in ((20, 24), (60, 32)):
            archs = recipe.archs(Step(progress + index, 100, np.random.default_rng(index)))
            assert len(archs) == 2 + 2 * 3
            assert archs[0] == Arch(highest, *list(vars(SPACE.largest).values())[1:])
            assert max(arch.resolution for arch in archs) == highest
            for arch in archs:
                SPACE.check(arch)


def test_a_plain_step_trains_one_of_the_candidates() -> None:
    rng = np.random.default_rng(0)
    candidates = [SPACE.sample(rng) for _ in range(3)]
    drawn = [Plain(candidates).archs(Step(i, 30, np.random.default_rng(i))) for i in range(30)]
    assert {arch for archs in drawn for arch in archs} == set(candidates)


@pytest.mark.slow
def test_a_worker_that_dies_while_a_step_runs_is_one_line(digits: Pixels) -> None:
    images = LabelledImages(digits.images, digits.labels, None)
    batches = RandomlyTransformed(images, SCALE, 8, seed=1, workers=2)
    sandwich = Sandwich(SPACE, 10, "alpha", growing=((1.0, 16),))
    training = Trainer(supernet(), sandwich, batches, Settings(Schedule(0.05, 10_000), seed=1))

    def kill_workers(_progress: Progress) -> None:
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()  # its end is told to torch's handler before the next step

    with pytest.raises(InvalidInput, match="a process that prepares them ended"):
        training.run(tell=kill_workers)
