"""Commands that run a bundle on this machine: run and measure."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encas.cli.numbers import BatchCommand

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from encas.bundle import Bundle
    from encas.measurement import CascadeMeasurement
    from encas.pool import Latency, Pool
    from encas.runtime.answers import Row, Summary
    from encas.runtime.members import Images

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that `encas export` wrote.")]
Provider = Annotated[
    str | None,
    typer.Option("--provider", help="cpu, cuda or tensorrt. The default is cuda if it works here, else cpu."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("run")(run)
    app.command("measure", cls=BatchCommand)(measure)


def run(
    bundle: BundlePath,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES...", help="Image files, and folders to look through.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the answers to this .jsonl or .csv file.")
    ] = None,
    provider: Provider = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images answered at a time.")] = 32,
    as_json: Json = False,
) -> None:
    """Answer image files with a bundle's cascade.

    An image that cannot be read gets a row that says why; the others are answered all the same, and the exit
    code is 1.

    Example: `encas run bundle photographs/ --out answers.jsonl`
    """
    from encas.cli.output import print_json, progress
    from encas.errors import InvalidInput
    from encas.runtime import open_executor
    from encas.runtime.answers import Summary, Unreadable, answer_files, answers_file, find_images

    _hush_pillow()
    rows: list[Row] = []
    with open_executor(bundle, provider) as executor, answers_file(out) as write:
        files = find_images(images)
        with progress("answered", len(files), quiet=as_json) as advance:
            for part in answer_files(executor, files, batch):
                write(part)
                rows += part
                advance(len(part), "")
    summary = Summary.of(executor.bundle, rows)
    if as_json:
        answers = {} if out else {"answers": [row.model_dump(mode="json") for row in rows]}
        print_json({**answers, "summary": summary.model_dump(mode="json")})
    else:
        _print_answers(executor.bundle, rows if out is None else [], summary, out)
    if summary.failed:
        first = next(row for row in rows if isinstance(row, Unreadable))
        where = f"see 'error' in {out}; the first: " if out else "the first: "
        raise InvalidInput(
            f"{summary.failed} of {len(rows)} images could not be read; {where}{first.file}: {first.error}"
        )


def measure(
    bundle: BundlePath,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGES...]",
            help="Images and folders. By default the few samples inside the bundle, for a quick look.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Labelled images instead, for the accuracy as well.")
    ] = None,
    rows: Annotated[str, typer.Option("--rows", help="Which of --data, as a slice: 5000: or :1000.")] = ":",
    batch: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="Batch sizes to time.  [default: 1 8 32]")
    ] = None,
    provider: Provider = None,
    pool: Annotated[
        Path | None, typer.Option("--pool", help="Write the members' latencies into this pool.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure what a bundle really does here: MACs executed, exits, latency, throughput.

    MACs are counted from the images that each stage was run on, not predicted. The time of the cascade
    includes decoding and resizing; that of a member does not.

    Example: `encas measure bundle --data test-images/ --batch 1 8 32 --pool pool`
    """
    from encas.bundle import Bundle
    from encas.cli.output import print_json, print_note, progress
    from encas.errors import InvalidInput
    from encas.pool import Pool
    from encas.runtime import open_executor
    from encas.runtime.measure import DEFAULT_BATCHES, measure_bundle, measuring_steps

    _hush_pillow()
    if images and data:
        raise InvalidInput("name images, or --data, not both")
    if rows != ":" and not data:
        raise InvalidInput("--rows says which of --data; name --data too")
    opened = Bundle.open(bundle)
    if pool is not None:
        _check_names(Pool.open(pool), opened)
    batches = batch or list(DEFAULT_BATCHES)
    if not images and not data:
        print_note(
            "measuring on the bundle's own samples: they cover every exit, so exits, MACs and times are not "
            "those of your images; name IMAGES or --data"
        )
    samples, labels = _labelled(data, rows, opened) if data else (_samples(images or [], opened), None)
    with open_executor(opened, provider) as executor:
        steps = measuring_steps(executor, len(samples), batches)
        with progress("measuring", steps, quiet=as_json) as advance:
            found = measure_bundle(executor, samples, batches, labels=labels, advance=advance)
    written = None if pool is None else Pool.open(pool).with_latency(_latencies(found))
    if as_json:
        print_json(found)
    else:
        _print_measurement(opened, found, written)


def _hush_pillow() -> None:
    """Keep Pillow's remarks about odd files from stderr: those that cannot be read get a line of ours."""
    import warnings

    warnings.filterwarnings("ignore", module="PIL")


def _print_answers(bundle: "Bundle", rows: "list[Row]", summary: "Summary", out: Path | None) -> None:
    from encas.cli.output import print_line, print_next, print_table, shortened
    from encas.runtime.answers import Answered

    cells = [
        (row.file, shortened(row.label, 30), f"{row.confidence:.3f}", str(row.exit_stage))
        if isinstance(row, Answered)
        else (row.file, "cannot be read", "", "")
        for row in rows
    ]
    print_table(("file", "label", "confidence", "exit stage"), cells, files=True)
    if out is not None:
        print_line(f"{out}: {summary.n + summary.failed} rows")
    if summary.macs is not None:
        print_line(f"{summary.n} images answered")
        _print_cost(bundle, summary.macs, summary.exit_fractions)
    print_next("encas measure", bundle.path)


def _print_measurement(bundle: "Bundle", found: "CascadeMeasurement", pool: "Pool | None") -> None:
    from encas.cli.output import print_line, print_measured, print_next, print_times

    first = found.members[0]
    machine = first.machine
    print_line(f"{machine.name}, {first.provider}, ONNX Runtime {machine.onnxruntime}")
    right = "" if found.accuracy is None else f", accuracy {100 * found.accuracy:.2f} %"
    print_line(f"{found.n} images{right}")
    _print_cost(bundle, found.macs, found.exit_fractions)
    if found.peak_bytes is not None:
        print_line(f"memory: {found.peak_bytes / 2**20:.0f} MiB at most")
    if found.energy_j is not None:
        print_line(f"energy: {found.energy_j:.3g} J an image")
    print_line("")
    print_times(found.members, found.batches)
    print_line("")
    if pool is None:
        print_next("encas serve", bundle.path)
    else:
        print_line(f"{pool.path}: latencies of {len(set(bundle.cascade.member_names))} members written")
        print_measured(pool, machine.name, first.provider, min(timing.batch for timing in found.batches))


def _print_cost(bundle: "Bundle", macs: float, exit_fractions: tuple[float, ...]) -> None:
    from encas.cli.output import print_line

    everything = sum(member.macs for member in bundle.stage_members)
    print_line(f"executed: {macs / 1e6:.4g} MMACs an image; all stages would be {everything / 1e6:.4g}")
    print_line(f"left at each stage: {', '.join(f'{100 * fraction:.1f} %' for fraction in exit_fractions)}")


def _samples(paths: list[Path], bundle: "Bundle") -> "Images":
    from encas.errors import InvalidInput
    from encas.runtime.answers import find_images
    from encas.runtime.measure import golden_images

    images = list(find_images(paths)) if paths else golden_images(bundle)
    if not images:
        raise InvalidInput(f"{bundle.path}: holds no samples to measure on; name images, or --data")
    return images


def _labelled(path: Path, rows: str, bundle: "Bundle") -> "tuple[Images, NDArray[np.int64]]":
    from encas.data import open_images
    from encas.runtime.measure import bundle_labels

    data = open_images(path).rows(rows)
    return data.images, bundle_labels(data, bundle, str(path))


def _check_names(pool: "Pool", bundle: "Bundle") -> None:
    """Raise before minutes of measuring where there is nowhere to write the result to."""
    for name in bundle.cascade.member_names:
        pool.member(name)


def _latencies(found: "CascadeMeasurement") -> "dict[str, tuple[Latency, ...]]":
    return {name: entries for part in found.members for name, entries in part.latencies().items()}
