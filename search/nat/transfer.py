"""Neural Architecture Transfer: from a supernetwork and a data set to networks for that data.

Source: Lu et al., Neural Architecture Transfer, TPAMI 2021, arXiv:2005.05859, in the variant of ENCAS
(arXiv:2203.04011).

A run is a folder. Whatever is finished has a file, and is not done again:

    start.safetensors                the weights after training from scratch
    iterations/00/candidates.json    genes that were chosen; 00 holds the first architectures
    iterations/00/weights.safetensors
    iterations/00/evaluated.json     their errors and MACs
    report.jsonl                     a line for each iteration
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file, save_file
from scipy.stats import kendalltau, spearmanr

from encas.errors import InvalidInput
from encas.files import FileModel, read_model, replaced, write_bytes, write_model
from encas.search.nat import candidates
from encas.search.nat.checkpoint import read_official
from encas.search.nat.config import NatConfig
from encas.search.nat.encoding import as_text, decode, encode, from_text, gene_ranges
from encas.search.nat.evaluate import Judge
from encas.search.nat.images import Batches
from encas.search.nat.macs import count_macs
from encas.search.nat.predictor import Predictor
from encas.search.nat.recipes import Plain, Recipe, Sandwich
from encas.search.nat.space import Arch, Space
from encas.search.nat.spaces import space_named
from encas.search.nat.supernet import Supernet
from encas.search.nat.trainer import Progress, Schedule, Settings, Trainer
from encas.search.pareto import hypervolume, non_dominated

Genes = NDArray[np.int64]
Numbers = NDArray[np.float64]
Advance = Callable[[int, str], None]  # steps of a phase since the last call, and what is shown beside
Phase = Callable[[str, int], Advance]  # begins a phase of so many steps
MakeBatches = Callable[[int, int], Batches]  # of a size, with a seed


class Candidates(FileModel):
    """`candidates.json`."""

    format: str = "encas-candidates/1"
    genes: tuple[str, ...]  # as 3.0.1.2
    guessed_errors: tuple[float, ...] | None = None
    search_s: float = 0  # seconds that fitting, searching and choosing took


class Evaluation(FileModel):
    """One architecture, with the weights of its iteration."""

    genes: str
    error: float = Field(ge=0, le=1)
    macs: int = Field(ge=0)


class Evaluated(FileModel):
    """`evaluated.json`."""

    format: str = "encas-evaluated/1"
    evaluations: tuple[Evaluation, ...]
    train_s: float
    evaluate_s: float


class Report(FileModel):
    """A line of `report.jsonl`; correlations are None where nothing was guessed."""

    iteration: int
    n: int  # evaluated
    hypervolume: float  # of the archive, against error 1 and the MACs of the largest network
    best_error: float
    rmse: float | None = None  # between guessed and true errors of this iteration's candidates
    spearman_rho: float | None = None
    kendall_tau: float | None = None
    search_s: float
    train_s: float
    evaluate_s: float


@dataclass(frozen=True)
class Transfer:
    """A run; see the module."""

    config: NatConfig
    folder: Path
    judge: Judge
    batches: MakeBatches
    weights: Path | None = None  # published ones, instead of training from scratch
    device: str = "cpu"
    phase: Phase = lambda _name, _steps: lambda _done, _words: None

    @cached_property
    def space(self) -> Space:
        """The supernetwork's space."""
        return space_named(self.config.space)

    def run(self) -> tuple[Report, ...]:
        """Do what is not done yet, and tell of every iteration.

        Raises:
            Diverged: Training lost its way.
            InvalidInput: A file of the run is damaged.
        """
        supernet = self._started()
        archive: list[Evaluation] = []
        reports = []
        for iteration in range(self.config.loop.iterations + 1):
            chosen = self._chosen(iteration, archive)
            found = self._evaluated(iteration, supernet, chosen)
            archive = _next_archive(archive, list(found.evaluations), self.config.loop.archive)
            reports.append(self._report(iteration, archive, chosen, found))
            lines = "".join(report.model_dump_json() + "\n" for report in reports)
            write_bytes(self.folder / "report.jsonl", lines.encode())
        return tuple(reports)

    def everything(self) -> list[Evaluation]:
        """The last evaluation of each architecture of all iterations, in the order of first sight."""
        found: dict[str, Evaluation] = {}
        for iteration in range(self.config.loop.iterations + 1):
            file = read_model(self._place(iteration) / "evaluated.json", Evaluated)
            found.update({one.genes: one for one in file.evaluations})
        return list(found.values())

    def averaged(self) -> Supernet:
        """The mean of the weights after the last iterations."""
        last = self.config.loop.iterations
        first = max(0, last - self.config.loop.averaged + 1)
        states = [load_file(self._place(i) / "weights.safetensors") for i in range(first, last + 1)]
        supernet = self._drawn()
        state = {
            key: torch.stack([one[key].double() for one in states]).mean(0).to(tensor.dtype)
            for key, tensor in states[-1].items()
        }
        supernet.net.load_state_dict(state)
        return supernet

    def _drawn(self) -> Supernet:
        generator = torch.Generator().manual_seed(self.config.seed)
        n_classes = self.config.data.classes
        if self.weights is None:
            return Supernet(self.space, n_classes, generator)
        supernet = read_official(self.weights, self.space)
        if supernet.n_classes != n_classes:
            supernet.draw_head(n_classes, generator)
        return supernet

    def _started(self) -> Supernet:
        """The supernetwork before the search, trained from scratch if there are no published weights."""
        supernet, start = self._drawn().to(self.device), self.config.start
        if start is None:
            return supernet
        batches = self.batches(start.batch, self._seed(0))
        recipe = Sandwich(
            self.space,
            self.config.data.classes,
            start.distillation,
            share=start.distillation_share,
            n_random=start.n_random,
            best_of=start.best_of,
            label_smoothing=start.label_smoothing,
            growing=start.growing,
        )
        schedule = Schedule(start.rate, max(1, round(start.epochs * batches.n_per_epoch)))
        settings = Settings(schedule, weight_decay=start.weight_decay, seed=self._seed(0))
        self._train("training", supernet, recipe, batches, settings, self.folder / "start.safetensors")
        return supernet

    def _train(
        self,
        name: str,
        supernet: Supernet,
        recipe: Recipe,
        batches: Batches,
        settings: Settings,
        checkpoint: Path,
    ) -> None:
        advance, done = self.phase(name, settings.schedule.n_steps), 0

        def tell(progress: Progress) -> None:
            nonlocal done
            skipped = f", {progress.skipped} skipped" if progress.skipped else ""
            advance(progress.step - done, f"loss {progress.loss:.3f}{skipped}")
            done = progress.step

        trainer = Trainer(supernet, recipe, batches, settings, self.device)
        trainer.run(checkpoint, clock=time.monotonic, tell=tell)

    def _chosen(self, iteration: int, archive: Sequence[Evaluation]) -> Candidates:
        file = self._place(iteration) / "candidates.json"
        if not file.exists():
            started_s = time.monotonic()
            chosen = self._first() if iteration == 0 else self._better(iteration, archive)
            write_model(file, chosen.model_copy(update={"search_s": time.monotonic() - started_s}))
        return read_model(file, Candidates)

    def _first(self) -> Candidates:
        """The smallest, the largest, and others at random."""
        rng = np.random.default_rng(self._seed(1))
        low, high = self._bounds
        found = dict.fromkeys(as_text(one) for one in self._canonical(np.stack([low, high])).tolist())
        for _ in range(100 * self.config.loop.first):  # a small space may not have so many
            if len(found) < self.config.loop.first:
                (genes,) = self._canonical(rng.integers(low, high + 1)[None]).tolist()
                found[as_text(genes)] = None
        return Candidates(genes=tuple(found))

    def _better(self, iteration: int, archive: Sequence[Evaluation]) -> Candidates:
        """Fit, search, and choose what the archive does not know yet."""
        loop = self.config.loop
        known = np.array([_numbers(one.genes) for one in archive], np.int64)
        errors = np.array([one.error for one in archive])
        rng = np.random.default_rng((self._seed(2), iteration))
        predictor = Predictor.fit(known, errors, rng, loop.predictor_members)

        def guess(genes: Genes) -> NDArray[np.float64]:
            return np.column_stack([predictor.predict(genes), self._macs(genes)])

        low, high = self._bounds
        seed = int(rng.integers(2**31))
        budget = loop.surrogate_evaluations
        if loop.search == "nsga3":
            genes, objectives = candidates.search_nsga3(
                guess, known, low, high, evaluations=budget, seed=seed, canonical=self._canonical
            )
        else:
            genes, objectives = candidates.search_gomea(
                guess, low, high, evaluations=budget, seed=seed, canonical=self._canonical
            )
        seen = {one.genes for one in archive}
        ends = np.empty((0, len(low)), np.int64)
        if loop.archive == "replaced":  # its errors are of other weights: all may be evaluated again,
            genes, objectives = np.vstack([genes, known]), np.vstack([objectives, guess(known)])
            ends = self._canonical(np.stack([low, high]))  # and the smallest and the largest always are
            seen = {as_text(one) for one in ends.tolist()}
        new = [row for row, one in enumerate(genes) if as_text(one.tolist()) not in seen]
        genes, objectives = genes[new], objectives[new]
        rows = candidates.choose(genes, objectives, loop.candidates - len(ends), seed)
        genes = np.vstack([ends, genes[rows]])
        objectives = np.vstack([guess(ends), objectives[rows]]) if len(ends) else objectives[rows]
        texts = tuple(as_text(one) for one in genes.tolist())
        if not texts:
            raise InvalidInput(
                f"{self.folder}: iteration {iteration} found nothing new; the space of {self.space.name} is "
                "searched well enough: lower loop.iterations"
            )
        return Candidates(genes=texts, guessed_errors=tuple(objectives[:, 0].tolist()))

    def _evaluated(self, iteration: int, supernet: Supernet, chosen: Candidates) -> Evaluated:
        """Train the candidates' weights and evaluate them; leaves the supernetwork with these weights."""
        place = self._place(iteration)
        archs = [from_text(self.space, genes) for genes in chosen.genes]
        if (place / "evaluated.json").exists():
            supernet.net.load_state_dict(load_file(place / "weights.safetensors"))
            return read_model(place / "evaluated.json", Evaluated)
        started_s = time.monotonic()
        if (place / "weights.safetensors").exists():  # stopped while it evaluated
            supernet.net.load_state_dict(load_file(place / "weights.safetensors"))
        else:
            self._fine_tune(iteration, supernet, archs)
            with replaced(place / "weights.safetensors") as temporary:
                state = supernet.net.state_dict()
                save_file({key: t.detach().cpu().contiguous() for key, t in state.items()}, temporary)
        (place / "training.safetensors").unlink(missing_ok=True)
        trained_s = time.monotonic()
        advance = self.phase(f"iteration {iteration}: evaluating", len(archs))
        found = []
        for genes, arch in zip(chosen.genes, archs, strict=True):
            error, macs = self.judge.objectives(supernet, arch)
            found.append(Evaluation(genes=genes, error=error, macs=macs))
            advance(1, f"accuracy {1 - error:.3f} at {macs / 1e6:.4g} MMACs")
        evaluated = Evaluated(
            evaluations=tuple(found),
            train_s=trained_s - started_s,
            evaluate_s=time.monotonic() - trained_s,
        )
        write_model(place / "evaluated.json", evaluated)
        return evaluated

    def _fine_tune(self, iteration: int, supernet: Supernet, archs: Sequence[Arch]) -> None:
        loop = self.config.loop
        if loop.epochs == 0:
            return
        seed = self._seed(10 + iteration)
        batches = self.batches(loop.batch, seed)
        n_steps = max(1, round(loop.epochs * batches.n_per_epoch))
        self._train(
            f"iteration {iteration}: training",
            supernet,
            Plain(archs, cut_mix=loop.cut_mix, cut_out=loop.cut_out),
            batches,
            Settings(Schedule(loop.rate, n_steps, "cosine"), weight_decay=loop.weight_decay, seed=seed),
            self._place(iteration) / "training.safetensors",
        )

    def _report(
        self, iteration: int, archive: Sequence[Evaluation], chosen: Candidates, found: Evaluated
    ) -> Report:
        points = np.array([[one.error, one.macs] for one in archive])
        errors = np.array([one.error for one in found.evaluations])
        compared = {}
        if chosen.guessed_errors is not None and len(errors) > 2:
            guessed = np.array(chosen.guessed_errors)
            compared = {
                "rmse": float(np.sqrt(np.mean((guessed - errors) ** 2))),
                "spearman_rho": _correlation(spearmanr, guessed, errors),
                "kendall_tau": _correlation(kendalltau, guessed, errors),
            }
        largest = count_macs(self.space, self.space.largest, self.config.data.classes)
        return Report(
            iteration=iteration,
            n=len(errors),
            hypervolume=hypervolume(points, (1.0, 1.01 * largest)),
            best_error=float(errors.min()),
            search_s=chosen.search_s,
            train_s=found.train_s,
            evaluate_s=found.evaluate_s,
            **compared,
        )

    @cached_property
    def _bounds(self) -> tuple[Genes, Genes]:
        """(g,) least and (g,) largest value of each gene; their networks are the smallest and the largest."""
        ranges = gene_ranges(self.space)
        return np.array([r[0] for r in ranges], np.int64), np.array([r[-1] for r in ranges], np.int64)

    def _canonical(self, genes: Genes) -> Genes:
        return np.array([encode(self.space, decode(self.space, row)) for row in genes.tolist()], np.int64)

    def _macs(self, genes: Genes) -> NDArray[np.float64]:
        n_classes = self.config.data.classes
        macs = [count_macs(self.space, decode(self.space, row), n_classes) for row in genes.tolist()]
        return np.array(macs, np.float64)

    def _place(self, iteration: int) -> Path:
        return self.folder / "iterations" / f"{iteration:02}"

    def _seed(self, use: int) -> int:
        return 1000 * self.config.seed + use


def best(evaluations: Sequence[Evaluation], n: int) -> list[Evaluation]:
    """Up to n, by rising MACs: the cheapest and the dearest, and the best fronts of the rest."""
    by_macs = sorted(evaluations, key=lambda one: (one.macs, one.error, one.genes))
    chosen = by_macs[:1] + by_macs[1:][-1:]  # what everything else is compared with
    left = by_macs[1:-1]
    while left and len(chosen) < n:
        points = np.array([[one.error, one.macs] for one in left])
        front = set(non_dominated(points).tolist())
        chosen += [left[row] for row in sorted(front)][: n - len(chosen)]
        left = [one for row, one in enumerate(left) if row not in front]
    return sorted(chosen, key=lambda one: (one.macs, one.error, one.genes))


def _next_archive(archive: list[Evaluation], found: list[Evaluation], rule: str) -> list[Evaluation]:
    """With weights that changed, old errors say little: then the candidates replace the archive."""
    if rule == "replaced":
        return found
    return list({one.genes: one for one in [*archive, *found]}.values())


def _numbers(genes: str) -> list[int]:
    return [int(part) for part in genes.split(".")]


def _correlation(of: Callable[..., Any], guessed: Numbers, errors: Numbers) -> float | None:
    """None where one of the two is constant."""
    if np.ptp(guessed) == 0 or np.ptp(errors) == 0:
        return None
    return float(of(guessed, errors).statistic)
