"""`encas nat`: supernetworks, and networks of them that become members of a pool."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from encas.cli.clusters import Ray, RayCommand, RayCores, cluster_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from encas.search.nat import Space

FolderPath = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the supernetwork.")]
SpaceName = Annotated[str, typer.Option("--space", help="Name of the space; see encas nat spaces.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

Data = Annotated[Path, typer.Option("--data", help="Folder that the configuration's paths are relative to.")]
RunFolder = Annotated[
    Path | None,
    typer.Option("--run", metavar="RUN", help="Folder of the run.  [default: runs/, then CONFIG's name]"),
]
PoolFolder = Annotated[
    Path | None, typer.Option("--pool", metavar="POOL", help="Folder of the pool.  [default: RUN/pool]")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    nat = typer.Typer(
        cls=_ConfigOrCommand,
        no_args_is_help=True,
        help="Train and search supernetworks: `encas nat CONFIG`, or one of the commands below.",
        rich_markup_mode="markdown",
    )
    nat.command("run", cls=RayCommand)(run)
    nat.command("joint")(joint)
    nat.command("spaces")(spaces)
    nat.command("weights")(weights)
    nat.command("init")(init)
    nat.command("add")(add)
    app.add_typer(nat, name="nat")


class _ConfigOrCommand(TyperGroup):
    """Lets `encas nat CONFIG` stand for `encas nat run CONFIG`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else ["run", *args])


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A file as in configs/nat/.")],
    data: Data = Path(),
    folder: RunFolder = None,
    pool: PoolFolder = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    processes: Annotated[
        int,
        typer.Option("--processes", min=1, help="How many train together: as many as there are GPUs."),
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=0,
            help="Processes beside each that augment images, where that is strong.  [default: by the cores]",
        ),
    ] = None,
    ray: Ray = None,
    ray_cores: RayCores = None,
    as_json: Json = False,
) -> None:
    """Train and search a supernetwork for a data set, and record the best networks into a pool.

    Stopped at any moment, the same command goes on and ends with the same networks. On a cluster
    candidates are calibrated and evaluated, and the networks recorded; --processes train there too.

    Example: `encas nat configs/nat/tiny_ofa_w1.0.yml --data . --pool cifar10`
    """
    from encas.cli.output import phases, print_json, print_line, print_next, print_table
    from encas.errors import InvalidInput, require

    require("torch", "nat")
    require("pymoo", "search")
    from encas.export.transfer import assist, transfer
    from encas.memory import keep_freed_memory
    from encas.search.nat.config import read_config
    from encas.search.nat.processes import help_torchrun, rank_by_torchrun

    if device not in ("cpu", "cuda"):
        raise InvalidInput(f"--device '{device}': must be cpu or cuda")
    keep_freed_memory()
    read = read_config(config)
    folder = folder or Path("runs") / config.stem
    if workers is None:
        workers = _usual_workers(processes)
    if rank_by_torchrun() > 0:
        help_torchrun(partial(assist, read, data=data, device=device, workers=workers), device)
        return
    with cluster_of(ray, ray_cores) as cluster, phases(quiet=as_json) as phase:
        made, reports = transfer(
            read,
            folder,
            pool or folder / "pool",
            data=data,
            device=device,
            phase=phase,
            processes=processes,
            workers=workers,
            cluster=cluster,
        )
    if as_json:
        print_json({"pool": str(made.path), "reports": [report.model_dump() for report in reports]})
        return
    print_table(
        ("iteration", "networks", "best accuracy", "hypervolume", "tau", "seconds"),
        [
            (
                str(report.iteration),
                str(report.n),
                f"{100 * (1 - report.best_error):.2f} %",
                f"{report.hypervolume:.4f}",
                "" if report.kendall_tau is None else f"{report.kendall_tau:.2f}",
                f"{report.search_s + report.train_s + report.evaluate_s:.0f}",
            )
            for report in reports
        ],
    )
    print_line(f"{made.path}: {len(made.names)} members; {folder / 'report.jsonl'} has the details")
    print_next("encas search --pool", made.path)


def joint(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A file as in configs/joint/.")],
    data: Data = Path(),
    folder: RunFolder = None,
    pool: PoolFolder = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that augment images, where that is strong.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Search weights of several supernetworks and cascades of their networks together (ENCAS-joint).

    RUN/front has the cascades; POOL their members and each supernetwork's own front, to be searched again.
    Stopped at any moment, the same command goes on and ends with the same cascades.

    Example: `encas nat joint configs/joint/tiny_cifar10_2.yml --data datasets --pool pools/joint`
    """
    from encas.cli.output import phases, print_json, print_line, print_next, print_table
    from encas.errors import InvalidInput, require

    require("torch", "nat")
    require("pymoo", "search")
    from encas.memory import keep_freed_memory
    from encas.search.joint.config import read_joint
    from encas.search.joint.run import joint as run_joint

    if device not in ("cpu", "cuda"):
        raise InvalidInput(f"--device '{device}': must be cpu or cuda")
    keep_freed_memory()
    read = read_joint(config)
    folder = folder or Path("runs") / config.stem
    with phases(quiet=as_json) as phase:
        made, front, reports = run_joint(
            read, folder, pool or folder / "pool", data=data, device=device, phase=phase, workers=workers
        )
    if as_json:
        told = {"pool": str(made.path), "front": str(front.path)}
        print_json({**told, "reports": [report.model_dump() for report in reports]})
        return
    print_table(
        ("iteration", "cascades", "best accuracy", "hypervolume", "tau error", "tau MACs", "seconds"),
        [
            (
                str(report.iteration),
                str(report.n),
                f"{100 * (1 - report.best_error):.2f} %",
                f"{report.hypervolume:.4f}",
                *("" if tau is None else f"{tau:.2f}" for tau in (report.tau_error, report.tau_macs)),
                f"{report.search_s + report.train_s + report.evaluate_s:.0f}",
            )
            for report in reports
        ],
    )
    print_line(f"{front.path}: {len(front.candidates)} cascades; {made.path}: {len(made.names)} members")
    print_next("encas search --pool", made.path)


def spaces(as_json: Json = False) -> None:
    """List the spaces of architectures.

    Example: `encas nat spaces`
    """
    from encas.cli.output import print_json, print_line, print_next, print_table
    from encas.search.nat import SPACES

    told = [_told(space) for space in SPACES.values()]
    if as_json:
        print_json({"spaces": told})
        return
    rows = [
        (
            space.name,
            f"{space.searched[0]}-{space.searched[-1]}",
            str(one["genes"]),
            f"{space.n_archs:.1e}",
            *(f"{one[which] / 1e6:.4g}" for which in ("smallest_macs", "largest_macs")),
        )
        for space, one in zip(SPACES.values(), told, strict=True)
    ]
    print_table(("space", "pixels", "genes", "networks", "least MMACs", "most MMACs"), rows)
    print_line(
        "MMACs: at the lowest and the highest of these resolutions, for 1,000 classes; tiny spaces: 10"
    )
    print_next("encas nat weights")


def weights(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Something that you have downloaded, to check.")
    ] = None,
    space: Annotated[str | None, typer.Option("--space", help="The space that it should be of.")] = None,
    as_json: Json = False,
) -> None:
    """Say where published weights are, under which licence, and how large; or check what was downloaded.

    encas brings no weights and downloads none: those of AttentiveNAS and AlphaNet are not for commercial use.

    Example: `encas nat weights ofa_mbv3_d234_e346_k357_w1.0 --space ofa-mbv3-w1.0`
    """
    from dataclasses import asdict

    from encas.cli.output import print_json, print_line, print_next
    from encas.errors import InvalidInput, require
    from encas.search.nat import space_named
    from encas.search.nat.weights import PUBLISHED

    if (file is None) != (space is None):
        raise InvalidInput("to check a download give both: encas nat weights FILE --space NAME")
    if file is None or space is None:
        if as_json:
            print_json({"weights": [asdict(one) for one in PUBLISHED]})
            return
        for one in PUBLISHED:
            print_line(f"{one.space}: {one.licence}, about {one.size_mb} MB, trained by {one.training}")
            print_line(f"  {one.url} ({one.download})")
        print_next("encas nat weights FILE --space NAME")
        return
    known = space_named(space)
    require("torch", "nat")
    from encas.files import sha256_of
    from encas.search.nat import read_official

    supernet = read_official(file, known)
    params = sum(parameter.numel() for parameter in supernet.parameters())
    if as_json:
        found = {"space": space, "classes": supernet.n_classes, "params": params, "sha256": sha256_of(file)}
        print_json({"file": str(file), **found})
        return
    print_line(f"{file}: all tensors of {space}, {params:,} parameters, {supernet.n_classes} classes")
    print_next("encas nat init FOLDER --space", space, "--weights", file)


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")],
    space: SpaceName,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Published weights; without, they are drawn."),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes",
            min=2,
            help="Number of classes; a head for another number is drawn anew.  [default: 1000]",
        ),
    ] = None,
    preprocess: Annotated[
        Path | None,
        typer.Option(
            "--preprocess",
            metavar="FILE.yml",
            help="How to prepare images, its size left to each network; the default is as published.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of weights that are drawn.")] = 0,
    as_json: Json = False,
) -> None:
    """Make a folder for a supernetwork, from published weights or from scratch.

    Example: `encas nat init alphanet --space alphanet --weights alphanet_pretrained.pth.tar`
    """
    from encas.cli.output import print_json, print_line, print_next
    from encas.errors import require
    from encas.search.nat import space_named

    known = space_named(space)
    require("torch", "nat")
    import torch

    from encas.export.source import read_preprocess
    from encas.search.nat import Supernet, SupernetFolder, read_official
    from encas.search.nat.folder import usual_preprocess

    usual, resize = usual_preprocess(known)
    if preprocess is not None:
        usual, resize = read_preprocess(preprocess), "image"
    generator = torch.Generator().manual_seed(seed)
    if weights is None:
        supernet = Supernet(known, classes or 1000, generator)
    else:
        supernet = read_official(weights, known)
        if classes not in (None, supernet.n_classes):
            supernet.draw_head(classes, generator)
    made = SupernetFolder.create(folder, supernet, usual, resize)
    if as_json:
        print_json(made.file)
        return
    print_line(f"{folder}: {space} for {made.file.n_classes} classes")
    print_next("encas nat add", folder, "--arch", "smallest", "--data", "TRAINING_IMAGES")


def add(
    folder: FolderPath,
    arch: Annotated[
        str,
        typer.Option("--arch", help="smallest, largest, or genes with dots between them, as in 8.0.5.3.0."),
    ],
    data: Annotated[Path, typer.Option("--data", help="Training images, as for encas pool record.")],
    rows: Annotated[str, typer.Option("--rows", help="Which of the images, as a slice.")] = ":2000",
    name: Annotated[str | None, typer.Option("--name", help="Of the network.  [default: as --arch]")] = None,
    batch: Annotated[int, typer.Option("--batch", min=2, help="Images at a time.")] = 100,
    estimator: Annotated[
        str, typer.Option("--estimator", help="mean (of batches) or pooled; see docs/nat.md.")
    ] = "mean",
    as_json: Json = False,
) -> None:
    """Add a network to the folder: calibrate one architecture's running statistics on training images.

    Example: `encas nat add alphanet --arch smallest --data imagenet/train --rows ::640`
    """
    from typing import cast, get_args

    from encas.cli.output import print_json, print_line, print_next, progress
    from encas.data import open_images
    from encas.errors import InvalidInput, require

    require("torch", "nat")
    import torch

    from encas.export.recorder import tensors
    from encas.search.nat import SupernetFolder, count_macs
    from encas.search.nat.calibrate import Estimator
    from encas.search.nat.encoding import from_text

    if estimator not in get_args(Estimator):
        raise InvalidInput(f"--estimator '{estimator}': must be {' or '.join(get_args(Estimator))}")
    opened, name = SupernetFolder.open(folder), name or arch
    chosen = from_text(opened.space, arch)
    images = open_images(data).rows(rows)
    with progress("calibrating", len(images), quiet=as_json) as advance:

        def batches() -> "Iterator[torch.Tensor]":
            for prepared in tensors(images, opened.preprocess(chosen), batch):
                yield torch.from_numpy(prepared)
                advance(len(prepared), name)

        made = opened.with_network(name, chosen, batches(), estimator=cast(Estimator, estimator))
    if as_json:
        print_json(made.calibrated(name))
        return
    macs = count_macs(made.space, chosen, made.file.n_classes)
    print_line(
        f"{folder}: network '{name}', {chosen.resolution} pixels, {macs / 1e6:.4g} MMACs, "
        f"calibrated on {made.calibrated(name).n_images} images"
    )
    print_next("encas pool record POOL --data IMAGES --member", f"nat:{folder}#{name}")


def _usual_workers(processes: int) -> int:
    """Leave a core to each process that trains; more than eight are hardly ever kept busy."""
    from encas.runtime.machine import usable_cores

    return min(8, max(0, usable_cores() // processes - 1))


def _told(space: "Space") -> dict[str, Any]:
    """Return what `--json` prints of a space."""
    from encas.search.nat import count_macs
    from encas.search.nat.encoding import gene_ranges

    n_classes = 10 if space.name.startswith("tiny") else 1000
    return {
        "name": space.name,
        "resolutions": list(space.searched),
        "genes": len(gene_ranges(space)),
        "networks": space.n_archs,
        "smallest_macs": count_macs(space, space.smallest, n_classes),
        "largest_macs": count_macs(space, space.largest, n_classes),
    }
