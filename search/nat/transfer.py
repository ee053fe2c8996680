"""Neural Architecture Transfer: from a supernetwork and a data set to networks for that data.

Source: Lu et al., Neural Architecture Transfer, TPAMI 2021, arXiv:2005.05859, in the variant of ENCAS
(arXiv:2203.04011).

A run is a folder. Whatever is finished has a file, and is not done again:

    start.safetensors                the weights after training from scratch
    iterations/00/candidates.json    genes that were chosen; 00 holds the first architectures
    iterations/00/weights.safetensors
    iterations/00/evaluated.json     their errors and MACs
    report.jsonl                     a line for each iteration
    report.png                       the same to look at

Where several supernetworks are searched as one population, files of weights end in -0, -1, and so on.
"""

import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from encas.cluster import Cluster
from encas.errors import InvalidInput
from encas.files import FileModel, read_model, write_bytes, write_model
from encas.search.nat import candidates
from encas.search.nat.checkpoint import load_strictly, read_official
from encas.search.nat.config import NatConfig
from encas.search.nat.evaluate import Judge
from encas.search.nat.images import Batches
from encas.search.nat.iteration import Candidates, Evaluated, Evaluation, Report, next_archive, report
from encas.search.nat.picture import draw
from encas.search.nat.population import Genes, Population, mixed, numbers, texts
from encas.search.nat.predictor import Predictor
from encas.search.nat.recipes import Plain, Recipe
from encas.search.nat.spread import Chosen, judged_on
from encas.search.nat.start import recipe_of
from encas.search.nat.supernet import Supernet
from encas.search.nat.team import ALONE, Team
from encas.search.nat.tensors import read_tensors, write_tensors
from encas.search.nat.trainer import Progress, Schedule, Settings, Trainer, in_words

Advance = Callable[[int, str], None]  # steps of a phase since the last call, and what is shown beside
Phase = Callable[[str, int], Advance]  # begins a phase of so many steps
MakeBatches = Callable[[int, int], Batches]  # of a size, with a seed


class Training(FileModel):
    """What the first process of a team tells the others to help with."""

    which: int  # of the supernetworks
    iteration: int | None = None  # None: training from scratch
    genes: tuple[str, ...] = ()  # of the iteration's candidates


@dataclass(frozen=True)
class Transfer:
    """A run; see the module."""

    config: NatConfig
    folder: Path
    judge: Judge
    batches: MakeBatches
    weights: Sequence[Path] = ()  # published ones of each supernetwork, instead of training from scratch
    device: str = "cpu"
    phase: Phase = lambda _name, _steps: lambda _done, _words: None
    team: Team = ALONE  # trains together; all else is done by the first process
    cluster: Cluster | None = None  # evaluates candidates; None: this process does

    @cached_property
    def population(self) -> Population:
        """All architectures."""
        return self.config.population

    def run(self) -> tuple[Report, ...]:
        """Do what is not done yet, and tell of every iteration.

        Raises:
            Diverged: Training lost its way.
            InvalidInput: A file of the run is damaged.
        """
        supernets = self.started()
        archive: list[Evaluation] = []
        rounds: list[tuple[Candidates, Evaluated]] = []
        reports = []
        for iteration in range(self.config.loop.iterations + 1):
            is_new = not (self._place(iteration) / "evaluated.json").exists()
            chosen = self._chosen(iteration, archive)
            found = self._evaluated(iteration, supernets, chosen)
            archive = next_archive(archive, list(found.evaluations), self.config.loop.archive)
            rounds.append((chosen, found))
            reports.append(report(iteration, archive, chosen, found, self.population.largest_macs))
            lines = "".join(one.model_dump_json() + "\n" for one in reports)
            write_bytes(self.folder / "report.jsonl", lines.encode())
            if is_new or not (self.folder / "report.png").exists():
                draw(rounds, archive, self.folder / "report.png")
        return tuple(reports)

    def help(self) -> None:
        """Take part in the trainings of the first process's run, until it ends."""
        while said := self.team.told(b""):
            training = Training.model_validate_json(said)
            space = self.population.spaces[training.which]
            self._train(training, Supernet(space, self.config.data.classes))  # weights come from the first

    def found(self) -> list[Evaluation]:
        """What may become members: the last evaluation of each architecture, in the order of first sight."""
        last = self.config.loop.iterations
        found: dict[str, Evaluation] = {}
        for iteration in range(last if self.config.final.front == "last" else 0, last + 1):
            file = read_model(self._place(iteration) / "evaluated.json", Evaluated)
            found.update({one.genes: one for one in file.evaluations})
        return list(found.values())

    def averaged(self) -> list[Supernet]:
        """The mean of each supernetwork's weights after the last iterations."""
        last = self.config.loop.iterations
        first = max(0, last - self.config.loop.averaged + 1)
        supernets = self._drawn()
        for which, supernet in enumerate(supernets):
            files = [self._file(self._place(i), "weights", which) for i in range(first, last + 1)]
            states = [read_tensors(file) for file in files]
            state = {
                key: torch.stack([one[key].double() for one in states]).mean(0).to(tensor.dtype)
                for key, tensor in states[-1].items()
            }
            load_strictly(supernet, state, str(files[-1]))
        return supernets

    def _drawn(self) -> list[Supernet]:
        n_classes = self.config.data.classes
        supernets = []
        for which, space in enumerate(self.population.spaces):
            generator = torch.Generator().manual_seed(self.config.seed)
            if not self.weights:
                supernets.append(Supernet(space, n_classes, generator))
                continue
            supernets.append(read_official(self.weights[which], space))
            if supernets[-1].n_classes != n_classes:
                supernets[-1].draw_head(n_classes, generator)
        return supernets

    def started(self) -> list[Supernet]:
        """The supernetworks before the search, trained from scratch if there are no published weights."""
        supernets = [supernet.to(self.device) for supernet in self._drawn()]
        for which, supernet in enumerate(supernets if self.config.start is not None else []):
            self._train(Training(which=which), supernet)
        return supernets

    def _train(self, training: Training, supernet: Supernet) -> None:
        """Train together with the other processes, which wait to be told."""
        if self.team.rank == 0:
            self.team.told(training.model_dump_json().encode())
        if training.iteration is None:
            name, checkpoint = "training", self._file(self.folder, "start", training.which)
            recipe, batches, settings = self._from_scratch(training.which)
        else:
            name, place = f"iteration {training.iteration}: training", self._place(training.iteration)
            checkpoint = self._file(place, "training", training.which)
            recipe, batches, settings = self._fine_tuning(training.iteration, training.which, training.genes)
        if len(self.population.spaces) > 1:
            name = f"{name} {supernet.space.name}"
        advance, done = self.phase(name, settings.schedule.n_steps), 0

        def tell(progress: Progress) -> None:
            nonlocal done
            advance(progress.step - done, in_words(progress))
            done = progress.step

        trainer = Trainer(supernet, recipe, batches, settings, self.device, self.team)
        trainer.run(checkpoint, clock=time.monotonic, tell=tell)

    def _from_scratch(self, which: int) -> tuple[Recipe, Batches, Settings]:
        start, seed = self.config.start, self._seed(0, which)
        assert start is not None
        batches = self.batches(start.batch, seed)
        schedule = Schedule(start.rate, max(1, round(start.epochs * batches.n_per_epoch)))
        settings = Settings(schedule, weight_decay=start.weight_decay, seed=seed)
        return recipe_of(start, self.population.spaces[which], self.config.data.classes), batches, settings

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
        low, high = self.population.bounds
        found = dict.fromkeys(texts(self.population.ends))
        for _ in range(100 * self.config.loop.first):  # a small space may not have so many
            if len(found) < self.config.loop.first:
                (text,) = texts(self.population.canonical(rng.integers(low, high + 1)[None]))
                found[text] = None
        return Candidates(genes=tuple(found))

    def _better(self, iteration: int, archive: Sequence[Evaluation]) -> Candidates:
        """Fit, search, and choose what the archive does not know yet."""
        loop, canonical = self.config.loop, self.population.canonical
        known = np.array([numbers(one.genes) for one in archive], np.int64)
        rng = np.random.default_rng((self._seed(2), iteration))
        predictor = self._predictor(known, archive, rng)

        def guess(genes: Genes) -> NDArray[np.float64]:
            return np.column_stack([predictor.predict(genes), self.population.macs(genes)])

        low, high = self.population.bounds
        seed = int(rng.integers(2**31))
        budget = loop.surrogate_evaluations
        if loop.search == "nsga3":
            genes, objectives = candidates.search_nsga3(
                guess, known, low, high, evaluations=budget, seed=seed, canonical=canonical
            )
        else:
            genes, objectives = candidates.search_gomea(
                guess, low, high, evaluations=budget, seed=seed, canonical=canonical
            )
        seen = {one.genes for one in archive}
        ends = np.empty((0, len(low)), np.int64)
        if loop.archive == "replaced":  # its errors are of other weights: all may be evaluated again,
            genes, objectives = np.vstack([genes, known]), np.vstack([objectives, guess(known)])
            ends = self.population.ends  # and the smallest and the largest always are
            seen = set(texts(ends))
        new = [row for row, text in enumerate(texts(genes)) if text not in seen]
        genes, objectives = genes[new], objectives[new]
        rows = candidates.choose(genes, objectives, loop.candidates - len(ends), seed)
        genes = np.vstack([ends, genes[rows]])
        objectives = np.vstack([guess(ends), objectives[rows]]) if len(ends) else objectives[rows]
        if not len(genes):  # the predicted front is known already: look elsewhere
            genes = self._unknown(seen, loop.candidates, rng)
            objectives = guess(genes)
        return Candidates(genes=tuple(texts(genes)), guessed_errors=tuple(objectives[:, 0].tolist()))

    def _unknown(self, seen: Container[str], n: int, rng: np.random.Generator) -> Genes:
        """Up to n architectures at random that were not seen.

        Raises:
            InvalidInput: None turned up.
        """
        low, high = self.population.bounds
        found: dict[str, Genes] = {}
        for row in self.population.canonical(rng.integers(low, high + 1, size=(100 * n, len(low)))):
            (text,) = texts(row[None])
            if text not in seen:
                found[text] = row
        if not found:
            names = " and ".join(space.name for space in self.population.spaces)
            raise InvalidInput(
                f"{self.folder}: nothing new is left to find; the space of {names} is searched well enough: "
                "set loop.iterations to what is done, and go on"
            )
        return np.array(list(found.values())[:n])

    def _predictor(self, known: Genes, archive: Sequence[Evaluation], rng: np.random.Generator) -> Predictor:
        """Fit the archive, or as many of it as are wanted: the front first, spread along it."""
        errors, n_wanted = np.array([one.error for one in archive]), self.config.loop.fitted_on
        if n_wanted is not None:
            macs = np.array([one.macs for one in archive], np.float64)
            rows = candidates.choose(known, np.column_stack([errors, macs]), n_wanted, self._seed(3))
            known, errors = known[rows], errors[rows]
        return Predictor.fit(known, errors, rng, self.config.loop.predictor_members)

    def _evaluated(self, iteration: int, supernets: Sequence[Supernet], chosen: Candidates) -> Evaluated:
        """Train the candidates' weights and evaluate them; leaves the supernetworks with these weights."""
        place = self._place(iteration)
        started_s = time.monotonic()
        for which, supernet in enumerate(supernets):
            self.fine_tuned(iteration, which, supernet, chosen)
        if (place / "evaluated.json").exists():
            return read_model(place / "evaluated.json", Evaluated)
        trained_s = time.monotonic()
        advance = self.phase(f"iteration {iteration}: evaluating", len(chosen.genes))
        found: dict[str, Evaluation] = {}
        archs = {genes: self.population.arch(numbers(genes)) for genes in chosen.genes}
        # One resolution after the other: images are kept for some of them only.
        order = sorted(archs, key=lambda genes: archs[genes][1].resolution)
        for row, (error, macs) in self._judged(supernets, [archs[genes] for genes in order]):
            genes = order[row]
            found[genes] = Evaluation(genes=genes, error=error, macs=macs)
            advance(1, f"accuracy {1 - error:.3f} at {macs / 1e6:.4g} MMACs")
        evaluated = Evaluated(
            evaluations=tuple(found[genes] for genes in chosen.genes),
            train_s=trained_s - started_s,
            evaluate_s=time.monotonic() - trained_s,
        )
        write_model(place / "evaluated.json", evaluated)
        return evaluated

    def _judged(
        self, supernets: Sequence[Supernet], chosen: Sequence[Chosen]
    ) -> Iterator[tuple[int, tuple[float, int]]]:
        """Yield the place of each candidate with its error and its MACs."""
        if self.cluster is not None:
            yield from judged_on(self.cluster, self.judge, supernets, chosen, self.device)
            return
        for row, (which, arch) in enumerate(chosen):
            yield row, self.judge.objectives(supernets[which], arch)

    def fine_tuned(self, iteration: int, which: int, supernet: Supernet, chosen: Candidates) -> None:
        """Load the weights after this iteration's training, or train them."""
        weights = self._file(self._place(iteration), "weights", which)
        checkpoint = self._file(self._place(iteration), "training", which)
        if weights.exists():
            load_strictly(supernet, read_tensors(weights), str(weights))
        else:
            if self.config.loop.epochs > 0 and len(self._own(which, chosen.genes)):
                self._train(Training(which=which, iteration=iteration, genes=chosen.genes), supernet)
            write_tensors(weights, supernet.net.state_dict())
        checkpoint.unlink(missing_ok=True)

    def _own(self, which: int, genes: Sequence[str]) -> Genes:
        """Candidates of one supernetwork."""
        rows = np.array([numbers(one) for one in genes], np.int64)
        return rows if len(self.population.spaces) == 1 else rows[rows[:, 0] == which]

    def _fine_tuning(
        self, iteration: int, which: int, genes: Sequence[str]
    ) -> tuple[Recipe, Batches, Settings]:
        loop, seed = self.config.loop, self._seed(10 + iteration, which)
        own = self._own(which, genes)
        batches = self.batches(loop.batch, seed)
        share = len(own) / len(genes)
        n_steps = max(1, round(loop.epochs * batches.n_per_epoch * share))
        if loop.trained == "marginals":
            own = mixed(own, n_steps, np.random.default_rng((seed, 3)))
        n_trainings = loop.iterations + 1
        done = (iteration / n_trainings, (iteration + 1) / n_trainings) if loop.cosine == "once" else (0, 1)
        schedule = Schedule(loop.rate, n_steps, "cosine", part=done)
        archs = [self.population.arch(row)[1] for row in own.tolist()]
        settings = Settings(schedule, weight_decay=loop.weight_decay, seed=seed)
        return Plain(archs, cut_mix=loop.cut_mix, cut_out=loop.cut_out), batches, settings

    def _place(self, iteration: int) -> Path:
        return self.folder / "iterations" / f"{iteration:02}"

    def _file(self, folder: Path, stem: str, which: int) -> Path:
        end = "" if len(self.population.spaces) == 1 else f"-{which}"
        return folder / f"{stem}{end}.safetensors"

    def _seed(self, use: int, which: int = 0) -> int:
        return 1000 * self.config.seed + use + 500 * which
