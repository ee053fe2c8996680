"""Candidates of an iteration, calibrated and evaluated on the machines of a cluster."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from encas.cluster import Cluster
from encas.errors import InvalidInput
from encas.search.nat.checkpoint import load_strictly
from encas.search.nat.evaluate import Judge, Prepared
from encas.search.nat.space import Arch, Space
from encas.search.nat.supernet import Supernet

Chosen = tuple[int, Arch]  # which supernetwork, and what of it
_JOBS_A_SLOT = 2  # networks take different times


@dataclass(frozen=True)
class Weights:
    """A supernetwork as it travels."""

    space: Space
    n_classes: int
    arrays: Mapping[str, NDArray[np.generic]]

    @classmethod
    def of(cls, supernet: Supernet) -> "Weights":
        """Take a supernetwork's weights."""
        state = {name: tensor.cpu().numpy() for name, tensor in supernet.net.state_dict().items()}
        return cls(supernet.space, supernet.n_classes, state)

    def supernet(self, device: str) -> Supernet:
        """Make the supernetwork again."""
        made = Supernet(self.space, self.n_classes)
        state = {name: torch.from_numpy(array.copy()) for name, array in self.arrays.items()}
        load_strictly(made, state, f"weights of {self.space.name}")
        return made.to(device)


@dataclass(frozen=True)
class Evaluating:
    """What is the same for all candidates."""

    judge: Judge
    supernets: tuple[Weights, ...]
    device: str


def judged_on(
    cluster: Cluster, judge: Judge, supernets: Sequence[Supernet], chosen: Sequence[Chosen], device: str
) -> Iterator[tuple[int, tuple[float, int]]]:
    """Yield the place of each candidate with its error and its MACs, as jobs end.

    Neighbours share a job, and the images that it has prepared: order candidates by resolution.

    Raises:
        EncasError: See `Cluster.run`.
    """
    if not chosen:
        return
    need = cluster.need(device)
    evaluating = Evaluating(_bare(judge), tuple(Weights.of(supernet) for supernet in supernets), device)
    size = math.ceil(len(chosen) / (_JOBS_A_SLOT * max(1, cluster.n_slots(need))))
    jobs = [chosen[start : start + size] for start in range(0, len(chosen), size)]
    for which, found in cluster.run(judged, evaluating, jobs, need):
        yield from enumerate(found, which * size)


def judged(evaluating: Evaluating, chosen: Sequence[Chosen]) -> list[tuple[float, int]]:
    """Be a job: error and MACs of some candidates."""
    for images in (evaluating.judge.val.images.images, evaluating.judge.calibration.images.images):
        if isinstance(images[0], Path) and not images[0].exists():
            raise InvalidInput(
                f"{images[0]}: is not there; all machines must find the images by the same paths"
            )
    supernets: dict[int, Supernet] = {}
    found = []
    for which, arch in chosen:
        if which not in supernets:
            supernets[which] = evaluating.supernets[which].supernet(evaluating.device)
        found.append(evaluating.judge.objectives(supernets[which], arch))
    return found


def _bare(judge: Judge) -> Judge:
    """Leave out what has been prepared, which is more than the images, and name files from the root."""

    def without(prepared: Prepared) -> Prepared:
        images = prepared.images.images
        if not isinstance(images, np.ndarray):
            images = [image.absolute() for image in images]
        return replace(prepared, images=replace(prepared.images, images=images), _pixels={})

    return Judge(without(judge.val), without(judge.calibration))
