"""Cascades of a pool's members, run on this machine: every member is exported once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encas.bundle import Bundle, BundleFile, BundleMember
from encas.cascade import Cascade, Stage
from encas.data import LabelledImages
from encas.export import export
from encas.pool import Pool
from encas.runtime import CascadeExecutor

_SAMPLES = 8  # real images that each export is compared with its network on
Advance = Callable[[int, str], None]  # runs of a cascade since the last call, and what was done


@dataclass(frozen=True)
class Run:
    """What a cascade took for the same images again and again."""

    batches_s: NDArray[np.float64]  # (b,) of each batch, the median over the passes
    survivors: NDArray[np.intp]  # (b, k) samples of each batch that each stage was run for


@dataclass
class Cascades:
    """Runs cascades in turns, so that a machine that slows down slows all of them alike.

    Attributes:
        pool: Of the members.
        split: Whose images are run.
        folder: Where the exported members are kept.
        provider: "cpu" or "cuda".
        allow_code: Run the Python functions that `torch:` members name.
        clock: Seconds.
    """

    pool: Pool
    split: str
    folder: Path
    provider: str
    allow_code: bool = False
    clock: Callable[[], float] = time.perf_counter
    _members: dict[str, BundleMember] = field(default_factory=dict, init=False)

    def run(
        self, cascades: Sequence[Cascade], images: LabelledImages, batch: int, passes: int, advance: Advance
    ) -> list[Run]:
        """Run each cascade on all images, batch after batch, once in every pass.

        The batch before the first one is the last, and is not timed the first time: each is then found as in
        a stream of such batches, however many other cascades ran meanwhile.
        """
        parts = [list(part) for part in images.batches(batch)]
        executors = [self._open(cascade) for cascade in cascades]
        taken_s = np.empty((len(cascades), passes, len(parts)))
        survivors: list[NDArray[np.intp]] = []
        for executor in executors:
            executor.warm_up(batch)
            survivors.append(np.array([executor.run_traced(part)[1].rows for part in parts], np.intp))
        for at in range(passes):
            for which, executor in enumerate(executors):
                executor.run(parts[-1])
                for number, part in enumerate(parts):
                    start_s = self.clock()
                    executor.run(part)
                    taken_s[which, at, number] = self.clock() - start_s
                advance(1, f"pass {at + 1} of {passes}")
        for executor in executors:
            executor.close()
        medians = np.median(taken_s, axis=1)
        return [Run(row, counts) for row, counts in zip(medians, survivors, strict=True)]

    def _open(self, cascade: Cascade) -> CascadeExecutor:
        members = tuple(self._exported(name) for name in dict.fromkeys(cascade.member_names))
        file = BundleFile(name="candidate", files={}, members=members)
        return CascadeExecutor(Bundle(self.folder, file, cascade, self.pool.class_names), self.provider)

    def _exported(self, name: str) -> BundleMember:
        """Export a member by itself, the first time that it is needed."""
        if name not in self._members:
            alone = Cascade(stages=(Stage(member=name),))
            bundle = export(
                alone,
                self.pool,
                self.folder / name,
                split=self.split,
                samples=_SAMPLES,
                allow_code=self.allow_code,
            )
            (member,) = bundle.file.members
            self._members[name] = member.model_copy(update={"file": f"{name}/{member.file}"})
        return self._members[name]
