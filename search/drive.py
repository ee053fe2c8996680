"""The loop around an algorithm: it ends, shows how far it is, and keeps what it has."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encas.search.algorithm import Algorithm
from encas.search.checkpoint import Checkpoint
from encas.search.ledger import Ledger
from encas.search.pareto import hypervolume, non_dominated

# New evaluations since the last call, and a few words on how the search stands.
Progress = Callable[[int, str], None]

# A search ends when it asked for this many known genotypes in a row, or twice as many as there are known.
PATIENCE = 10_000
_SHOW_EVERY_S = 0.5


@dataclass
class Watch:
    """Shows progress and keeps checkpoints, each when it is time to.

    Attributes:
        ledger: What is watched.
        reference: Error and cost that the hypervolume shown refers to.
        progress: Whom to tell.
        checkpoint: Where evaluations are kept; None: nowhere.
        keep_every_s: How often.
        clock: Seconds.
    """

    ledger: Ledger
    reference: tuple[float, float]
    progress: Progress | None = None
    checkpoint: Checkpoint | None = None
    keep_every_s: float = 60.0
    clock: Callable[[], float] = time.monotonic
    _shown: int = field(default=0, init=False)
    _seen: int = field(default=0, init=False)  # evaluations that the front below is of

    def __post_init__(self) -> None:
        self._front = self.ledger.evaluated_since(0)[:0]
        self._started_s = self._shown_s = self._kept_s = self.clock()

    def look(self) -> None:
        """Do what is due."""
        now_s = self.clock()
        if now_s - self._shown_s >= _SHOW_EVERY_S:
            self.show()
        if now_s - self._kept_s >= self.keep_every_s:
            self.keep()

    def show(self) -> None:
        """Tell the progress now."""
        self._shown_s = self.clock()
        if self.progress is None:
            return
        done = self.ledger.n_genotypes
        per_s = done / max(self._shown_s - self._started_s, 1e-9)
        self.progress(done - self._shown, f"{per_s:,.0f}/s, hypervolume {self.hypervolume():.4f}")
        self._shown = done

    def hypervolume(self) -> float:
        """Share of the plane that the front so far dominates; what was seen by the last call costs little."""
        new = self.ledger.evaluated_since(self._seen)
        some = np.concatenate([self._front, new])
        self._front = some[non_dominated(some)]
        self._seen += len(new)
        return hypervolume(self._front, self.reference)

    def keep(self) -> None:
        """Write a checkpoint now."""
        if self.checkpoint is not None:
            self.checkpoint.write(self.ledger.everything)
        self._kept_s = self.clock()


def drive(algorithm: Algorithm, ledger: Ledger, unit: NDArray[np.float64], watch: Watch) -> None:
    """Run an algorithm until it finishes, the budget is spent, or it has found nothing new for long.

    Args:
        algorithm: Is told objectives divided by `unit`.
        ledger: Answers it.
        unit: (o,) the size of each objective that the algorithm takes for 1.
        watch: Looks on after every batch. An interruption keeps a checkpoint and goes on outwards.
    """
    idle = 0
    try:
        while not ledger.is_spent and idle <= max(PATIENCE, 2 * ledger.n_genotypes):
            genomes = algorithm.ask()
            known = ledger.n_genotypes
            objectives = ledger.objectives(genomes)
            if len(objectives) < len(genomes) or not len(genomes):
                break
            algorithm.tell(objectives / unit)
            idle = 0 if ledger.n_genotypes > known else idle + len(genomes)
            watch.look()
    except KeyboardInterrupt:
        watch.keep()
        raise
    watch.show()
