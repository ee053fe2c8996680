"""What one step of training does: which networks of the space it trains, on what, and by which loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from encas.search.nat.images import cut_mixed, cut_out, resized
from encas.search.nat.losses import DISTILLATIONS
from encas.search.nat.macs import count_macs
from encas.search.nat.space import Arch, Space
from encas.search.nat.supernet import Supernet


@dataclass(frozen=True)
class Step:
    """Where training is."""

    index: int
    progress: float  # in [0, 1): the share of all steps that is done
    rng: np.random.Generator  # of this step alone


class Recipe(Protocol):
    """Adds the gradients of one step; the caller draws the batch, and takes the optimiser's step."""

    def archs(self, step: Step) -> Sequence[Arch]:
        """Choose the architectures that this step trains; the first has the highest resolution."""

    def backward(
        self, supernet: Supernet, archs: Sequence[Arch], images: Tensor, labels: Tensor, step: Step
    ) -> Tensor:
        """Compute gradients on images at the first architecture's resolution, and return the loss shown."""


@dataclass(frozen=True)
class Plain:
    """Train one architecture of a list by step, without distillation: the fine-tuning of NAT."""

    candidates: Sequence[Arch]
    cut_mix: float = 0.0  # probability
    cut_out: int = 0  # side in pixels

    def archs(self, step: Step) -> Sequence[Arch]:
        """One of the candidates, all equally likely."""
        return [self.candidates[int(step.rng.integers(len(self.candidates)))]]

    def backward(
        self, supernet: Supernet, archs: Sequence[Arch], images: Tensor, labels: Tensor, step: Step
    ) -> Tensor:
        """Cross-entropy, of both labels where images are mixed."""
        images, pasted, share = cut_mixed(images, labels, step.rng, probability=self.cut_mix)
        if self.cut_out:
            images = cut_out(images, step.rng, self.cut_out)
        logits = supernet(images, archs[0])
        loss = share * F.cross_entropy(logits, labels)
        if share < 1:
            loss = loss + (1 - share) * F.cross_entropy(logits, pasted)
        torch.autograd.backward(loss)
        return loss.detach()


@dataclass(frozen=True)
class Sandwich:
    """Train the largest, the smallest and random networks together; all but the largest learn from it.

    Sources: BigNAS (arXiv:2003.11142) for the sandwich rule, AttentiveNAS (arXiv:2011.09011) for the best of
    k candidates of about equal cost, AlphaNet (arXiv:2102.07954) for the adaptive divergence.
    """

    space: Space
    n_classes: int
    distillation: str  # a name in `DISTILLATIONS`
    share: float = 0.5  # of distillation in the loss of smaller networks, the rest is cross-entropy
    n_random: int = 1
    best_of: int = 1  # random networks are the best of so many of about the same cost
    label_smoothing: float = 0.05
    growing: Sequence[tuple[float, int]] = ()  # until a share of all steps, the highest resolution

    def archs(self, step: Step) -> Sequence[Arch]:
        """The largest, the smallest, then random ones, none above the resolution of the day."""
        highest = self._highest(step.progress)
        resolutions = [side for side in self.space.searched if side <= highest]
        low = [side for side in resolutions if side < highest] or resolutions
        smallest = resolutions[0] if step.index % 2 else low[len(low) // 2]
        chosen = [_at(self.space.largest, highest), _at(self.space.smallest, smallest)]
        for _ in range(self.n_random):
            resolution = resolutions[int(step.rng.integers(len(resolutions)))]
            chosen += [_at(self.space.sample(step.rng), resolution)]
            chosen += [_at(arch, resolution) for arch in self._alike(chosen[-1], step.rng)]
        return chosen

    def backward(
        self, supernet: Supernet, archs: Sequence[Arch], images: Tensor, labels: Tensor, step: Step
    ) -> Tensor:
        """Cross-entropy of the largest, then the others' mixture; the loss shown is the largest's."""
        del step  # chance is only in the choice of architectures
        largest = supernet(images, archs[0])
        loss = F.cross_entropy(largest, labels, label_smoothing=self.label_smoothing)
        torch.autograd.backward(loss)
        teacher = largest.detach()
        others = [archs[1]]
        for start in range(2, len(archs), self.best_of):
            others.append(_best(supernet, archs[start : start + self.best_of], images, labels))
        for arch in others:
            student = supernet(resized(images, arch.resolution), arch)
            told = F.cross_entropy(student, labels, label_smoothing=self.label_smoothing)
            taught = DISTILLATIONS[self.distillation](student, teacher)
            torch.autograd.backward((1 - self.share) * told + self.share * taught)
        return loss.detach()

    def _highest(self, progress: float) -> int:
        return next((side for until, side in self.growing if progress < until), self.space.searched[-1])

    def _alike(self, arch: Arch, rng: np.random.Generator) -> list[Arch]:
        """Choose others of about the same cost: the nearest of four times as many."""
        if self.best_of == 1:
            return []
        macs = count_macs(self.space, arch, self.n_classes)
        drawn = [self.space.sample(rng) for _ in range(4 * (self.best_of - 1))]
        at_once = [_at(other, arch.resolution) for other in drawn]
        at_once.sort(key=lambda other: abs(count_macs(self.space, other, self.n_classes) - macs))
        return at_once[: self.best_of - 1]


def _at(arch: Arch, resolution: int) -> Arch:
    return Arch(resolution, arch.stem, arch.stages, arch.head)


@torch.no_grad()
def _best(supernet: Supernet, archs: Sequence[Arch], images: Tensor, labels: Tensor) -> Arch:
    """Return the network with the least loss on the batch."""
    if len(archs) == 1:
        return archs[0]
    small = resized(images, archs[0].resolution)
    losses = [float(F.cross_entropy(supernet(small, arch), labels)) for arch in archs]
    return archs[int(np.argmin(losses))]
