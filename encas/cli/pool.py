"""`encas pool`: making, filling and looking at pools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encas.cli.clusters import Ray, RayCommand, RayCores, cluster_of
from encas.cli.member_table import members_as_json, print_members

if TYPE_CHECKING:
    from collections.abc import Sequence

    from encas.export import MemberSpec
    from encas.measurement import Measurements
    from encas.member import Member
    from encas.pool import Pool

PoolPath = Annotated[Path, typer.Argument(metavar="POOL", help="Folder of the pool.")]
NewPool = Annotated[Path, typer.Argument(metavar="POOL", help="Folder of the pool; made if it is not there.")]
SplitName = Annotated[str, typer.Option("--split", help="Name of the split that these samples are.")]
Classes = Annotated[
    Path | None,
    typer.Option("--classes", help="Names of the classes, one per line, in the order of the outputs."),
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run the Python functions that torch: members name.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    pool = typer.Typer(
        no_args_is_help=True, help="Make, fill and look at pools of networks.", rich_markup_mode="markdown"
    )
    pool.command("record", cls=RayCommand)(record)
    pool.command("import")(import_)
    pool.command("list")(list_)
    pool.command("check")(check)
    pool.command("merge")(merge)
    pool.command("quantize")(quantize)
    pool.command("temper")(temper)
    pool.command("measure", cls=RayCommand)(measure)
    app.add_typer(pool, name="pool")


def record(
    pool: NewPool,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="Labelled images: a folder with one folder per class, an .npz (images, labels), a .csv "
            "(file, class_index), or CIFAR's .bin files.",
        ),
    ],
    member: Annotated[
        list[str] | None,
        typer.Option(
            "--member",
            metavar="SOURCE",
            help="timm:NAME, torchvision:NAME, torch:MODULE:FUNCTION, onnx:FILE, nat:FOLDER#NETWORK or "
            "ofa:NAME; may be repeated.",
        ),
    ] = None,
    members: Annotated[
        Path | None,
        typer.Option(
            "--members",
            metavar="FILE.yml",
            help="A list of {source, name, weights, preprocess}, all but the first optional.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="Of the single --member: .safetensors, or a saved state_dict."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the single --member.")] = None,
    preprocess: Annotated[
        Path | None,
        typer.Option(
            "--preprocess", metavar="FILE.yml", help="How to prepare images for members that do not say."
        ),
    ] = None,
    rows: Annotated[
        str, typer.Option("--rows", help="Which of the images, as a slice: :5000, 5000: or ::2.")
    ] = ":",
    split: SplitName = "val",
    classes: Classes = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at a time.")] = 64,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    again: Annotated[
        bool, typer.Option("--again", help="Also members that are recorded, as after a change of weights.")
    ] = False,
    ray: Ray = None,
    ray_cores: RayCores = None,
    as_json: Json = False,
) -> None:
    """Record what networks answer for labelled images.

    Members that are recorded already are skipped: killed at any moment, the same command goes on with those
    that were not finished (up to eight are at work together) and ends with the same bytes.

    Example: `encas pool record pool --member timm:resnet18 --member timm:resnet50 --data imagenet/val`
    """
    from encas.cli.output import print_json, print_line, progress
    from encas.data import open_images, read_classes
    from encas.export import record
    from encas.export.source import read_preprocess
    from encas.memory import keep_freed_memory

    _check_device(device)
    specs = _specs(member or [], members, weights, name)
    keep_freed_memory()
    n = len(open_images(data).rows(rows))
    with (
        cluster_of(ray, ray_cores) as cluster,
        progress("recorded", n * len(specs), quiet=as_json) as advance,
    ):
        made = record(
            pool,
            specs,
            data,
            split=split,
            rows=rows,
            classes=None if classes is None else read_classes(classes),
            preprocess=None if preprocess is None else read_preprocess(preprocess),
            batch=batch,
            device=device,
            again=again,
            advance=advance,
            cluster=cluster,
        )
    if as_json:
        print_json(members_as_json(made, [made.member(spec.member_name) for spec in specs]))
        return
    print_members(made, [made.member(spec.member_name) for spec in specs])
    print_line(f"{pool}: {len(made.names)} members, split '{split}' with {made.split(split).n} images")
    _print_next(made, split)


def import_(
    pool: NewPool,
    probs: Annotated[
        Path, typer.Option("--probs", metavar="DIR", help="Folder with NAME.npy, (n, c) probabilities each.")
    ],
    labels: Annotated[
        Path, typer.Option("--labels", help="(n,) class indices: .npy, or text with one number per line.")
    ],
    costs: Annotated[
        Path, typer.Option("--costs", metavar="FILE.csv", help="Columns name, macs and, if known, params.")
    ],
    split: SplitName = "val",
    classes: Classes = None,
    as_json: Json = False,
) -> None:
    """Import probabilities that were computed elsewhere; all of them, or none if something is wrong.

    Example: `encas pool import pool --probs outputs/ --labels labels.txt --costs costs.csv`
    """
    from encas.cli.output import print_json, print_line
    from encas.data import read_classes
    from encas.export import import_outputs
    from encas.export.outputs import read_costs

    names = None if classes is None else read_classes(classes)
    made = import_outputs(pool, probs, labels, costs, split=split, classes=names)
    new = [made.member(row.name) for row in read_costs(costs)]
    if as_json:
        print_json(members_as_json(made, new))
        return
    print_members(made, new)
    print_line(f"{pool}: {len(made.names)} members, split '{split}' with {made.split(split).n} samples")
    _print_next(made, split)


def list_(pool: PoolPath, as_json: Json = False) -> None:
    """List the members of a pool: cost, accuracy on each split, time where most of them were measured.

    Example: `encas pool list pool`
    """
    from encas.cli.output import print_json, print_line, print_next
    from encas.pool import Pool

    opened = Pool.open(pool)
    if as_json:
        print_json(members_as_json(opened, opened.file.members))
        return
    print_members(opened, opened.file.members)
    sizes = ", ".join(f"{name} ({split.n})" for name, split in opened.file.splits.items())
    print_line(f"{len(opened.names)} members, {opened.n_classes} classes, splits: {sizes}")
    print_next("encas pool check", pool)


def check(pool: PoolPath, as_json: Json = False) -> None:
    """Read everything in a pool, and say what is not as it should be; exit code 1 if anything is not.

    Example: `encas pool check pool`
    """
    from encas.cli.output import print_json, print_line, print_next
    from encas.errors import InvalidInput
    from encas.pool import Pool

    opened = Pool.open(pool)
    problems = opened.problems()
    if as_json:
        print_json({"problems": problems})
    else:
        for problem in problems:
            print_line(problem)
    if problems:
        raise InvalidInput(f"{pool}: {len(problems)} problems found; record or import these members again")
    if not as_json:
        print_line(f"{pool}: {len(opened.names)} members, nothing wrong")
        print_next("encas search --pool", pool)


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    pools: Annotated[list[Path], typer.Argument(metavar="POOL...", help="Pools with the same samples.")],
    as_json: Json = False,
) -> None:
    """Merge pools with the same classes, and the same labels in splits of the same name, into a new one.

    Example: `encas pool merge all pool-a pool-b`
    """
    from encas.cli.output import print_json, print_line, print_next
    from encas.export import merge

    made = merge(out, pools)
    if as_json:
        print_json(members_as_json(made, made.file.members))
        return
    print_members(made, made.file.members)
    print_line(f"{out}: {len(made.names)} members from {len(pools)} pools")
    print_next("encas search --pool", out)


def quantize(
    pool: PoolPath,
    precision: Annotated[
        str, typer.Option("--precision", help="int8 (for CPUs) or fp16 (for GPUs).")
    ] = "int8",
    member: Annotated[
        list[str] | None,
        typer.Option("--member", metavar="NAME", help="Only of this one; may be repeated."),
    ] = None,
    calibration: Annotated[
        int, typer.Option("--calibration", help="Images that the ranges of an int8 network come from.")
    ] = 128,
    split: Annotated[
        str, typer.Option("--split", help="Where these are from: what is searched on, never test.")
    ] = "val",
    device: Annotated[str, typer.Option("--device", help="cpu or cuda, for recording.")] = "cpu",
    allow_code: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Add a variant of each member in another precision, recorded on every split whose images are at hand.

    A variant is a member like others, with its own outputs, time and ONNX file: what it is worth, the search
    decides.

    Example: `encas pool quantize pool --precision int8`
    """
    from encas.cli.output import allow_code as code_option
    from encas.cli.output import print_json, print_line, print_next, progress
    from encas.export import quantize
    from encas.export.variants import originals
    from encas.pool import Pool

    _check_device(device)
    opened = Pool.open(pool)
    n_answers = sum(s.n for s in opened.file.splits.values() if s.data is not None)
    n_members = len(set(member)) if member else len(originals(opened))
    with progress("quantizing", n_members * (1 + n_answers), quiet=as_json) as advance:
        made = quantize(
            opened,
            member or (),
            precision=precision,  # type: ignore[arg-type]  # checked behind the door
            calibration=calibration,
            split=split,
            device=device,
            allow_code=allow_code,
            advance=advance,
        )
    pairs = _with_variants(made, member or opened.names)
    if as_json:
        print_json(members_as_json(made, pairs))
        return
    print_members(made, pairs)
    print_line(f"{pool}: {len(made.names)} members, {len(made.names) - len(opened.names)} of them new")
    print_next("encas pool measure", pool, *code_option(made))


def temper(
    pool: PoolPath,
    member: Annotated[
        list[str] | None,
        typer.Option("--member", metavar="NAME", help="Only of this one; may be repeated."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Where temperatures are from: what is searched on, never test.")
    ] = "val",
    device: Annotated[str, typer.Option("--device", help="cpu or cuda, for recording.")] = "cpu",
    allow_code: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Add a variant of each member that is as sure as it is right: its logits divided by a temperature.

    A member that is not sure enough of what it knows lets too few samples leave early, one that is too sure
    too many. A variant has outputs, time and ONNX file of its own, and the search chooses.

    Example: `encas pool temper pool`
    """
    from encas.cli.output import allow_code as code_option
    from encas.cli.output import print_json, print_line, print_next, progress
    from encas.export import temper
    from encas.export.temperature import untempered
    from encas.pool import Pool

    _check_device(device)
    opened = Pool.open(pool)
    n_answers = sum(s.n for s in opened.file.splits.values() if s.data is not None)
    names = list(dict.fromkeys(member or untempered(opened)))
    n_networks = sum(opened.member(name).source != "imported" for name in names)
    with progress("tempering", len(names) + n_networks * n_answers, quiet=as_json) as advance:
        made = temper(opened, names, split=split, device=device, allow_code=allow_code, advance=advance)
    pairs = _with_variants(made, names)
    if as_json:
        print_json(members_as_json(made, pairs))
        return
    print_members(made, pairs)
    print_line(f"{pool}: {len(made.names)} members, {len(made.names) - len(opened.names)} of them new")
    if any(m.latency for m in made.file.members):
        print_next("encas pool measure", pool, *code_option(made))
    else:
        print_next("encas search --pool", pool, *(("--split", split) if split != "val" else ()))


def measure(
    pool: PoolPath,
    provider: Annotated[
        str | None,
        typer.Option(
            "--provider", help="cpu, cuda or tensorrt. The default is cuda if it works here, else cpu."
        ),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="Batch sizes to time.  [default: 1 8 32]")
    ] = None,
    member: Annotated[
        list[str] | None,
        typer.Option("--member", metavar="NAME", help="Only this one; may be repeated."),
    ] = None,
    allow_code: AllowCode = False,
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """Measure how long the members take on this machine in ONNX Runtime, and write it into the pool.

    On a cluster: on each kind of machine that it has, while nothing else of Ray runs there.

    Example: `encas pool measure pool --provider cpu --batch 1 8 32`
    """
    from encas.cli.output import print_json, print_measured, progress
    from encas.export import measure_pool, measure_pool_on
    from encas.export.latency import suited
    from encas.pool import Pool
    from encas.runtime.measure import DEFAULT_BATCHES
    from encas.runtime.session import choose_provider

    opened, batches = Pool.open(pool), sorted(set(batch or DEFAULT_BATCHES))
    if ray is not None:
        with cluster_of(ray) as cluster:
            assert cluster is not None
            made, all_found = measure_pool_on(
                cluster, opened, member or (), batches, provider=provider, allow_code=allow_code
            )
        if as_json:
            print_json([found.model_dump(mode="json") for found in all_found])
            return
        for found in all_found:
            _print_measurements(found)
        print_measured(made, all_found[0].machine.name, all_found[0].provider, batches[0])
        return
    provider = choose_provider(provider)
    names = suited(opened, member or (), provider)
    with progress("measuring", len(names) * (1 + len(batches)), quiet=as_json) as advance:
        made, found = measure_pool(
            opened, names, batches, provider=provider, allow_code=allow_code, advance=advance
        )
    if as_json:
        print_json(found)
        return
    _print_measurements(found)
    print_measured(made, found.machine.name, found.provider, batches[0])


def _print_measurements(found: "Measurements") -> None:
    from encas.cli.output import print_line, print_times

    print_line(f"{found.machine.name}, {found.provider}, ONNX Runtime {found.machine.onnxruntime}")
    print_times([found])


def _specs(
    sources: list[str], file: Path | None, weights: Path | None, name: str | None
) -> "list[MemberSpec]":
    """Read what the options say of the members."""
    from encas.errors import InvalidInput
    from encas.export import MemberSpec
    from encas.export.source import read_members
    from encas.files import parse_model

    if (weights or name) and (len(sources) != 1 or file):
        raise InvalidInput(
            "--weights and --name belong to a single --member; for several write --members FILE"
        )
    if not sources and file is None:
        raise InvalidInput("no member is named; add --member SOURCE or --members FILE")
    given = {"name": name, "weights": None if weights is None else str(weights)}
    specs = [parse_model({"source": s, **given}, MemberSpec, f"--member {s}") for s in sources]
    specs += read_members(file) if file else ()
    return specs


def _with_variants(pool: "Pool", names: "Sequence[str]") -> "list[Member]":
    """Return members and what was made of them."""
    of = set(names)
    return [m for m in pool.file.members if m.name in of or (m.variant is not None and m.variant.of in of)]


def _print_next(pool: "Pool", split: str) -> None:
    from encas.cli.output import print_next

    print_next("encas search --pool", pool.path, *(("--split", split) if split != "val" else ()))


def _check_device(device: str) -> None:
    from encas.errors import InvalidInput

    if device not in ("cpu", "cuda"):
        raise InvalidInput(f"--device '{device}': must be cpu or cuda")
