"""What running cascades of a front taught: how far predicted times were off, and how to correct them."""

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from encas.files import FileModel


class Factors(FileModel):
    """By what the time of a member's run is multiplied, at the first stage of a cascade and at later ones."""

    first: float = Field(gt=0)
    later: float = Field(gt=0)


class Corrections(FileModel):
    """Factors for times that members took when they were measured in turns, all of them."""

    members: Mapping[str, Factors]  # those that ran in some cascade
    others: float = Field(gt=0)  # of any other member's run
    rest: float = Field(gt=0)  # of preparing and decoding

    def of(self, member: str) -> Factors:
        """Return a member's factors."""
        return self.members.get(member, Factors(first=self.others, later=self.others))


class Trial(FileModel):
    """A cascade of the front that was run; both times are mean seconds per sample of the same images."""

    cascade: str
    error: float = Field(ge=0, le=1)  # on the split that was searched on
    predicted_s: float = Field(gt=0)
    measured_s: float = Field(gt=0)

    @property
    def deviation(self) -> float:
        """By how much the prediction is off, as a share of what was measured."""
        return self.predicted_s / self.measured_s - 1


class Round(FileModel):
    """Cascades from end to end of one front, run in turns."""

    trials: tuple[Trial, ...] = Field(min_length=1)
    corrections: Corrections | None = None  # with which the front was found, and its times predicted

    @property
    def median_error(self) -> float:
        """Of the predictions."""
        return float(np.median([abs(trial.deviation) for trial in self.trials]))


class Pair(FileModel):
    """A cascade of the first front, and the cheapest of the last one of no more error; run in turns."""

    before: Trial
    after: Trial

    @property
    def kept(self) -> bool:
        """Whether the first one is faster; the last front then has it, too."""
        return self.before.measured_s < self.after.measured_s

    @property
    def ratio(self) -> float:
        """Time of the last front at no more error than the first one's cascade, as a share of its time."""
        return min(1.0, self.after.measured_s / self.before.measured_s)


class Refinement(FileModel):
    """How a search by latency was corrected by the device; the last round is that of the final front."""

    machine: str
    provider: str
    batch: int = Field(ge=1)
    images: int = Field(ge=1)  # of the split that was searched on, run by every cascade in every pass
    passes: int = Field(ge=1)  # the time of a batch is the median over them
    rounds: tuple[Round, ...] = Field(min_length=1)
    pairs: tuple[Pair, ...] = ()  # of the first front and the last one

    @property
    def median_error(self) -> float:
        """Of the final front."""
        return self.rounds[-1].median_error
