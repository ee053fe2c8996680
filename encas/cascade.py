"""A cascade, and the one definition of how it runs."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from encas.certificate import Certificate
from encas.files import FileModel, read_model, write_model
from encas.interval import Interval

Probs = NDArray[np.float32]
Rows = NDArray[np.intp]
# (stage, rows that are still active) -> (a, c) softmax outputs of that stage's member for those rows.
MemberProbs = Callable[[int, Rows], NDArray[np.floating[Any]]]

Combine = Literal["mean", "last"]
Confidence = Literal["max-probability", "logit-gap"]
_LARGE = 256  # numbers from which on rounding in bulk is faster than one by one


class Stage(FileModel):
    """One step of a cascade: a member, and how sure the answer must be to stop after it."""

    member: str = Field(min_length=1)
    threshold: float | None = None


class Evaluated(FileModel):
    """What a cascade does on one labelled split."""

    n: int = Field(ge=1)
    accuracy: float = Field(ge=0, le=1)
    macs: float = Field(ge=0)  # mean per sample
    exit_fractions: tuple[float, ...]
    interval: Interval | None = None  # what accuracy to expect on other samples


class Searched(FileModel):
    """What a cascade was searched on. Its figures there flatter: it was chosen by them."""

    split: str
    report_fraction: float = Field(default=0, ge=0, lt=1)  # of the split, kept out of the search
    report_sha256: str | None = None  # of the rows that were kept out

    @property
    def report(self) -> str:
        """Name under which `Cascade.evaluated` has the figures on the rows that were kept out."""
        return f"{self.split}-report"


class PoolReference(FileModel):
    """Where the recorded outputs lie that a cascade was found on."""

    path: str  # relative to the file that says so
    sha256: str


class Cascade(FileModel):
    """Members in the order in which they run, with the thresholds between them.

    A sample leaves after a stage if its confidence is greater than the stage's threshold (strict: a sample
    at the threshold stays). With `combine` "mean" the answer is the mean of the probabilities of all stages
    so far, with "last" those of the latest stage alone. `confidence` is the largest probability, or the
    difference between the two largest logits, which is the logarithm of the probabilities' ratio.

    Source: Chebykin et al., GECCO 2022, arXiv:2203.04011 ("mean"); Streeter, ICML 2018 ("last", "logit-gap").
    """

    format: Literal["encas-cascade/1"] = "encas-cascade/1"
    stages: tuple[Stage, ...] = Field(min_length=1)
    combine: Combine = "mean"
    confidence: Confidence = "max-probability"
    evaluated: Mapping[str, Evaluated] = Field(default_factory=dict)
    searched: Searched | None = None  # unknown for cascades that no search has found
    pool: PoolReference | None = None
    certificate: Certificate | None = None

    @model_validator(mode="after")
    def _thresholds_fit(self) -> "Cascade":
        *before, last = self.stages
        if last.threshold is not None:
            raise ValueError(f"the last stage ({last.member}) answers always: its threshold must be null")
        top = 1.0 if self.confidence == "max-probability" else np.inf
        for j, stage in enumerate(before):
            if stage.threshold is None or not 0 <= stage.threshold <= top:
                raise ValueError(
                    f"stage {j} ({stage.member}): the threshold must be a number in [0, {top:g}], "
                    f"got {'null' if stage.threshold is None else format(stage.threshold, 'g')}"
                )
        return self

    @model_validator(mode="after")
    def _certificate_fits(self) -> "Cascade":
        thresholds = tuple(stage.threshold for stage in self.stages[:-1])
        if self.certificate is not None and self.certificate.thresholds != thresholds:
            raise ValueError("the certificate is about other thresholds than the stages have; certify again")
        return self

    @classmethod
    def read(cls, path: Path | str) -> "Cascade":
        """Read `cascade.json`; the pool's path becomes absolute.

        Raises:
            InvalidInput: The file is missing, is not a cascade, or has a threshold out of range.
        """
        path = Path(path)
        cascade = read_model(path, cls)
        if cascade.pool is None:
            return cascade
        return cascade.with_pool_path((path.parent / cascade.pool.path).resolve())

    def write(self, path: Path | str) -> None:
        """Write `cascade.json`; the pool's path becomes relative to it."""
        path = Path(path)
        write_model(path, self.relative_to(path.parent))

    def with_pool_path(self, pool_path: Path | str) -> "Cascade":
        """Return the same cascade, its pool lying elsewhere."""
        if self.pool is None:
            return self
        return self.model_copy(update={"pool": self.pool.model_copy(update={"path": str(pool_path)})})

    def relative_to(self, folder: Path) -> "Cascade":
        """Return the same cascade with the path of its pool relative to a folder."""
        if self.pool is None:
            return self
        return self.with_pool_path(os.path.relpath(self.pool.path, folder.resolve()))

    @property
    def reported(self) -> Evaluated | None:
        """What it does on the samples that were kept out of the search, if there are any."""
        return None if self.searched is None else self.evaluated.get(self.searched.report)

    @property
    def member_names(self) -> tuple[str, ...]:
        """One name per stage; a member may stand at several stages."""
        return tuple(stage.member for stage in self.stages)

    def __str__(self) -> str:
        """Read as `a >0.62 b`: run a, stop above 0.62, else run b."""
        parts = [s.member if s.threshold is None else f"{s.member} >{s.threshold:g}" for s in self.stages]
        return " ".join(parts)


@dataclass(frozen=True)
class Answers:
    """What a cascade says of n samples."""

    probs: Probs  # (n, c)
    label: NDArray[np.intp]  # (n,) class indices, the first of equally probable ones
    confidence: NDArray[np.float32]  # (n,) at the exit
    exit_stage: NDArray[np.intp]  # (n,) 0-based
    macs: NDArray[np.int64]  # (n,) of the stages that ran

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.label)


def as_recorded(probs: NDArray[np.floating[Any]]) -> Probs:
    """Round probabilities to float16, the precision that pools store, and return float32.

    Everything that runs a cascade starts from the same rounded numbers, so that the search, the executor
    and the server take the same side of a threshold although their engines differ in the last float32 bits.
    """
    if probs.dtype != np.float32 or probs.size < _LARGE or not (probs.min() >= 0 and probs.max() < 2):
        return probs.astype(np.float16).astype(np.float32)
    return _rounded(np.asarray(probs, np.float32))


def _rounded(probs: Probs) -> Probs:
    """Round numbers in [0, 2) to float16 as numpy does, 30 times as fast where many are tiny.

    numpy converts one number at a time and reports every underflow to the processor.
    """
    bits = probs.view(np.uint32)
    # float16 keeps 10 of the mantissa's 23 bits; a tie goes to the even neighbour.
    to_even = np.uint32(0x0FFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    normal = ((bits + to_even) & np.uint32(0xFFFFE000)).view(np.float32)
    # Below its smallest normal number float16 has steps of 2**-24, which is what float32 has above 0.5.
    half = np.float32(0.5)
    return np.where(probs < np.float32(2**-14), (probs + half) - half, normal)


# Half the smallest float16: what a probability that was rounded to 0 may have been. It keeps gaps finite.
LEAST = np.float32(2**-25)


def confidence_of(probs: Probs, kind: Confidence) -> NDArray[np.float32]:
    """Say how sure (n, c) probabilities are, as (n,) numbers; see `Cascade`."""
    if kind == "max-probability":
        return np.asarray(probs.max(axis=1, initial=0))
    if probs.shape[1] < 2:
        return np.full(len(probs), -np.log(LEAST), np.float32)
    top2 = np.maximum(np.partition(probs, -2, axis=1)[:, -2:], LEAST)
    gap: NDArray[np.float32] = np.log(top2[:, 1]) - np.log(top2[:, 0])
    return gap


@dataclass(frozen=True)
class Step:
    """What one stage makes of the samples that reach it."""

    total: Probs  # (a, c) what the next stage goes on from
    mean: Probs  # (a, c) the answer if the sample leaves here
    confidence: NDArray[np.float32]  # (a,)
    leaves: NDArray[np.bool_]  # (a,)


def run_step(cascade: Cascade, stage: int, total: Probs, probs: NDArray[np.floating[Any]]) -> Step:
    """Decide who leaves after a stage; a sample's answer does not depend on which others are there.

    Args:
        cascade: k stages.
        stage: Which of them has run.
        total: (a, c) `Step.total` of the stage before; not looked at after the first stage.
        probs: (a, c) what the stage's member says of the same samples.

    Returns:
        Arithmetic is float32 on probabilities rounded to float16: the sum in the order of the stages,
        divided by their number.
    """
    probs = as_recorded(probs)
    if stage == 0 or cascade.combine == "last":
        total = mean = probs
    else:
        total = total + probs
        mean = total / np.float32(stage + 1)
    confidence = confidence_of(mean, cascade.confidence)
    threshold = cascade.stages[stage].threshold
    if threshold is None:
        return Step(total, mean, confidence, np.ones(len(probs), np.bool_))
    return Step(total, mean, confidence, confidence > np.float32(threshold))


def run_cascade(cascade: Cascade, member_probs: MemberProbs, n: int, macs: Sequence[int]) -> Answers:
    """Run a cascade over n samples, asking each member only for the samples that get that far.

    Args:
        cascade: k stages.
        member_probs: Called once per stage that anybody reaches, with the active rows in rising order.
        n: Number of samples.
        macs: (k,) cost of one sample at each stage.

    Returns:
        What `run_step` decides, stage by stage.
    """
    rows, exit_stage = np.arange(n), np.zeros(n, np.intp)
    total = probs_out = np.empty((n, 0), np.float32)
    confidence_out = np.empty(n, np.float32)
    for j in range(len(cascade.stages)):
        step = run_step(cascade, j, total, member_probs(j, rows))
        # Whoever goes on is written over by a later stage.
        if j == 0:
            probs_out, confidence_out = step.mean, step.confidence
        else:
            probs_out[rows], confidence_out[rows], exit_stage[rows] = step.mean, step.confidence, j
        stays = ~step.leaves
        if not stays.any():
            break
        rows, total = rows[stays], step.total[stays]
    return Answers(
        probs=probs_out,
        label=probs_out.argmax(axis=1),
        confidence=confidence_out,
        exit_stage=exit_stage,
        macs=np.cumsum(np.asarray(macs, np.int64))[exit_stage],
    )


def exit_fractions(exit_stage: NDArray[np.intp], n_stages: int) -> tuple[float, ...]:
    """Share of the samples that leave at each stage; they sum to 1."""
    counts = np.bincount(exit_stage, minlength=n_stages)
    return tuple(float(count) / max(len(exit_stage), 1) for count in counts)
