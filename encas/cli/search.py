"""`encas search`."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encas.cli.clusters import Ray, RayCommand, cluster_of
from encas.cli.numbers import mmacs

if TYPE_CHECKING:
    from encas.cascade import Evaluated
    from encas.front import Candidate, Front
    from encas.pool import Pool
    from encas.search.device.cascades import Advance
    from encas.search.device.run import SearchOn
    from encas.search.seeds import Settings

_SHOWN = 8  # rows of a front that fit a glance

PoolPath = Annotated[Path, typer.Option("--pool", metavar="POOL", help="Folder that `encas pool` wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("search", cls=RayCommand)(search)


def search(
    pool: PoolPath,
    out: Annotated[Path, typer.Option("--out", metavar="FRONT", help="Folder to write to.")] = Path("front"),
    algorithm: Annotated[
        str,
        typer.Option(
            help="mo-gomea, mo-gomea-2018 (as published), nsga2, nsga3, random, greedy, grid-last, grid-mean "
            "or ensemble (by MO-GOMEA)."
        ),
    ] = "mo-gomea",
    objective: Annotated[
        str,
        typer.Option(
            help="The cost: macs, latency[:PROVIDER[:BATCH[:MACHINE]]] or throughput[:PROVIDER[:MACHINE]], "
            "from the times in the pool."
        ),
    ] = "macs",
    split: Annotated[str, typer.Option(help="The labelled samples to search on.")] = "val",
    report_fraction: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="This part of the split is not searched on, but reported on; 0 searches on all.",
        ),
    ] = 0.3,
    max_stages: Annotated[int, typer.Option(help="Length of the longest cascade.")] = 5,
    evaluations: Annotated[
        int, typer.Option(help="Budget: different genotypes that are asked for, as the papers count.")
    ] = 600_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same front.")] = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="Search with so many seeds, from --seed on, into FRONT/seed-N each.")
    ] = 1,
    workers: Annotated[int, typer.Option(help="How many evaluate at a time; the front stays the same.")] = 1,
    seed_singles: Annotated[
        bool, typer.Option("--seed-singles", help="Start from the members on their own; the paper does not.")
    ] = False,
    refine_thresholds: Annotated[
        bool | None,
        typer.Option(
            "--refine-thresholds/--no-refine-thresholds",
            help="Move thresholds off the grid that is searched, for a quarter of the evaluations; on for "
            "mo-gomea.",
        ),
    ] = None,
    refine_on_device: Annotated[
        int,
        typer.Option(
            "--refine-on-device",
            metavar="N",
            min=0,
            help="Run N cascades of the front here, correct the predicted times, search on, and so on.",
        ),
    ] = 0,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run the Python functions that torch: members name.")
    ] = False,
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """Search a pool for cascades that trade accuracy against cost.

    Writes FRONT/front.json, a picture (front.png) and a page (front.html). Accuracies are those on samples
    that were kept out of the search. Stopped and started again, the search goes on from what it evaluated.

    Example: encas search --pool pool --out front --evaluations 100000 --seed 1
    """
    from encas import Pool
    from encas.cli.output import print_json, print_line, print_next, print_note, progress
    from encas.errors import InvalidInput
    from encas.search import search as search_pool
    from encas.search.refine import SWEEP

    opened = Pool.open(pool)
    if seeds > 1 or ray is not None:
        from encas.search.seeds import Settings

        if refine_on_device:
            raise InvalidInput("--refine-on-device runs one search here; leave out --seeds and --ray")
        settings = Settings(
            evaluations,
            algorithm,  # type: ignore[arg-type]  # checked behind the door
            objective,
            max_stages,
            split,
            report_fraction,
            seed_singles,
            refine_thresholds,
            workers,
        )
        _search_seeds(opened, range(seed, seed + seeds), out, settings, ray, as_json=as_json)
        return
    if refine_on_device:
        from encas.search.device.run import Device

        Device.of(opened, split, objective)  # says now what would stop it later
    searching = partial(
        search_pool,
        opened,
        evaluations=evaluations,
        seed=seed,
        algorithm=algorithm,  # type: ignore[arg-type]  # checked behind the door
        objective=objective,
        max_stages=max_stages,
        split=split,
        report_fraction=report_fraction,
        workers=workers,
        seed_singles=seed_singles,
        refine_thresholds=refine_thresholds,
    )
    with progress("search", evaluations) as advance:
        front = searching(out=out, progress=advance)
    if refine_on_device:
        front = _refined(front, opened, refine_on_device, searching, allow_code=allow_code)
    if as_json:
        print_json(front.file)
        return
    counts = front.file.evaluations
    sweeps = counts["sweeps"]
    if counts["genotypes"] + SWEEP * (sweeps + 1) <= evaluations:
        print_note(f"search: ended after {counts['genotypes']} evaluations, nothing new was left to find")
    _print_front(front)
    print_line(
        f"{len(front.candidates)} cascades from {counts['genotypes']} evaluations ({counts['phenotypes']} "
        f"different cascades{f', {sweeps} sweeps of a threshold' if sweeps else ''}) in "
        f"{front.file.seconds:.1f} s; see {out / 'front.html'}"
    )
    wish = f"{front.figures(_middle(front).cascade).accuracy - 5e-5:.4f}"
    print_next("encas pick", out, "--min-accuracy", wish, "-o", "cascade.json")


def _search_seeds(
    pool: "Pool", seeds: Sequence[int], out: Path, settings: "Settings", ray: str | None, *, as_json: bool
) -> None:
    """Search with several seeds, and say what each has found."""
    from encas.cli.output import print_json, print_next, print_table, progress
    from encas.search.seeds import search_seeds

    with (
        cluster_of(ray) as cluster,
        progress("search", len(seeds) * settings.evaluations, quiet=as_json) as advance,
    ):
        fronts = search_seeds(pool, seeds, out, settings, cluster=cluster, progress=advance)
    if as_json:
        print_json([front.file.model_dump(mode="json") for front in fronts])
        return
    rows = []
    for front in fronts:
        figures = [front.figures(one.cascade) for one in front.candidates]
        best = max(figures, key=lambda found: found.accuracy)
        rows.append(
            [
                str(front.path),
                str(len(front.candidates)),
                f"{best.accuracy:.2%}",
                mmacs(best.macs),
                f"{front.file.seconds:.1f}",
            ]
        )
    print_table(["front", "cascades", "most accurate", "MMACs", "seconds"], rows)
    print_next("encas plot", *(front.path for front in fronts), "-o", out / "fronts.png")


def _refined(front: "Front", pool: "Pool", n: int, searching: "SearchOn", *, allow_code: bool) -> "Front":
    """Correct a front by running cascades of it, and say how well predictions agree in the end."""
    from encas.cli.output import print_note, progress
    from encas.search.device import refine

    with ExitStack() as bars:

        def bar(what: str, total: int) -> "Advance":
            bars.close()
            return bars.enter_context(progress(what, total))

        front = refine(front, pool, n, searching, allow_code=allow_code, write=True, progress=bar)
    found = front.file.refinement
    assert found is not None
    for number, round_ in enumerate(found.rounds, 1):
        print_note(
            f"refining: round {number}: predicted times of {len(round_.trials)} cascades are "
            f"{round_.median_error:.1%} off what they took (median)"
        )
    ratios = [pair.ratio for pair in found.pairs]
    if ratios:
        print_note(
            f"refining: at no more error than {len(ratios)} cascades of the first front the last one takes "
            f"{min(ratios):.3f} to {max(ratios):.3f} times as long, measured in turns; "
            f"{sum(pair.kept for pair in found.pairs)} of the first were faster and are kept"
        )
    return front


def _print_front(front: "Front") -> None:
    """Print some candidates from end to end of a front."""
    from encas.cli.output import print_line, print_table

    split = front.file.split
    rows = [
        [str(c.cascade), *_accuracy(front.figures(c.cascade)), *_costs(front, c), *_leaves(front, c)]
        for c in _spread(front.candidates)
    ]
    latency = ["ms"] if front.file.unit == "s" else []
    found = front.figures(front.candidates[0].cascade)
    expected = [] if found.interval is None else [f"on {found.interval.n} others"]
    print_table([f"cascade ({split})", "accuracy", *expected, *latency, "MMACs", "at once"], rows)
    if found.interval is not None:
        print_line(f"counted on {found.n} samples of {split} that were not searched on")


def _accuracy(found: "Evaluated") -> list[str]:
    shown = [f"{found.accuracy:.2%}"]
    if found.interval is not None:
        shown.append(f"{100 * found.interval.low:.1f} - {found.interval.high:.1%}")
    return shown


def _costs(front: "Front", candidate: "Candidate") -> list[str]:
    macs = front.figures(candidate.cascade).macs
    latency = [f"{candidate.cost * 1e3:.4g}"] if front.file.unit == "s" else []
    return [*latency, mmacs(macs)]


def _leaves(front: "Front", candidate: "Candidate") -> list[str]:
    return [f"{front.figures(candidate.cascade).exit_fractions[0]:.1%}"]


def _spread(candidates: "tuple[Candidate, ...]") -> "list[Candidate]":
    n = min(_SHOWN, len(candidates))
    return [candidates[round(i * (len(candidates) - 1) / max(n - 1, 1))] for i in range(n)]


def _middle(front: "Front") -> "Candidate":
    return front.candidates[len(front.candidates) // 2]
