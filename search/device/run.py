"""Correcting a search by latency: run cascades of its front, correct the predictions, search on."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from encas.cascade import Cascade, Stage
from encas.cost import Objective, member_times, setting, taking_part
from encas.data import LabelledImages
from encas.errors import InvalidInput
from encas.export.inputs import recorded_images
from encas.front import Candidate, Front
from encas.latency import MemberTime
from encas.pool import Pool
from encas.refinement import Corrections, Pair, Refinement, Round, Trial
from encas.runtime.measure import this_machine
from encas.search.device.cascades import Advance, Cascades
from encas.search.device.regression import Sample, fit
from encas.search.picture import draw

CLOSE = 0.05  # median error of the final front's predictions that is good enough
MOST_ROUNDS = 4  # of searching on
_PASSES = 5
_BATCHES = 64


class SearchOn(Protocol):
    """The search that found the front, with its settings; it must not write."""

    def __call__(self, *, start: Sequence[Cascade], corrections: Corrections) -> Front:
        """Search on from some cascades, with corrected times."""


@dataclass(frozen=True)
class Device:
    """Where and on what cascades are run."""

    machine: str
    provider: str
    batch: int
    times: dict[str, MemberTime]
    images: LabelledImages

    @classmethod
    def of(cls, pool: Pool, split: str, objective: str) -> "Device":
        """Check that a search can be corrected here, before anything is searched.

        Raises:
            InvalidInput: The objective is not latency, the times are of another machine, or the images of the
                split are not at hand.
        """
        goal = Objective.parse(objective)
        if goal.kind != "latency":
            raise InvalidInput(
                f"objective '{objective}': only a search by latency can be refined on the device; name "
                "latency, as in latency:cpu:1"
            )
        members = taking_part(pool.members_with(split), goal)
        machine, provider = setting(members, goal)
        times, batch = member_times(members, goal)
        here = this_machine(provider).name
        if here != machine:
            raise InvalidInput(
                f"{pool.path}: its times are of {machine}, this is {here}; measure the pool here first: "
                "encas pool measure POOL"
            )
        images = recorded_images(pool, split)
        if images is None:
            raise InvalidInput(
                f"{pool.path}: the images of split '{split}' are not at hand, and cascades must be run on "
                "them; put them where the pool says, or search without --refine-on-device"
            )
        n = min(len(images), _BATCHES * batch) // batch * batch or len(images)
        rows = np.linspace(0, len(images) - 1, n).round().astype(np.intp)
        named = {member.name: time for member, time in zip(members, times, strict=True)}
        return cls(machine, provider, batch, named, images.take(rows))


def refine(
    front: Front,
    pool: Pool,
    n: int,
    search_on: SearchOn,
    *,
    allow_code: bool = False,
    write: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[str, int], Advance] = lambda _what, _total: lambda _n, _words: None,
) -> Front:
    """Run cascades of a front, correct predicted times by what they took, and search on, until both agree.

    The search goes on from the whole front, so what is found is predicted to be nowhere worse. In the end n
    cascades of the first front run in turns with what the last one has of no more error, and those that are
    faster stay: so it is nowhere worse when measured, either.

    Args:
        front: Of a search by latency.
        pool: That was searched; its times must be of this machine, and the split's images at hand.
        n: Cascades to run in each round, from end to end of the front.
        search_on: `functools.partial(search, pool, objective=..., ...)`, without `out`.
        allow_code: Run the Python functions that `torch:` members name.
        write: Write `front.json` and the pictures into the front's folder.
        clock: Seconds.
        progress: Makes a function that is told of each run, given what is done and how many runs there are.

    Returns:
        The last front, with `refinement`; its costs are as corrected for the last round. Times are measured,
        so two runs do not end with the same bytes.

    Raises:
        InvalidInput: See `Device.of`; or a member cannot be exported.
    """
    if n < 1:
        raise InvalidInput(f"refine-on-device: must be at least 1 cascade, got {n}")
    split = front.file.split
    device = Device.of(pool, split, front.file.objective)
    corrections: Corrections | None = None
    first = front.candidates
    rounds: list[Round] = []
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder:
        cascades = Cascades(pool, split, Path(folder), device.provider, allow_code, clock)
        while True:
            chosen = spread(front.candidates, n)
            advance = progress(f"round {len(rounds) + 1}", _PASSES * len(chosen))
            new = _samples(cascades, chosen, device, advance)
            rounds.append(_round(chosen, new, corrections, device.batch))
            samples += new
            agrees = len(rounds) > 1 and rounds[-1].median_error <= CLOSE
            if agrees or len(rounds) > MOST_ROUNDS:
                break
            corrections = fit(samples)
            found = search_on(start=[c.cascade for c in front.candidates], corrections=corrections)
            front = _continued(front, found)
        both = pair(first, front.candidates, n)
        each = list({c.cascade.stages: c for pair_ in both for c in pair_}.values())
        last = _samples(cascades, each, device, progress("first and last front", _PASSES * len(each)))
    told = _round(each, last, corrections, device.batch).trials
    trials = {c.cascade.stages: trial for c, trial in zip(each, told, strict=True)}
    refinement = Refinement(
        machine=device.machine,
        provider=device.provider,
        batch=device.batch,
        images=len(device.images),
        passes=_PASSES,
        rounds=tuple(rounds),
        pairs=tuple(
            Pair(before=trials[before.cascade.stages], after=trials[after.cascade.stages])
            for before, after in both
        ),
    )
    measured_s = {stages: trial.measured_s for stages, trial in trials.items()}
    update = {"refinement": refinement, "candidates": settle(front.candidates, both, measured_s)}
    front = Front(front.path, front.file.model_copy(update=update))
    if write:
        front.write()
        draw(front)
    return front


def spread(candidates: Sequence[Candidate], n: int) -> list[Candidate]:
    """Choose n candidates from end to end, as evenly in cost as there are some."""
    costs = np.log([max(candidate.cost, 1e-12) for candidate in candidates])
    chosen: list[int] = []
    for wanted in np.linspace(costs[0], costs[-1], n):
        free = [j for j in range(len(candidates)) if j not in chosen]
        if free:
            chosen.append(min(free, key=lambda j: abs(costs[j] - wanted)))
    return [candidates[j] for j in sorted(chosen)]


def pair(first: Sequence[Candidate], last: Sequence[Candidate], n: int) -> list[tuple[Candidate, Candidate]]:
    """Find for n candidates of a front the cheapest of another one that has no more error, if any has."""
    pairs = []
    for candidate in spread(first, n):
        better = [other for other in last if other.error <= candidate.error]
        if better:
            pairs.append((candidate, min(better, key=lambda other: other.cost)))
    return pairs


def settle(
    last: Sequence[Candidate],
    pairs: Sequence[tuple[Candidate, Candidate]],
    measured_s: Mapping[tuple[Stage, ...], float],
) -> tuple[Candidate, ...]:
    """Put those cascades of the first front into the last one that are faster than what it has instead.

    Whoever then asks the last front for no more error than that of a cascade in `pairs` gets one that took no
    longer. The cost of what is put in is that of what it is faster than, times the ratio of measured times.

    Args:
        last: By rising cost, falling error.
        pairs: As of `pair`.
        measured_s: Of every cascade in the pairs, by its stages.

    Returns:
        By rising cost, falling error.
    """
    kept = list(last)
    for before, _ in sorted(pairs, key=lambda two: measured_s[two[0].cascade.stages]):
        before_s = measured_s[before.cascade.stages]
        cheapest = min((c for c in kept if c.error <= before.error), key=lambda c: c.cost)
        cheapest_s = measured_s[cheapest.cascade.stages]
        if cheapest_s <= before_s:
            continue
        # What is faster and less accurate must stay cheaper, or it would leave the front.
        faster = [
            np.nextafter(c.cost, np.inf)
            for c in kept
            if c.error >= before.error and measured_s.get(c.cascade.stages, np.inf) <= before_s
        ]
        cost = float(max([cheapest.cost * before_s / cheapest_s, *faster]))
        kept = [c for c in kept if c.error < before.error or c.cost < cost]
        kept.append(before.model_copy(update={"cost": cost}))
    return tuple(sorted(kept, key=lambda c: c.cost))


def _samples(
    cascades: Cascades, chosen: Sequence[Candidate], device: Device, advance: Advance
) -> list[Sample]:
    runs = cascades.run([c.cascade for c in chosen], device.images, device.batch, _PASSES, advance)
    samples = []
    for candidate, run in zip(chosen, runs, strict=True):
        names = candidate.cascade.member_names
        times = [device.times[name] for name in names]
        samples.append(Sample.of(tuple(names), times, run, device.batch))
    return samples


def _round(
    chosen: Sequence[Candidate], samples: Sequence[Sample], corrections: Corrections | None, batch: int
) -> Round:
    trials = [
        Trial(
            cascade=str(candidate.cascade),
            error=candidate.error,
            predicted_s=sample.predicted_s(corrections) / batch,
            measured_s=sample.measured_s / batch,
        )
        for candidate, sample in zip(chosen, samples, strict=True)
    ]
    return Round(trials=tuple(trials), corrections=corrections)


def _continued(before: Front, found: Front) -> Front:
    """Return what was found, with evaluations and time of both searches, in the first one's folder."""
    counts = found.file.evaluations
    evaluations = {key: n + counts.get(key, 0) for key, n in before.file.evaluations.items()}
    seconds = before.file.seconds + found.file.seconds
    update = {"evaluations": evaluations, "seconds": seconds}
    return Front(before.path, found.file.model_copy(update=update))
