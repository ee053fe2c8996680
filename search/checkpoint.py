"""What an interrupted search leaves behind: the evaluations it made.

An algorithm draws from its own seeded generator only, so a search that starts again from its seed asks for
the same genomes in the same order. With the answers at hand it is soon where it stopped, and goes on to the
same end: nothing about the algorithm itself has to be kept.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encas.errors import InvalidInput
from encas.files import replaced
from encas.search.ledger import Evaluations


@dataclass(frozen=True)
class Checkpoint:
    """A file of evaluations.

    Attributes:
        path: Where it lies while the search is unfinished.
        problem: Digest of everything that the objectives depend on; a file of another problem counts as none.
    """

    path: Path
    problem: str

    def write(self, evaluations: Evaluations) -> None:
        """Write all evaluations so far in one step."""
        with replaced(self.path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                problem=np.array(self.problem),
                genomes=evaluations.genomes.astype(np.uint16),
                objectives=evaluations.objectives,
            )

    def read(self, n_genes: int) -> Evaluations:
        """Read what was written for the same problem, if anything.

        Raises:
            InvalidInput: The file is no checkpoint.
        """
        if not self.path.exists():
            return Evaluations.none(n_genes)
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                if str(arrays["problem"]) != self.problem:
                    return Evaluations.none(n_genes)
                return Evaluations(arrays["genomes"].astype(np.intp), arrays["objectives"])
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InvalidInput(
                f"{self.path}: not a whole checkpoint ({error}); remove it to start afresh"
            ) from None

    def remove(self) -> None:
        """Remove the file: the search has finished."""
        self.path.unlink(missing_ok=True)
