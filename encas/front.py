"""A front: cascades of which none is beaten in both error and cost by another."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from encas.cascade import Cascade, Evaluated, PoolReference
from encas.cost import Unit
from encas.errors import InvalidInput
from encas.files import FileModel, read_model, write_model
from encas.refinement import Refinement


class Candidate(FileModel):
    """One cascade of a front; what it does on which split is in `cascade.evaluated`."""

    error: float = Field(ge=0, le=1)
    cost: float = Field(ge=0)  # per sample, in the unit of the front's objective
    cascade: Cascade

    @property
    def accuracy(self) -> float:
        """Share of right answers on what was searched on."""
        return 1 - self.error


class Single(FileModel):
    """One member on its own, to compare cascades with."""

    member: str
    error: float = Field(ge=0, le=1)
    cost: float = Field(ge=0)  # per sample, in the unit of the front's objective
    report_error: float | None = Field(default=None, ge=0, le=1)  # on samples kept out of the search


class FrontFile(FileModel):
    """`front.json`; only `seconds` differs between two runs with the same seed."""

    format: Literal["encas-front/1"] = "encas-front/1"
    pool: PoolReference
    split: str  # what was searched on
    objective: str  # see encas.cost.Objective
    unit: Unit
    algorithm: str
    seed: int
    settings: Mapping[str, Any] = Field(default_factory=dict)
    evaluations: Mapping[str, int] = Field(default_factory=dict)
    versions: Mapping[str, str] = Field(default_factory=dict)
    seconds: float = Field(ge=0)
    singles: tuple[Single, ...] = ()  # every member that took part, by name
    candidates: tuple[Candidate, ...] = Field(min_length=1)  # by rising cost, falling error
    refinement: Refinement | None = None  # of a search by latency that was corrected by running cascades


@dataclass(frozen=True)
class Front:
    """A front with the folder it lies in."""

    path: Path
    file: FrontFile

    @classmethod
    def open(cls, path: Path | str) -> "Front":
        """Read a front, given its folder or its `front.json`.

        Raises:
            InvalidInput: There is none, or it is not what it should be.
        """
        path = Path(path)
        folder = path.parent if path.name == "front.json" else path
        if not (folder / "front.json").is_file():
            raise InvalidInput(f"{folder}: holds no front.json; make a front with 'encas search --pool POOL'")
        file = read_model(folder / "front.json", FrontFile)
        return cls(folder, _with_pool_path(file, str((folder / file.pool.path).resolve())))

    def write(self) -> None:
        """Write `front.json`, with the path of its pool relative to it."""
        self.path.mkdir(parents=True, exist_ok=True)
        reference = Cascade(stages=self.file.candidates[0].cascade.stages, pool=self.file.pool)
        relative = reference.relative_to(self.path).pool
        assert relative is not None
        write_model(self.path / "front.json", _with_pool_path(self.file, relative.path))

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """By rising cost, falling error."""
        return self.file.candidates

    def pick(
        self,
        *,
        max_macs: float | None = None,
        max_latency_ms: float | None = None,
        min_accuracy: float | None = None,
    ) -> Cascade:
        """Choose the most accurate cascade within a budget, or the cheapest that is accurate enough.

        Accuracy and MACs are those on the samples that were kept out of the search, if there are any. Which
        cascade within a budget is the most accurate is decided by those that were searched on: so nothing is
        chosen by the accuracy that is reported.

        Args:
            max_macs: Mean per sample.
            max_latency_ms: Mean per sample; the front must have been searched by latency.
            min_accuracy: In [0, 1]. With a budget too: the cheapest one within it.

        Raises:
            ValueError: No wish was stated.
            InvalidInput: No candidate fulfils the wishes; says what there is.
        """
        if max_macs is None and max_latency_ms is None and min_accuracy is None:
            raise ValueError("state max_macs, max_latency_ms or min_accuracy")
        if max_latency_ms is not None and self.file.unit != "s":
            raise InvalidInput(
                f"{self.path}: was searched by {self.file.objective} and knows no latency; search with "
                "--objective latency, or pick by --max-macs"
            )
        fitting = [
            candidate
            for candidate in self.candidates
            if (max_macs is None or self._macs(candidate) <= max_macs)
            and (max_latency_ms is None or candidate.cost * 1e3 <= max_latency_ms)
            and (min_accuracy is None or self._accuracy(candidate) >= min_accuracy)
        ]
        if not fitting:
            first, last = self.candidates[0], max(self.candidates, key=self._accuracy)
            raise InvalidInput(
                f"{self.path}: no cascade fulfils this; the front goes from accuracy "
                f"{self._accuracy(first):.4f} at {self._cost_text(first)} to {self._accuracy(last):.4f} at "
                f"{self._cost_text(last)}"
            )
        if min_accuracy is not None:
            return min(fitting, key=lambda c: (c.cost, c.error)).cascade
        return min(fitting, key=lambda c: (c.error, c.cost)).cascade

    def figures(self, cascade: Cascade) -> Evaluated:
        """What a cascade does on the samples kept out of the search; without any, on those searched on."""
        return cascade.reported or cascade.evaluated[self.file.split]

    def _accuracy(self, candidate: Candidate) -> float:
        return self.figures(candidate.cascade).accuracy

    def _macs(self, candidate: Candidate) -> float:
        return self.figures(candidate.cascade).macs

    def _cost_text(self, candidate: Candidate) -> str:
        if self.file.unit == "s":
            return f"{candidate.cost * 1e3:.3g} ms"
        return f"{candidate.cost / 1e6:.4g} MMACs"


def _with_pool_path(file: FrontFile, path: str) -> FrontFile:
    """Set the path of the pool in the front and in each of its cascades."""
    candidates = tuple(
        c.model_copy(update={"cascade": c.cascade.with_pool_path(path)}) for c in file.candidates
    )
    pool = file.pool.model_copy(update={"path": path})
    return file.model_copy(update={"pool": pool, "candidates": candidates})
