"""A program of two processes that train together: `python together.py FOLDER WHAT`; tests start it.

Each process writes FOLDER/RANK, its weights and momentum at the end, and FOLDER/RANK.pid.
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from encas.errors import EncasError, InvalidInput
from encas.search.nat.images import CroppedAndFlipped, Pixels, Scale, Share, Wanted
from encas.search.nat.processes import gathered
from encas.search.nat.recipes import Recipe, Sandwich, Seen, Step
from encas.search.nat.space import Arch
from encas.search.nat.spaces import SPACES
from encas.search.nat.supernet import Supernet
from encas.search.nat.team import Team
from encas.search.nat.trainer import Progress, Schedule, Settings, Trainer

SPACE = SPACES["tiny-mbv3-w1.0"]
SETTINGS = Settings(Schedule(0.1, 4), seed=1)
SIZE = 8


def batches(share: Share) -> CroppedAndFlipped:
    rng = np.random.default_rng(0)
    pixels = Pixels(rng.integers(256, size=(16, 16, 16, 3), dtype=np.uint8), rng.integers(10, size=16))
    return CroppedAndFlipped(pixels, Scale((0.5,) * 3, (0.3,) * 3), SIZE, seed=1, share=share)


def supernet(seed: int) -> Supernet:
    return Supernet(SPACE, 10, torch.Generator().manual_seed(seed))


def recipe(best_of: int = 1) -> Sandwich:
    return Sandwich(SPACE, 10, "kl", best_of=best_of, growing=((1.0, 16),))


@dataclass(frozen=True)
class Poisoned:
    """Images of one step are no numbers, in the second process only."""

    batches: CroppedAndFlipped
    rank: int

    @property
    def n_per_epoch(self) -> int:
        return self.batches.n_per_epoch

    def stream(self, wanted: Iterable[Wanted]) -> Iterator[tuple[Tensor, Tensor]]:
        for index, (images, labels) in enumerate(self.batches.stream(wanted)):
            yield images * float("nan") if self.rank == 1 and index == 1 else images, labels


@dataclass(frozen=True)
class Ending:
    """In one process, the third step ends it."""

    recipe: Recipe
    how: str

    def sorts(self, step: Step) -> bool:
        return self.recipe.sorts(step)

    def archs(self, step: Step) -> Sequence[Arch]:
        return self.recipe.archs(step)

    def backward(
        self, supernet: Supernet, archs: Sequence[Arch], images: Tensor, labels: Tensor, step: Step
    ) -> Sequence[Seen]:
        if step.index == 2 and step.team.rank == (0 if self.how == "first-killed" else 1):
            if self.how == "damaged":
                raise InvalidInput("cat.jpg: is no image that Pillow can read")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.recipe.backward(supernet, archs, images, labels, step)


def train(team: Team, folder: Path, what: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{team.rank}.pid").write_text(str(os.getpid()))
    own = batches(Share(team.rank, team.size))
    given = Poisoned(own, team.rank) if what == "poisoned" else own
    chosen = recipe(2 if what == "poisoned" else 1)
    trainer = Trainer(
        supernet(team.rank),  # all but the first's are forgotten
        Ending(chosen, what) if what in ("killed", "first-killed", "damaged") else chosen,
        given,
        SETTINGS if what != "one step" else Settings(Schedule(0.1, 1), seed=1),
        team=team,
    )
    shown: list[Progress] = []
    trainer.run(folder / "checkpoint", every_s=0.0, tell=shown.append)
    trainer.save(folder / str(team.rank))
    # In one write, or what two processes say may be mixed.
    sys.stdout.write(f"{team.rank} {shown[-1].step} {shown[-1].skipped}\n")
    sys.stdout.flush()


def main(folder: Path, what: str) -> None:
    torch.set_num_threads(1)
    try:
        with gathered(2, partial(train, folder=folder, what=what), "cpu") as team:
            train(team, folder, what)
    except EncasError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
