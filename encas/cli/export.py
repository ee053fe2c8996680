"""`encas export`: from a cascade to a bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from encas.bundle import Bundle
    from encas.cascade import Cascade
    from encas.gears import Point


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("export")(export)


def export(
    cascade: Annotated[
        Path,
        typer.Argument(
            metavar="CASCADE|FRONT|BUNDLE",
            help="File that `encas pick` wrote, a front (with --gears), or a bundle that is there.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="BUNDLE",
            help="Folder to write; a bundle there is replaced.  [default: bundle]",
        ),
    ] = None,
    pool: Annotated[
        Path | None,
        typer.Option("--pool", help="Where the members were recorded, if not where the cascade says."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="The recorded images, if they are not where the pool says."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Split to check on; by default one that was evaluated.")
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Images to check on, evenly spread over the split.")
    ] = 512,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of the model when it is served; by default that of the file CASCADE."),
    ] = None,
    model_version: Annotated[
        str, typer.Option("--model-version", help="Of the model when it is served.")
    ] = "1",
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run the Python functions that torch: members name.")
    ] = False,
    gear: Annotated[
        list[Path] | None,
        typer.Option(
            "--gear",
            metavar="CASCADE",
            help="A cheaper cascade of the same pool, which `encas serve` takes when there is much to do. "
            "Repeat, by falling cost.",
        ),
    ] = None,
    gears: Annotated[
        int | None,
        typer.Option(
            "--gears",
            min=1,
            help="Of a FRONT: the most accurate cascade, then the best of half its cost, of a quarter, ...",
        ),
    ] = None,
    single_file: Annotated[
        bool,
        typer.Option(
            "--single-file", help="Write cascade.onnx into the bundle: all of it as one ONNX graph."
        ),
    ] = False,
    image_size: Annotated[
        str | None,
        typer.Option(
            "--image-size",
            metavar="HxW",
            help="The single file takes uint8 images of this size and prepares them itself.",
        ),
    ] = None,
    web: Annotated[
        Path | None,
        typer.Option(
            "--web", metavar="DIR", help="Write a page that runs the cascade in its visitors' browsers."
        ),
    ] = None,
    ray_serve: Annotated[
        Path | None, typer.Option("--ray-serve", metavar="DIR", help="Write an application for Ray Serve.")
    ] = None,
    kserve: Annotated[
        Path | None,
        typer.Option("--kserve", metavar="DIR", help="Write a KServe manifest that runs `encas serve`."),
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option("--triton", metavar="DIR", help="Write a model into this Triton model repository."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Write a cascade and its networks as a bundle of ONNX files that needs nothing else.

    Every network is compared with its source, and the whole cascade with the pool's recorded decisions, on
    real images; nothing is written if they do not agree. A bundle that is there gets what is asked for.

    Example: `encas export cascade.json -o bundle --single-file`

    Example, with three cascades for `encas serve` to choose from: `encas export front --gears 3`
    """
    from encas import Pool
    from encas.bundle import Bundle
    from encas.cli.output import print_json, progress
    from encas.errors import InvalidInput
    from encas.export import add_single_file
    from encas.export import export as export_bundle
    from encas.export.packing import pool_of, steps
    from encas.export.source import as_name

    size = None if image_size is None else _size(image_size)
    if size is not None and not single_file:
        raise InvalidInput("--image-size says what the single file takes; add --single-file")
    if gears is not None and not (cascade / "front.json").is_file():
        raise InvalidInput(f"{cascade}: holds no front.json; --gears takes cascades of a front")
    if cascade.is_dir() and gears is None:
        given = {"--out": out, "--pool": pool, "--data": data, "--split": split, "--name": name}
        given["--gear"] = gear[0] if gear else None
        wrong = next((option for option, value in given.items() if value is not None), None)
        if wrong is not None:
            raise InvalidInput(f"{cascade}: is a bundle, for which {wrong} says nothing; leave it out")
        bundle = Bundle.open(cascade)
    else:
        opened, others, points = _chosen(cascade, gear or [], gears)
        where = pool_of(opened, None if pool is None else Pool.open(pool))
        with progress("exporting", steps(opened, others), quiet=as_json) as advance:
            bundle = export_bundle(
                opened,
                where,
                out or Path("bundle"),
                cheaper=others,
                front=points,
                data=data,
                split=split,
                samples=samples,
                name=name or as_name(cascade.stem),
                version=model_version,
                allow_code=allow_code,
                advance=advance,
            )
    if single_file:
        bundle = add_single_file(bundle, image_size=size)
    written = _leave(bundle, web=web, ray_serve=ray_serve, kserve=kserve, triton=triton)
    if as_json:
        print_json(bundle.file)
    else:
        _print_bundle(bundle, written)


def _leave(
    bundle: "Bundle", *, web: Path | None, ray_serve: Path | None, kserve: Path | None, triton: Path | None
) -> dict[Path, str]:
    """Write what was asked for besides, and say what to do with each."""
    from encas.export import write_kserve, write_page, write_ray_serve, write_triton

    written = {}
    if web is not None:
        written[write_page(bundle, web)] = f"python -m http.server -d {web}"
    if ray_serve is not None:
        written[write_ray_serve(bundle, ray_serve)] = f"cd {ray_serve} && serve run app:app"
    if kserve is not None:
        path = write_kserve(bundle, kserve)
        written[path] = (
            f"docker build {kserve}, push the image, name it in the manifest, kubectl apply -f {path}"
        )
    if triton is not None:
        written[write_triton(bundle, triton)] = f"tritonserver --model-repository {triton}"
    return written


def _size(text: str) -> tuple[int, int]:
    """Read 224, or 240x320, as height and width."""
    from encas.errors import InvalidInput

    height, _, width = text.partition("x")
    sides = (height, width or height)
    if not all(side.isdecimal() and 0 < int(side) <= 8192 for side in sides):
        raise InvalidInput(
            f"--image-size {text}: must be a height and a width in pixels, as in 240x320, or one number"
        )
    return int(sides[0]), int(sides[1])


def _chosen(
    cascade: Path, cheaper: list[Path], n_gears: int | None
) -> "tuple[Cascade, list[Cascade], tuple[Point, ...]]":
    """Read the cascade, the cheaper ones beside it, and the front that they come from, if there is one."""
    from encas.cascade import Cascade
    from encas.front import Front
    from encas.gears import gears_of, points_of

    others = [Cascade.read(path) for path in cheaper]
    if n_gears is None:
        return Cascade.read(cascade), others, ()
    front = Front.open(cascade)
    first, *between = gears_of(front, n_gears)
    return first, [*between, *others], points_of(front)


def _print_bundle(bundle: "Bundle", written: dict[Path, str]) -> None:
    from encas.cli.output import print_line, print_next, print_table
    from encas.gears import figures_of

    rows = [
        (
            member.name,
            f"{member.macs / 1e6:.4g}",
            str(member.opset),
            f"{member.parity.max_abs_difference:.1g}",
            str(member.parity.changed_labels),
        )
        for member in bundle.file.members
    ]
    print_table(("member", "MMACs", "opset", "off by", "labels changed"), rows)
    parity = bundle.file.parity
    if parity is not None:
        agree = parity.n - parity.different
        near = f", {parity.near_threshold} lie on a threshold" if parity.near_threshold else ""
        print_line(f"decides {agree} of {parity.n} images of '{parity.split}' as recorded{near}")
    found = figures_of(bundle.gears)
    if bundle.cheaper and found is not None:
        print_table(
            ("gear", "cascade", "MMACs", f"accuracy on '{found[0]}'"),
            [
                (str(number), str(gear), f"{figures.macs / 1e6:.4g}", f"{figures.accuracy:.4f}")
                for number, (gear, figures) in enumerate(zip(bundle.gears, found[1], strict=True))
            ],
        )
    size_bytes = sum((bundle.path / file).stat().st_size for file in bundle.file.files)
    print_line(f"{bundle.path}: {len(bundle.file.files) + 1} files, {size_bytes / 1e6:.1f} MB")
    for path, use in written.items():
        print_line(f"{path}: {use}")
    print_next("encas run", bundle.path, "IMAGES")
