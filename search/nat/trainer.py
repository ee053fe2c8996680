"""Training a supernetwork's weights, step by step, so that it can stop at any moment and go on."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open

from encas.errors import EncasError, InvalidInput
from encas.search.nat.images import Batches
from encas.search.nat.recipes import Recipe, Step
from encas.search.nat.supernet import Supernet
from encas.search.nat.tensors import write_tensors

_MOST_SKIPPED = 10  # steps without a finite loss in a row


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
class Progress:
    """What is shown of training."""

    step: int  # done
    n_steps: int
    loss: float
    skipped: int  # steps without a finite loss, in all


Tell = Callable[[Progress], None]
Clock = Callable[[], float]


class Trainer:
    """SGD with Nesterov momentum; `run` takes all steps that are left.

    Batch and architectures of a step depend on its number and the seed alone, so weights, momentum and the
    number are all that a checkpoint must hold.
    """

    def __init__(
        self, supernet: Supernet, recipe: Recipe, batches: Batches, settings: Settings, device: str = "cpu"
    ) -> None:
        self.supernet = supernet.to(device)
        # Channels last is more than twice as fast on CPUs, and what tensor cores want.
        for module in self.supernet.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.to(memory_format=torch.channels_last)
        self._recipe, self._batches, self._settings, self._device = recipe, batches, settings, device
        self._optimizer = _optimizer(supernet, settings)
        self.step = 0
        self.skipped = 0
        self._skipped_in_a_row = 0

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
            checkpoint: Where to go on from, if the file is there, and what to keep on the way.
            every_s: Seconds between two checkpoints; one is written at the end, too.
            clock: Tells seconds.
            tell: Told of every step.

        Raises:
            Diverged: Ten steps in a row had no finite loss.
            InvalidInput: The checkpoint is of another network.
        """
        if checkpoint is not None and checkpoint.exists():
            self.load(checkpoint)
        kept_s = clock()
        n_steps = self._settings.schedule.n_steps
        while self.step < n_steps:
            loss = self._one_step()
            tell(Progress(self.step, n_steps, loss, self.skipped))
            if checkpoint is not None and (clock() - kept_s >= every_s or self.step == n_steps):
                self.save(checkpoint)
                kept_s = clock()

    def save(self, path: Path) -> None:
        """Write weights, momentum and where training is."""
        tensors = {f"net.{key}": tensor for key, tensor in self.supernet.net.state_dict().items()}
        for key, parameter in self.supernet.net.named_parameters():
            momentum = self._optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{key}"] = momentum
        where = {"step": self.step, "skipped": self.skipped, "in_a_row": self._skipped_in_a_row}
        write_tensors(path, tensors, {"where": json.dumps(where)})

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            InvalidInput: It is of another network, or no checkpoint.
        """
        try:
            with safe_open(path, "pt") as file:
                where = json.loads((file.metadata() or {}).get("where", "null"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no dict)
            weights = {key.removeprefix("net."): t for key, t in tensors.items() if key.startswith("net.")}
            self.supernet.net.load_state_dict(weights)
            self.step, self.skipped, self._skipped_in_a_row = (
                where["step"],
                where["skipped"],
                where["in_a_row"],
            )
        except Exception as error:  # a damaged file makes the library raise whatever it likes
            raise InvalidInput(
                f"{path}: is no checkpoint of this training; remove it to begin anew"
            ) from error
        for key, parameter in self.supernet.net.named_parameters():
            momentum = tensors.get(f"momentum.{key}")
            if momentum is not None:
                self._optimizer.state[parameter] = {"momentum_buffer": momentum.to(parameter.device)}

    def _one_step(self) -> float:
        settings = self._settings
        rng = np.random.default_rng((settings.seed, 2, self.step))
        step = Step(self.step, self.step / settings.schedule.n_steps, rng)
        archs = self._recipe.archs(step)
        images, labels = self._batches.draw(self.step, archs[0].resolution)
        self.supernet.train()
        self._optimizer.zero_grad(set_to_none=True)
        images, labels = images.to(self._device), labels.to(self._device)
        # On CPUs bfloat16 is slower: its backward pass through depthwise convolutions is.
        with torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda"):
            loss = float(self._recipe.backward(self.supernet, archs, images, labels, step))
        norm = torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), settings.clip_norm)
        if math.isfinite(loss) and bool(torch.isfinite(norm)):
            for group in self._optimizer.param_groups:
                group["lr"] = settings.schedule.rate(self.step)
            self._optimizer.step()
            self._skipped_in_a_row = 0
        else:
            self._skip(loss)
        self.step += 1
        return loss

    def _skip(self, loss: float) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == _MOST_SKIPPED:
            raise Diverged(
                f"training: step {self.step} is the tenth in a row whose loss or gradients are no finite "
                f"numbers (loss {loss:.3g}); lower the learning rate, now "
                f"{self._settings.schedule.rate(self.step):.3g}"
            )


def _optimizer(supernet: Supernet, settings: Settings) -> torch.optim.SGD:
    decayed = [parameter for parameter in supernet.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in supernet.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.momentum > 0)
