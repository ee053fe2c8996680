"""Running an experiment: whatever has its result is not done again.

config.json                     what it was told
start/SPACE-DIGEST/             supernetworks trained from scratch, once for all runs
nat/NAME-RUN/, joint/NAME-RUN/  transfers and joint runs
pools/NAME-RUN/, merged/        their networks
fronts/NAME-RUN/                what searches found
results/NAME-RUN.json           what each part did on both splits
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from encas.cluster import Cluster
from encas.errors import InvalidInput
from encas.export.merger import merge
from encas.export.recorder import record
from encas.export.source import read_members
from encas.export.transfer import pretrain, transfer
from encas.files import read_model, write_model
from encas.front import Front
from encas.pool import Pool
from encas.search.experiment.config import BEST, Experiment, Recorded, Searched, joint_of, nat_of
from encas.search.experiment.names import todays
from encas.search.experiment.needed import check_needed
from encas.search.experiment.results import Reference, Result, Traced, of_front, of_networks
from encas.search.experiment.trace import traced
from encas.search.joint.run import joint
from encas.search.nat.config import NatConfig
from encas.search.nat.transfer import Phase
from encas.search.run import search

Note = Callable[[str], None]
Part = tuple[str, int]  # its name, and the run


@dataclass(frozen=True)
class Runner:
    """An experiment in a folder; see the module."""

    experiment: Experiment
    folder: Path  # where its file lies
    out: Path
    data: Path
    device: str = "cpu"
    phase: Phase = lambda _name, _steps: lambda _done, _words: None
    workers: int = 0  # of augmentation
    threads: int = 1  # of searches
    note: Note = lambda _text: None
    cluster: Cluster | None = None  # whose machines find all folders by the same paths

    def run(self) -> list[Result]:
        """Do what is not done yet.

        Raises:
            InvalidInput: Files are missing, or the folder is of another experiment.
        """
        check_needed(self.experiment, self.folder, self.data)
        self._keep_config()
        runs = range(self.experiment.runs)
        makers = [*self.experiment.nat, *self.experiment.joint, *self.experiment.pools]
        made = [(name, run) for run in runs for name in makers]
        searched = [(name, run) for run in runs for name in self.experiment.searches]
        if self.cluster is not None:  # what several parts share is made here
            self._results([(name, run) for name, run in made if name in self.experiment.pools])
        self._results(made, self.cluster)
        if self.cluster is not None:
            for name, run in searched:
                self._pool_of(self.experiment.searches[name], run)
        self._results(searched, self.cluster)
        return self.results()

    def results(self) -> list[Result]:
        """Everything that is there."""
        names = [*self.experiment.nat, *self.experiment.joint, *self.experiment.pools]
        return list(self._known([*names, *self.experiment.searches]))

    @cached_property
    def best(self) -> str:
        """The transfer whose networks are the best on val, by the median run."""
        results = list(self._known(list(self.experiment.nat)))
        reference = own_reference(results, self.experiment)

        def volume(name: str) -> float:
            mine = [reference.volume(one.array("val")) for one in results if one.part == name]
            return float(np.median(mine))

        candidates = [name for name in self.experiment.nat if self._has_one_space(name)]
        return max(candidates, key=volume)

    # --- parts ---

    def _results(self, parts: Sequence[Part], cluster: Cluster | None = None) -> None:
        """Do parts that have no result yet, and write what comes of them."""
        todo = [part for part in parts if not self._file(*part).exists()]
        if cluster is None:
            for name, run in todo:
                self.note(f"run {run + 1} of {self.experiment.runs}: {name}")
                write_model(self._file(name, run), self.done(name, run))
        elif todo:
            places = {name: getattr(self, name).absolute() for name in ("folder", "out", "data")}
            there = replace(self, **places, phase=_no_phase, note=_no_note, cluster=None)
            for which, found in cluster.run(_done, there, todo, cluster.need(self.device)):
                name, run = todo[which]
                write_model(self._file(name, run), found)
                self.note(f"run {run + 1} of {self.experiment.runs}: {name} is done")

    def done(self, name: str, run: int) -> Result:
        """Do a part, or what of it is not done yet."""
        make = self._searched if name in self.experiment.searches else self._made
        return make(name, run)

    def _made(self, name: str, run: int) -> Result:
        started_s, seed = time.monotonic(), self.experiment.seed + run
        about = {"part": name, "run": run, "seed": seed}
        if name in self.experiment.pools:
            recorded = self.experiment.pools[name]
            pool = self._recorded(name, recorded)
            return of_networks(pool, recorded.splits, **about, seconds=time.monotonic() - started_s)
        options = {"data": self.data, "device": self.device, "phase": self.phase, "workers": self.workers}
        place, pool_path = self._place("nat", name, run), self._place("pools", name, run)
        if name in self.experiment.nat:
            nat = nat_of(self.experiment.nat[name], self.experiment, self.folder, seed)
            for which, one in enumerate(_each(nat)):
                end = "" if not nat.others else f"-{which}"
                self._begin(one, place / f"start{end}.safetensors")
            pool, _ = transfer(nat, place, pool_path, **options)  # type: ignore[arg-type]
            return of_networks(pool, ("val", "test"), **about, seconds=time.monotonic() - started_s)
        place = self._place("joint", name, run)
        told = joint_of(self.experiment.joint[name], self.experiment, self.folder, seed)
        for which, net in enumerate(told.supernets):
            self._begin(told.nat(which), place / "supernets" / net.space / "start.safetensors")
        pool, front, _ = joint(told, place, pool_path, **options)  # type: ignore[arg-type]
        return of_front(front, pool, ("val", "test"), **about, seconds=time.monotonic() - started_s)

    def _searched(self, name: str, run: int) -> Result:
        started_s, seed = time.monotonic(), self.experiment.seed + run
        told = self.experiment.searches[name]
        pool, splits = self._pool_of(told, run)
        place = self._place("fronts", name, run)
        if (place / "front.json").is_file():
            front = Front.open(place)
        else:
            advance = self.phase(f"{name}: searching", told.evaluations)
            front = search(
                pool,
                evaluations=told.evaluations,
                seed=seed,
                algorithm=told.algorithm,
                max_stages=told.max_stages,
                split=splits[0],
                report_fraction=0,
                refine_thresholds=told.refine_thresholds,
                workers=self.threads,
                out=place,
                progress=advance,
            )
        about = {"part": name, "run": run, "seed": seed}
        seconds = time.monotonic() - started_s
        found = of_front(front, pool, splits, **about, seconds=seconds)
        if not told.traced:
            return found
        trace: Traced = traced(pool, splits[0], told, seed, self.threads)
        return found.model_copy(update={"trace": trace})

    def _pool_of(self, told: Searched, run: int) -> tuple[Pool, tuple[str, str]]:
        """The pool that a search is on, merged if it is several, and which splits it has."""
        names = [self.best if name == BEST else name for name in told.pools]
        recorded = [self.experiment.pools[name] for name in names if name in self.experiment.pools]
        if recorded and len(names) > 1:
            raise InvalidInput(f"searches: {', '.join(names)}: a recorded pool is searched alone")
        if recorded:
            return self._recorded(names[0], recorded[0]), recorded[0].splits
        runs = [(run + i) % self.experiment.runs for i in range(min(told.clones, self.experiment.runs))]
        places = [self._place("pools", name, one) for name in names for one in runs]
        if len(places) == 1:
            return Pool.open(places[0]), ("val", "test")
        digest = hashlib.sha256(" ".join(sorted(place.name for place in places)).encode()).hexdigest()[:10]
        merged = self.out / "merged" / f"{len(places)}-{digest}"
        if not (merged / "pool.json").is_file():
            merge(merged, places)
        return Pool.open(merged), ("val", "test")

    def _recorded(self, name: str, told: Recorded) -> Pool:
        """A pool that lies there, or is recorded now."""
        if told.pool is not None:
            return Pool.open(self.data / told.pool)
        assert told.members is not None and told.val is not None and told.test is not None
        place = self.out / "pools" / name
        specs, names = todays(read_members(self.folder / told.members))
        write_model(self.out / "names.json", names)
        for text in names.in_words():
            self.note(text)
        for split, images in zip(told.splits, (told.val, told.test), strict=True):
            advance = self.phase(f"recording {split}", len(specs))
            record(
                place,
                specs,
                self.data / images.path,
                split=split,
                rows=images.rows,
                device=self.device,
                advance=advance,
                cluster=self.cluster,
            )
        return Pool.open(place)

    def _begin(self, nat: NatConfig, file: Path) -> None:
        """Put a supernetwork that is trained from scratch, once for all runs, where a run looks for it."""
        start = nat.start
        if start is None or file.exists():
            return
        told = nat.model_copy(update={"seed": self.experiment.seed})
        about = json.dumps([start.model_dump(), told.data.model_dump()], sort_keys=True)
        place = self.out / "start" / f"{told.space}-{hashlib.sha256(about.encode()).hexdigest()[:10]}"
        made = pretrain(
            told, place, data=self.data, device=self.device, phase=self.phase, workers=self.workers
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, file.with_suffix(".copy"))
        file.with_suffix(".copy").replace(file)

    # --- places ---

    def _has_one_space(self, name: str) -> bool:
        seed = self.experiment.seed
        return not nat_of(self.experiment.nat[name], self.experiment, self.folder, seed).others

    def _known(self, names: Sequence[str]) -> Iterator[Result]:
        for name in names:
            for run in range(self.experiment.runs):
                if self._file(name, run).exists():
                    yield read_model(self._file(name, run), Result)

    def _file(self, name: str, run: int) -> Path:
        return self.out / "results" / f"{name}-{run}.json"

    def _place(self, kind: str, name: str, run: int) -> Path:
        return self.out / kind / f"{name}-{run}"

    def _keep_config(self) -> None:
        """Refuse a folder of another experiment; more runs may be asked for."""
        file = self.out / "config.json"
        if file.exists():
            before = read_model(file, Experiment)
            if _but_what_adds(before) != _but_what_adds(self.experiment):
                raise InvalidInput(
                    f"{self.out}: is of another experiment ({file}); name another folder: --out"
                )
        write_model(file, self.experiment)


def own_reference(results: Sequence[Result], experiment: Experiment) -> Reference:
    """The experiment's own reference: error 1, and 1 % more than the dearest network costs."""
    macs = 1.01 * max(one.most_macs for one in results)
    # A cascade's mean is a mean of whole members, so nothing costs less than the cheapest.
    least = min(one.least_macs for one in results) if experiment.cost_scale == "log" else None
    return Reference("own", 1.0, macs, least)


def _each(nat: NatConfig) -> list[NatConfig]:
    """A configuration of each supernetwork alone."""
    alone = nat.model_copy(update={"others": ()})
    spaces = [nat.space, *(other.space for other in nat.others)]
    return [alone.model_copy(update={"space": space}) for space in spaces]


def _done(runner: Runner, part: Part) -> Result:
    """Be a job."""
    return runner.done(*part)


def _no_phase(_name: str, _steps: int) -> Callable[[int, str], None]:
    return lambda _done, _words: None


def _no_note(_text: str) -> None:
    """Say nothing."""


def _but_what_adds(experiment: Experiment) -> Experiment:
    """Leave out what may be changed of a folder: how many runs, and what is made of their results."""
    update = {"runs": 1, "claims": (), "figures": (), "title": "", "reference": (1.0, 1.0)}
    return experiment.model_copy(update=update)
