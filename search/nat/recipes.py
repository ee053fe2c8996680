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
from encas.search.nat.team import ALONE, Team


@dataclass(frozen=True)
class Step:
    """Where training is."""

    index: int
    n_steps: int
    rng: np.random.Generator  # of this step alone
    team: Team = ALONE

    @property
    def progress(self) -> float:
        """The share of all steps that is done, in [0, 1)."""
        return self.index / self.n_steps

    def begins(self, share: float) -> bool:
        """Whether this is the first step after so large a share of all steps."""
        return share <= self.progress and (self.index == 0 or (self.index - 1) / self.n_steps < share)


@dataclass(frozen=True)
class Seen:
    """What one of the networks that a step trains made of its batch."""

    name: str
    loss: Tensor  # against the labels
    accuracy: Tensor


class Recipe(Protocol):
    """Adds the gradients of one step; the caller draws the batch, and takes the optimiser's step."""

    def sorts(self, step: Step) -> bool:
        """Whether the channels are sorted by importance before this step."""

    def archs(self, step: Step) -> Sequence[Arch]:
        """Choose the architectures that this step trains; the first has the highest resolution."""

    def backward(
        self, supernet: Supernet, archs: Sequence[Arch], images: Tensor, labels: Tensor, step: Step
    ) -> Sequence[Seen]:
        """Compute gradients on images at the first architecture's resolution; what that made comes first."""


@dataclass(frozen=True)
class Plain:
    """Train one architecture of a list by step, without distillation: the fine-tuning of NAT."""

    candidates: Sequence[Arch]
    cut_mix: float = 0.0  # probability
    cut_out: int = 0  # side in pixels

    def sorts(self, step: Step) -> bool:
        """Never."""
        del step
        return False

    def archs(self, step: Step) -> Sequence[Arch]:
        """One of the candidates, all equally likely."""
        return [self.candidates[int(step.rng.integers(len(self.candidates)))]]

    def backward(
        self, supernet: Supernet, archs: Sequence[Arch], images: Tensor, labels: Tensor, step: Step
    ) -> Sequence[Seen]:
        """Cross-entropy, of both labels where images are mixed."""
        images, pasted, share = cut_mixed(images, labels, step.rng, probability=self.cut_mix)
        if self.cut_out:
            images = cut_out(images, step.rng, self.cut_out)
        logits = supernet(images, archs[0])
        loss = share * F.cross_entropy(logits, labels)
        right = share * accuracy(logits, labels)
        if share < 1:
            loss = loss + (1 - share) * F.cross_entropy(logits, pasted)
            right = right + (1 - share) * accuracy(logits, pasted)
        torch.autograd.backward(loss)
        return [Seen("", loss.detach(), right)]


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

    def sorts(self, step: Step) -> bool:
        """Never: small networks are trained from the first step on."""
        del step
        return False

    def archs(self, step: Step) -> Sequence[Arch]:
        """The largest, the smallest, then random ones, none above the resolution of the day."""
        highest = highest_of(self.growing, step.progress, self.space)
        resolutions = [side for side in self.space.searched if side <= highest]
        low = [side for side in resolutions if side < highest] or resolutions
        smallest = resolutions[0] if step.index % 2 else low[len(low) // 2]
        chosen = [at(self.space.largest, highest), at(self.space.smallest, smallest)]
        for _ in range(self.n_random):
            resolution = resolutions[int(step.rng.integers(len(resolutions)))]
            chosen += [at(self.space.sample(step.rng), resolution)]
            chosen += [at(arch, resolution) for arch in self._alike(chosen[-1], step.rng)]
        return chosen

    def backward(
        self, supernet: Supernet, archs: Sequence[Arch], images: Tensor, labels: Tensor, step: Step
    ) -> Sequence[Seen]:
        """Cross-entropy of the largest, then the others' mixture."""
        teaching = Teaching(self.distillation, self.share, self.label_smoothing)
        largest, teacher = teaching.teacher(supernet, archs[0], images, labels)
        others = []
        for start in range(2, len(archs), self.best_of):
            alike = archs[start : start + self.best_of]
            others.append(_best(supernet, alike, images, labels, step.team))
        smallest = teaching.student("smallest", supernet, archs[1], images, labels, teacher)
        for arch in others:
            teaching.student("", supernet, arch, images, labels, teacher)
        return [largest, smallest]

    def _alike(self, arch: Arch, rng: np.random.Generator) -> list[Arch]:
        """Choose others of about the same cost: the nearest of four times as many."""
        if self.best_of == 1:
            return []
        macs = count_macs(self.space, arch, self.n_classes)
        drawn = [self.space.sample(rng) for _ in range(4 * (self.best_of - 1))]
        at_once = [at(other, arch.resolution) for other in drawn]
        at_once.sort(key=lambda other: abs(count_macs(self.space, other, self.n_classes) - macs))
        return at_once[: self.best_of - 1]


@dataclass(frozen=True)
class Teaching:
    """The losses of a network and of what learns from it on the same images."""

    distillation: str  # a name in `DISTILLATIONS`
    share: float
    label_smoothing: float

    def teacher(self, supernet: Supernet, arch: Arch, images: Tensor, labels: Tensor) -> tuple[Seen, Tensor]:
        """Add gradients of the cross-entropy, and return the (b, c) logits too."""
        logits = supernet(images, arch)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        torch.autograd.backward(loss)
        logits = logits.detach()
        return Seen("largest", loss.detach(), accuracy(logits, labels)), logits

    def student(
        self, name: str, supernet: Supernet, arch: Arch, images: Tensor, labels: Tensor, teacher: Tensor
    ) -> Seen:
        """Add gradients of the mixture of cross-entropy and distillation."""
        logits = supernet(resized(images, arch.resolution), arch)
        told = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        taught = DISTILLATIONS[self.distillation](logits, teacher)
        torch.autograd.backward((1 - self.share) * told + self.share * taught)
        return Seen(name, told.detach(), accuracy(logits, labels))


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of a batch that is answered rightly."""
    return (logits.detach().argmax(1) == labels).float().mean()


def at(arch: Arch, resolution: int) -> Arch:
    """Return the same network at another resolution."""
    return Arch(resolution, arch.stem, arch.stages, arch.head)


def highest_of(growing: Sequence[tuple[float, int]], progress: float, space: Space) -> int:
    """Return the highest resolution of the day."""
    return next((side for until, side in growing if progress < until), space.searched[-1])


@torch.no_grad()
def _best(supernet: Supernet, archs: Sequence[Arch], images: Tensor, labels: Tensor, team: Team) -> Arch:
    """Return the network with the least loss on the batch, the same in every process."""
    if len(archs) == 1:
        return archs[0]
    small = resized(images, archs[0].resolution)
    losses = torch.stack([F.cross_entropy(supernet(small, arch), labels).float() for arch in archs])
    team.mean([losses])
    return archs[int(np.argmin(losses.tolist()))]
