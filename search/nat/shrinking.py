"""Progressive shrinking: the largest network first, then more and more of the smaller ones.

Source: Cai et al., Once-for-All, ICLR 2020, arXiv:1908.09791. Three things are simpler here: the teacher is
the largest network as it is now, trained on, as in the sandwich rule, instead of a copy from the first phase;
one schedule of the learning rate spans all phases; and resolutions are drawn from the second phase on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from encas.search.nat.recipes import Seen, Step, Teaching, at, highest_of
from encas.search.nat.space import Arch, Space, Stage
from encas.search.nat.supernet import Supernet


@dataclass(frozen=True)
class Begins:
    """The share of all steps at which smaller kernels, depths and expands begin; before, only the largest."""

    kernel: float
    depth: float
    expand: float


@dataclass(frozen=True)
class Shrinking:
    """Train the largest network, and random ones of what is allowed so far, which learn from it."""

    space: Space
    begins: Begins
    distillation: str  # a name in `DISTILLATIONS`
    share: float = 0.5  # of distillation in the loss of smaller networks, the rest is cross-entropy
    n_random: int = 1
    label_smoothing: float = 0.05
    growing: Sequence[tuple[float, int]] = ()  # until a share of all steps, the highest resolution

    def sorts(self, step: Step) -> bool:
        """Once, before the first step that trains networks with narrow blocks."""
        return step.begins(self.begins.expand)

    def archs(self, step: Step) -> Sequence[Arch]:
        """The largest, then random ones, none above the resolution of the day."""
        highest = highest_of(self.growing, step.progress, self.space)
        chosen = [at(self.space.largest, highest)]
        if step.progress < self.begins.kernel:
            return chosen
        allowed = self.allowed(step.progress)
        resolutions = [side for side in self.space.searched if side <= highest]
        for _ in range(self.n_random):
            resolution = resolutions[int(step.rng.integers(len(resolutions)))]
            chosen.append(at(allowed.sample(step.rng), resolution))
        return chosen

    def backward(
        self, supernet: Supernet, archs: Sequence[Arch], images: Tensor, labels: Tensor, step: Step
    ) -> Sequence[Seen]:
        """Cross-entropy of the largest, then the others' mixture."""
        del step  # chance is only in the choice of architectures
        teaching = Teaching(self.distillation, self.share, self.label_smoothing)
        largest, teacher = teaching.teacher(supernet, archs[0], images, labels)
        students = [teaching.student("random", supernet, arch, images, labels, teacher) for arch in archs[1:]]
        return [largest, *students[:1]]

    def allowed(self, progress: float) -> Space:
        """Return the part of the space that is trained: all kernels at once, the rest a size at a time."""
        begins = self.begins
        n_depths = self._n_allowed(
            progress, begins.depth, begins.expand, [s.depths for s in self.space.stages]
        )
        n_expands = self._n_allowed(progress, begins.expand, 1.0, [s.expands for s in self.space.stages])

        def part(stage: Stage) -> Stage:
            kernels = stage.kernels if progress >= begins.kernel else stage.kernels[-1:]
            return replace(
                stage, kernels=kernels, depths=stage.depths[-n_depths:], expands=stage.expands[-n_expands:]
            )

        return replace(self.space, stages=tuple(part(stage) for stage in self.space.stages))

    def _n_allowed(self, progress: float, begin: float, end: float, choices: Sequence[Sequence[int]]) -> int:
        """Count the largest choices that are there; a smaller one comes after each equal part of a phase."""
        most = max(len(one) for one in choices)
        if progress < begin:
            return 1
        if progress >= end:
            return most
        return min(most, 2 + int((most - 1) * (progress - begin) / (end - begin)))
