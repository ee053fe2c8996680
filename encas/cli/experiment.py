"""`encas experiment`: a whole published experiment by one command."""

from pathlib import Path
from typing import Annotated

import typer

from encas.cli.clusters import Ray, RayCommand, RayCores, cluster_of


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("experiment", cls=RayCommand)(experiment)


def experiment(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A file as in configs/experiments/.")],
    data: Annotated[
        Path, typer.Option("--data", help="Folder that paths of images, weights and pools are relative to.")
    ] = Path(),
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="OUT", help="Folder.  [default: experiments/, then CONFIG's name]"),
    ] = None,
    runs: Annotated[
        int | None, typer.Option("--runs", min=1, help="How many seeds.  [default: as CONFIG says]")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda, for training and recording.")] = "cpu",
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that augment images, where that is strong.")
    ] = 0,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Of searches; the fronts stay the same.")
    ] = 1,
    ray: Ray = None,
    ray_cores: RayCores = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Run an experiment: transfers, joint runs, pools, searches over all seeds, test, figures, statistics.

    Every part is skipped when its result is there: stopped at any moment, the same command goes on, and with
    more --runs it adds some. Writes OUT/report.json, OUT/report.html and OUT/figures/. Files that are missing
    are named at once, with where they are from and their licences. On a cluster the transfers, joint runs and
    searches of all seeds run at the same time.

    Example: `encas experiment configs/experiments/cifar10.yml --data datasets --device cuda`
    """
    from encas.cli.output import phases, print_json, print_line, print_note, print_table
    from encas.errors import InvalidInput, require

    require("torch", "nat")
    require("pymoo", "search")
    require("scipy", "search")
    from encas.memory import keep_freed_memory
    from encas.search.experiment.config import read_experiment
    from encas.search.experiment.report import report, tables
    from encas.search.experiment.run import Runner

    if device not in ("cpu", "cuda"):
        raise InvalidInput(f"--device '{device}': must be cpu or cuda")
    keep_freed_memory()
    told = read_experiment(config)
    if runs is not None:
        told = told.model_copy(update={"runs": runs})
    with cluster_of(ray, ray_cores) as cluster, phases(quiet=as_json) as phase:
        place = out or Path("experiments") / config.stem
        runner = Runner(
            told, config.parent, place, data, device, phase, workers, threads, print_note, cluster
        )
        runner.run()
    found = report(runner)
    if as_json:
        print_json(found)
        return
    for title, (header, rows) in tables(found).items():
        print_line(f"\n{title}")
        if title != "Claims":
            print_table(header, rows)
            continue
        for claim, split, by, wins, medians, effect, p, holm in rows:  # too wide for a table
            print_line(f"{claim} on {split}, {by}: better in {wins} runs")
            print_line(f"  medians {medians}, effect {effect}, p {p}, after Holm {holm}")
    print_line(f"\nreferences: {'; '.join(found.references)}")
    print_line(f"{place / 'report.html'} has the figures")
