"""The loop of ENCAS-joint: evaluate cascades, guess better ones, train what they are made of, and again.

Source: Chebykin et al., GECCO 2022, arXiv:2203.04011.

A run is a folder. Whatever is finished has a file, and is not done again:

    supernets/SPACE/                 weights of one supernetwork, as in a run of transfer
    iterations/00/candidates.json    genes of the cascades that were chosen; 00 holds the first ones
    iterations/00/evaluated.json     errors and MACs of them and of their members
    report.jsonl                     a line for each iteration

Two things are not as in the original. Each supernetwork's learning rate falls over the steps that it really
takes. And a member sees images at its own resolution wherever it is evaluated.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import kendalltau

from encas.cascade import run_cascade
from encas.errors import InvalidInput
from encas.files import FileModel, read_model, write_bytes, write_model
from encas.search.joint.config import JointConfig
from encas.search.joint.genome import JointSpace
from encas.search.joint.guess import JointGuess, Known
from encas.search.nat import candidates
from encas.search.nat.calibrate import answers
from encas.search.nat.encoding import decode
from encas.search.nat.evaluate import Judge
from encas.search.nat.iteration import Candidates, Evaluation, next_archive
from encas.search.nat.population import Genes, numbers, texts
from encas.search.nat.supernet import Supernet
from encas.search.nat.transfer import Phase, Transfer
from encas.search.pareto import hypervolume

Probs = NDArray[np.float16]  # (n, c) of one member on the images of val


class JointCandidates(FileModel):
    """`candidates.json`."""

    format: str = "encas-joint-candidates/1"
    genes: tuple[str, ...]
    guessed: tuple[tuple[float, float], ...] | None = None  # error and MACs
    search_s: float = 0


class JointEvaluation(Evaluation):
    """One cascade, with the weights of its iteration; MACs are the mean of an image."""

    member_errors: tuple[float, ...]  # in the order of the supernetworks
    member_macs: tuple[int, ...]
    exact_macs: float = Field(ge=0)  # `macs` is rounded


class JointEvaluated(FileModel):
    """`evaluated.json`."""

    format: str = "encas-joint-evaluated/1"
    evaluations: tuple[JointEvaluation, ...]
    train_s: float
    evaluate_s: float


class JointReport(FileModel):
    """A line of `report.jsonl`; correlations are Kendall's tau between guessed and true values."""

    iteration: int
    n: int
    hypervolume: float  # of the archive, against error 1 and the MACs of all largest networks together
    best_error: float
    tau_error: float | None = None
    tau_macs: float | None = None
    search_s: float
    train_s: float
    evaluate_s: float


@dataclass(frozen=True)
class JointSearch:
    """A run; see the module. `transfers` train one supernetwork each."""

    config: JointConfig
    folder: Path
    judge: Judge
    transfers: Sequence[Transfer]
    phase: Phase = lambda _name, _steps: lambda _done, _words: None

    @cached_property
    def space(self) -> JointSpace:
        """All cascades."""
        return self.config.space

    def run(self) -> tuple[JointReport, ...]:
        """Do what is not done yet, and tell of every iteration.

        Raises:
            Diverged: Training lost its way.
            InvalidInput: A file of the run is damaged.
        """
        supernets = [transfer.started()[0] for transfer in self.transfers]
        archive: list[JointEvaluation] = []
        reports: list[JointReport] = []
        for iteration in range(self.config.loop.iterations + 1):
            chosen = self._chosen(iteration, archive)
            found = self._evaluated(iteration, supernets, chosen)
            archive = next_archive(archive, list(found.evaluations), self.config.loop.archive)
            reports.append(self._report(iteration, archive, chosen, found))
            lines = "".join(one.model_dump_json() + "\n" for one in reports)
            write_bytes(self.folder / "report.jsonl", lines.encode())
        return tuple(reports)

    def found(self) -> list[JointEvaluation]:
        """The last evaluation of each cascade, of all iterations."""
        found: dict[str, JointEvaluation] = {}
        for iteration in range(self.config.loop.iterations + 1):
            file = read_model(self._place(iteration) / "evaluated.json", JointEvaluated)
            found.update({one.genes: one for one in file.evaluations})
        return list(found.values())

    def members(self, which: int) -> list[Evaluation]:
        """The last evaluation of each network of one supernetwork that a cascade had."""
        found = {}
        for one in self.found():
            genes = self.space.members(numbers(one.genes))[which]
            error, macs = one.member_errors[which], one.member_macs[which]
            found[genes] = Evaluation(genes=genes, error=error, macs=macs)
        return list(found.values())

    def averaged(self) -> list[Supernet]:
        """The mean of each supernetwork's weights after the last iterations."""
        return [transfer.averaged()[0] for transfer in self.transfers]

    # --- one iteration ---

    def _chosen(self, iteration: int, archive: Sequence[JointEvaluation]) -> JointCandidates:
        file = self._place(iteration) / "candidates.json"
        if not file.exists():
            started_s = time.monotonic()
            chosen = self._first() if iteration == 0 else self._better(iteration, archive)
            write_model(file, chosen.model_copy(update={"search_s": time.monotonic() - started_s}))
        return read_model(file, JointCandidates)

    def _first(self) -> JointCandidates:
        rng = np.random.default_rng(self._seed(1))
        n = self.config.loop.first
        found = dict.fromkeys([*texts(self.space.ends), *texts(self.space.random(rng, n))])
        return JointCandidates(genes=tuple(found)[:n])

    def _better(self, iteration: int, archive: Sequence[JointEvaluation]) -> JointCandidates:
        """Fit, search, and choose what the archive does not know yet."""
        loop = self.config.loop
        rng = np.random.default_rng((self._seed(2), iteration))
        known = Known(
            np.array([numbers(one.genes) for one in archive], np.int64),
            np.array([one.error for one in archive]),
            np.array([one.exact_macs for one in archive]),
            np.array([one.member_errors for one in archive]),
        )
        guess = JointGuess.fit(self.space, known, rng, loop.predictor_members)
        low, high = self.space.bounds
        seed = int(rng.integers(2**31))
        most = float(self._most_macs)
        genes, objectives = candidates.search_gomea(
            lambda rows: guess(rows) / np.array([1.0, most]),  # of one size, for its tolerance
            low,
            high,
            evaluations=loop.surrogate_evaluations,
            seed=seed,
            canonical=self.space.canonical,
        )
        objectives = objectives * np.array([1.0, most])
        seen, ends = {one.genes for one in archive}, self.space.ends[:0]
        if loop.archive == "replaced":  # its errors are of other weights: all may be evaluated again
            genes, objectives = np.vstack([genes, known.genes]), np.vstack([objectives, guess(known.genes)])
            ends = self.space.ends
            seen = set(texts(ends))
        new = [row for row, text in enumerate(texts(genes)) if text not in seen]
        genes, objectives = genes[new], objectives[new]
        rows = candidates.choose(genes, objectives, loop.candidates - len(ends), seed)
        genes = np.vstack([ends, genes[rows]])
        if not len(genes):  # the predicted front is known already: look elsewhere
            drawn = self.space.random(rng, 2 * loop.candidates)
            unknown = [row for row, text in enumerate(texts(drawn)) if text not in seen]
            genes = drawn[unknown][: loop.candidates]
        if not len(genes):
            raise InvalidInput(
                f"{self.folder}: nothing new is left to find; set loop.iterations to {iteration - 1}"
            )
        return JointCandidates(
            genes=tuple(texts(genes)), guessed=tuple((e, m) for e, m in guess(genes).tolist())
        )

    def _evaluated(
        self, iteration: int, supernets: Sequence[Supernet], chosen: JointCandidates
    ) -> JointEvaluated:
        """Train the candidates' members, each supernetwork its own, and evaluate all on everything."""
        place, started_s = self._place(iteration), time.monotonic()
        rows = np.array([numbers(one) for one in chosen.genes], np.int64)
        own = list(zip(*(self.space.members(row) for row in rows), strict=True))
        for transfer, supernet, mine in zip(self.transfers, supernets, own, strict=True):
            transfer.fine_tuned(iteration, 0, supernet, Candidates(genes=mine))
        if (place / "evaluated.json").exists():
            return read_model(place / "evaluated.json", JointEvaluated)
        trained_s = time.monotonic()
        labels = self.judge.val.images.labels
        probs = self._probs(iteration, supernets, own)
        errors = {key: float(np.mean(one.argmax(1) != labels)) for key, one in probs.items()}
        found = []
        for row, genes in zip(rows, chosen.genes, strict=True):
            keys = list(enumerate(self.space.members(row)))
            member_macs = self.space.macs(row[None])[0]
            error, macs = self._of_cascade(row, [probs[key] for key in keys], member_macs, labels)
            found.append(
                JointEvaluation(
                    genes=genes,
                    error=error,
                    macs=round(macs),
                    exact_macs=macs,
                    member_errors=tuple(errors[key] for key in keys),
                    member_macs=tuple(int(one) for one in member_macs),
                )
            )
        evaluated = JointEvaluated(
            evaluations=tuple(found),
            train_s=trained_s - started_s,
            evaluate_s=time.monotonic() - trained_s,
        )
        write_model(place / "evaluated.json", evaluated)
        return evaluated

    def _probs(
        self, iteration: int, supernets: Sequence[Supernet], own: Sequence[Sequence[str]]
    ) -> dict[tuple[int, str], Probs]:
        """Answers of every member, each once."""
        wanted = {(which, genes) for which, of_one in enumerate(own) for genes in of_one}
        archs = {key: decode(self.space.spaces[key[0]], numbers(key[1])) for key in wanted}
        advance = self.phase(f"iteration {iteration}: evaluating", len(wanted))
        probs = {}
        # One resolution after the other: images are kept for some of them only.
        for key in sorted(archs, key=lambda key: (archs[key].resolution, key)):
            arch = archs[key]
            val, calibration = (
                one.tensors(arch.resolution) for one in (self.judge.val, self.judge.calibration)
            )
            probs[key] = answers(supernets[key[0]], arch, val, calibration=calibration).astype(np.float16)
            advance(1, self.space.spaces[key[0]].name)
        return probs

    def _of_cascade(
        self, row: Genes, probs: Sequence[Probs], macs: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> tuple[float, float]:
        """Error and mean MACs of one cascade, by the definition that everything shares."""
        cascade = self.space.cascade(row, [str(which) for which in range(self.space.k)])
        order = self.space.order(row[None])[0].tolist()
        said = run_cascade(
            cascade,
            lambda stage, active: probs[order[stage]][active],
            len(labels),
            [int(macs[which]) for which in order],
        )
        return float(np.mean(said.label != labels)), float(np.mean(said.macs))

    def _report(
        self,
        iteration: int,
        archive: Sequence[JointEvaluation],
        chosen: JointCandidates,
        found: JointEvaluated,
    ) -> JointReport:
        points = np.array([[one.error, one.exact_macs] for one in archive])
        true = np.array([[one.error, one.exact_macs] for one in found.evaluations])
        taus: list[float | None] = [None, None]
        if chosen.guessed is not None:
            taus = [_tau(np.array(chosen.guessed)[:, j], true[:, j]) for j in range(2)]
        return JointReport(
            iteration=iteration,
            n=len(true),
            hypervolume=hypervolume(points, (1.0, 1.01 * self._most_macs)),
            best_error=float(true[:, 0].min()),
            tau_error=taus[0],
            tau_macs=taus[1],
            search_s=chosen.search_s,
            train_s=found.train_s,
            evaluate_s=found.evaluate_s,
        )

    @property
    def _most_macs(self) -> float:
        return float(sum(population.largest_macs for population in self.space.populations))

    def _place(self, iteration: int) -> Path:
        return self.folder / "iterations" / f"{iteration:02}"

    def _seed(self, use: int) -> int:
        return 1000 * self.config.seed + use


def _tau(guessed: NDArray[np.float64], true: NDArray[np.float64]) -> float | None:
    """None where there are too few, or one of the two is constant."""
    if len(true) < 3 or np.ptp(guessed) == 0 or np.ptp(true) == 0:
        return None
    return float(kendalltau(guessed, true).statistic)
