"""Training a supernetwork's weights, step by step, so that it can stop at any moment and go on."""

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from encas.errors import EncasError, InvalidInput
from encas.search.nat.channels import sort_channels
from encas.search.nat.images import Batches, Wanted, worker_deaths_told
from encas.search.nat.network import BatchNorm
from encas.search.nat.recipes import Recipe, Seen, Step
from encas.search.nat.supernet import Supernet
from encas.search.nat.team import ALONE, Team
from encas.search.nat.tensors import write_tensors

_MOST_SKIPPED = 10  # steps without a finite loss in a row
_RECENT = 50  # steps over which progress is averaged


class Diverged(EncasError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate over all steps."""

    peak: float
    n_steps: int
    shape: Literal["one-cycle", "cosine"] = "one-cycle"
    warm_up: float = 0.15  # share of the steps, of one-cycle
    part: tuple[float, float] = (0, 1)  # of the whole curve, where several trainings share one

    def rate(self, step: int) -> float:
        """One-cycle rises and falls in straight lines; cosine falls from the peak to 0."""
        first, last = self.part
        done = first + (last - first) * ((step + 0.5) / self.n_steps)
        if self.shape == "cosine":
            return self.peak * 0.5 * (1 + math.cos(math.pi * done))
        return self.peak * min(done / self.warm_up, (1 - done) / (1 - self.warm_up))


@dataclass(frozen=True)
class Settings:
    """How to train."""

    schedule: Schedule
    weight_decay: float = 3e-4  # of matrices and kernels; biases and normalisations have none
    momentum: float = 0.9
    clip_norm: float = 5.0  # of all gradients together
    seed: int = 0


@dataclass(frozen=True)
class Recent:
    """Means over the last steps that trained a network."""

    name: str  # empty where there is one only
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Progress:
    """What is shown of training."""

    step: int  # done
    n_steps: int
    loss: float
    skipped: int  # steps without a finite loss, in all
    recent: Sequence[Recent]


def in_words(progress: Progress) -> str:
    """Say how training goes."""
    words = [
        f"{one.name or 'loss'} {one.loss:.2f}, {100 * one.accuracy:.1f} %" for one in progress.recent
    ] or [f"loss {progress.loss:.3f}"]
    return "; ".join([*words, *([f"{progress.skipped} skipped"] if progress.skipped else [])])


Tell = Callable[[Progress], None]
Clock = Callable[[], float]


class Trainer:
    """SGD with Nesterov momentum; `run` takes all steps that are left.

    Batch and architectures of a step depend on its number and the seed alone, so weights, momentum and the
    number are all that a checkpoint must hold.

    Several processes each draw their share of a batch and normalise by its statistics alone; gradients and
    running statistics are averaged over them after each step, so all hold the same weights.
    """

    def __init__(
        self,
        supernet: Supernet,
        recipe: Recipe,
        batches: Batches,
        settings: Settings,
        device: str = "cpu",
        team: Team = ALONE,
    ) -> None:
        self.supernet = supernet.to(device)
        # Channels last is more than twice as fast on CPUs, and what tensor cores want.
        for module in self.supernet.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.to(memory_format=torch.channels_last)
        self._recipe, self._batches, self._settings, self._device = recipe, batches, settings, device
        self._team, self._mixed = team, _is_faster_mixed(device)
        self._optimizer = _optimizer(supernet, settings)
        self.step = 0
        self.skipped = 0
        self._skipped_in_a_row = 0
        self._recent: dict[str, deque[tuple[float, float]]] = {}

    def run(
        self,
        checkpoint: Path | None = None,
        *,
        every_s: float = 20.0,
        clock: Clock = lambda: 0.0,
        tell: Tell = lambda _progress: None,
    ) -> None:
        """Take the steps that are left.

        Args:
            checkpoint: Where to go on from, if the file is there, and what to keep on the way; of several
                processes the first one reads and writes it.
            every_s: Seconds between two checkpoints; one is written at the end, too.
            clock: Tells seconds.
            tell: Told of every step.

        Raises:
            Diverged: Ten steps in a row had no finite loss.
            InvalidInput: The checkpoint is of another network, or a process that prepares images died.
        """
        first = self._team.rank == 0
        if first and checkpoint is not None and checkpoint.exists():
            self.load(checkpoint)
        self._agree()
        kept_s = clock()
        n_steps = self._settings.schedule.n_steps
        with worker_deaths_told():
            for images, labels in self._batches.stream(self._wanted()):
                loss = self._one_step(images, labels)
                tell(Progress(self.step, n_steps, loss, self.skipped, self._means()))
                if first and checkpoint is not None and (clock() - kept_s >= every_s or self.step == n_steps):
                    self.save(checkpoint)
                    kept_s = clock()

    def save(self, path: Path) -> None:
        """Write weights, momentum and where training is."""
        write_tensors(path, self._tensors(), {"where": json.dumps(self._where())})

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            InvalidInput: It is of another network, or no checkpoint.
        """
        try:
            with safe_open(path, "pt") as file:
                where = json.loads((file.metadata() or {}).get("where", "null"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no dict)
            self._restore(where, tensors)
        except Exception as error:  # a damaged file makes the library raise whatever it likes
            raise InvalidInput(
                f"{path}: is no checkpoint of this training; remove it to begin anew"
            ) from error

    def _where(self) -> dict[str, int]:
        return {"step": self.step, "skipped": self.skipped, "in_a_row": self._skipped_in_a_row}

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"net.{key}": tensor for key, tensor in self.supernet.net.state_dict().items()}
        for key, parameter in self.supernet.net.named_parameters():
            tensors |= {f"momentum.{key}": momentum for momentum in self._momentum(parameter)}
        return {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}

    def _momentum(self, parameter: Tensor) -> list[Tensor]:
        """The momentum of a parameter, if it has been trained."""
        momentum = self._optimizer.state.get(parameter, {}).get("momentum_buffer")
        return [] if momentum is None else [momentum]

    def _restore(self, where: dict[str, int], tensors: dict[str, Tensor]) -> None:
        weights = {key.removeprefix("net."): t for key, t in tensors.items() if key.startswith("net.")}
        self.supernet.net.load_state_dict(weights)
        self.step, self.skipped = where["step"], where["skipped"]
        self._skipped_in_a_row = where["in_a_row"]
        for key, parameter in self.supernet.net.named_parameters():
            momentum = tensors.get(f"momentum.{key}")
            if momentum is not None:
                self._optimizer.state[parameter] = {"momentum_buffer": momentum.to(parameter.device)}

    def _agree(self) -> None:
        """Let all processes go on from where the first one is."""
        if self._team.size == 1:
            return
        first = self._team.rank == 0
        where = self._team.told(json.dumps(self._where()).encode() if first else b"")
        tensors = self._team.told(save(self._tensors()) if first else b"")
        if not first:
            self._restore(json.loads(where), load(tensors))

    def _at(self, index: int) -> Step:
        seed, n_steps = self._settings.seed, self._settings.schedule.n_steps
        return Step(index, n_steps, np.random.default_rng((seed, 2, index)), self._team)

    def _wanted(self) -> Iterator[Wanted]:
        """The batches of the steps that are left, which may be drawn ahead."""
        for index in range(self.step, self._settings.schedule.n_steps):
            yield index, self._recipe.archs(self._at(index))[0].resolution

    def _one_step(self, images: Tensor, labels: Tensor) -> float:
        step = self._at(self.step)
        if self._recipe.sorts(step):
            sort_channels(self.supernet.net, self._momentum)
        archs = self._recipe.archs(step)
        self.supernet.train()
        self._optimizer.zero_grad(set_to_none=True)
        images, labels = images.to(self._device), labels.to(self._device)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._mixed):
            seen = self._recipe.backward(self.supernet, archs, images, labels, step)
        numbers = torch.stack([number.float() for one in seen for number in (one.loss, one.accuracy)])
        self._average(numbers)
        norm = torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), self._settings.clip_norm)
        loss, *_ = found = numbers.tolist()
        if math.isfinite(loss) and bool(torch.isfinite(norm)):
            for group in self._optimizer.param_groups:
                group["lr"] = self._settings.schedule.rate(self.step)
            self._optimizer.step()
            self._skipped_in_a_row = 0
            self._remember(seen, found)
        else:
            self._skip(loss)
        self.step += 1
        return float(loss)

    def _average(self, numbers: Tensor) -> None:
        """Average over the processes; what is not finite in one of them is so in all."""
        gradients = [p.grad for p in self.supernet.parameters() if p.grad is not None]
        statistics = [buffer for buffer in self.supernet.buffers() if buffer.is_floating_point()]
        self._team.mean([numbers, *gradients, *statistics])

    def _remember(self, seen: Sequence[Seen], found: Sequence[float]) -> None:
        for one, loss, accuracy in zip(seen, found[::2], found[1::2], strict=True):
            self._recent.setdefault(one.name, deque(maxlen=_RECENT)).append((loss, accuracy))

    def _means(self) -> Sequence[Recent]:
        means = {name: np.mean(numbers, axis=0) for name, numbers in self._recent.items()}
        return [Recent(name, float(loss), float(accuracy)) for name, (loss, accuracy) in means.items()]

    def _skip(self, loss: float) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        for norm in self.supernet.modules():
            if isinstance(norm, BatchNorm) and not all(b.isfinite().all() for b in norm.buffers()):
                norm.reset_running_stats()  # it would never become a number again
        if self._skipped_in_a_row == _MOST_SKIPPED:
            raise Diverged(
                f"training: step {self.step} is the tenth in a row whose loss or gradients are no finite "
                f"numbers (loss {loss:.3g}); lower the learning rate, now "
                f"{self._settings.schedule.rate(self.step):.3g}"
            )


def _is_faster_mixed(device: str) -> bool:
    """Whether bfloat16 is: not on CPUs, whose backward pass through depthwise convolutions is slow in it."""
    return device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _optimizer(supernet: Supernet, settings: Settings) -> torch.optim.SGD:
    decayed = [parameter for parameter in supernet.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in supernet.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.momentum > 0)
