"""Exporting: a cascade and the networks of its members into a bundle that is known to answer the same."""

import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx

from encas import __version__
from encas.bundle import (
    GEARS_JSON,
    REFERENCE_JSON,
    Bundle,
    BundleFile,
    BundleMember,
    CascadeParity,
    GoldenSample,
    LabelsFile,
)
from encas.cascade import Answers, Cascade
from encas.errors import InvalidInput
from encas.evaluation import evaluate, recorded_answers
from encas.export import golden
from encas.export.class_order import check_class_order
from encas.export.graph import opset_of
from encas.export.inputs import RealInputs, find_inputs
from encas.export.parity import check_decisions, check_member, compare_decisions
from encas.export.source import MemberSpec, as_name, open_network, spec_of
from encas.files import read_model, replaced_folder, sha256_of, write_model
from encas.gears import GearsFile, Point, check_order, common_split
from encas.pool import NAME, Pool
from encas.reference import reference_of
from encas.runtime import CascadeExecutor, open_session

Advance = Callable[[int, str], None]  # steps done since the last call, and the one at work

_BATCH = 32
_PACKAGES = (
    "numpy",
    "pillow",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "torchvision",
    "timm",
    "onnxscript",
)


def export(
    cascade: Cascade | Path | str,
    pool: Pool | Path | str | None = None,
    out: Path | str = "bundle",
    *,
    data: Path | str | None = None,
    split: str | None = None,
    samples: int = 512,
    name: str = "cascade",
    version: str = "1",
    allow_code: bool = False,
    cheaper: Sequence[Cascade] = (),
    front: Sequence[Point] = (),
    advance: Advance = lambda _n, _words: None,
) -> Bundle:
    """Write a bundle, after checking every network and the whole cascade on real images.

    Args:
        cascade: The cascade, or its `cascade.json`.
        pool: Where its members were recorded; by default the one that the cascade names.
        out: Folder; a bundle that is there is replaced, anything else is left alone.
        data: The recorded images; by default where the pool says that they lie.
        split: On which split to check; by default one that the cascade was evaluated on.
        samples: At most so many images, evenly spread over the split.
        name: Of the model behind an endpoint.
        version: Of the model behind an endpoint.
        allow_code: Run the Python functions that `torch:` members name.
        cheaper: Gears that a server may take instead, by falling cost; of the same pool.
        front: What the gears were chosen from, to be shown.
        advance: Told of every step; `steps` in all.

    Raises:
        InvalidInput: A member is not in the pool or cannot be opened, the images are not found, `out` is
            something else, or a gear is not cheaper than the one before it.
        NotTheSame: The export does not answer as the networks do, or as the pool recorded.
    """
    if not isinstance(cascade, Cascade):
        cascade = Cascade.read(cascade)
    pool = pool_of(cascade, pool)
    out = Path(out)
    if as_name(name) != name:
        raise InvalidInput(
            f"name '{name}': letters, digits and . _ - + # @ = are fine, as in '{as_name(name)}'"
        )
    if re.fullmatch(NAME, version) is None:
        raise InvalidInput(f"version '{version}': letters, digits and . _ - + are fine, as in 1.2")
    _check_may_go(out)
    gears = (cascade, *cheaper)
    specs = [spec_of(pool.member(member), pool.path, allow_code=allow_code) for member in members_of(gears)]
    inputs = find_inputs(cascade, pool, None if data is None else Path(data), split, samples)
    for gear in gears:
        check_class_order(gear, pool, inputs.split)
    cascade, *cheaper = _with_figures(gears, pool, inputs.split)
    with replaced_folder(out) as folder:
        (folder / "members").mkdir()
        members = []
        for spec in specs:
            members.append(_write_member(spec, pool, folder, inputs))
            advance(1, f"exported {spec.member_name}")
        cascade.write(folder / "cascade.json")
        if cheaper:
            plain = tuple(gear.model_copy(update={"pool": None}) for gear in cheaper)
            write_model(folder / GEARS_JSON, GearsFile(cheaper=plain, front=tuple(front)))
        gears = (cascade, *cheaper)
        recorded = [recorded_answers(gear, pool, inputs.split) for gear in gears]
        reference = reference_of(inputs.split, recorded, [len(gear.stages) for gear in gears])
        write_model(folder / REFERENCE_JSON, reference)
        write_model(folder / "labels.json", LabelsFile(labels=pool.class_names))
        draft = _Draft(folder, name, version, tuple(members))
        bundle = draft.write()
        parity, answers = _check_cascade(bundle, pool, inputs)
        advance(1, "checked the cascade")
        for number in range(1, len(bundle.gears)):
            _check_cascade(bundle.at_gear(number), pool, inputs)
            advance(1, f"checked gear {number}")
        rows = golden.choose(cascade, answers)
        files = golden.write([inputs.images.images[row] for row in rows], folder / "golden")
        draft.write(parity, golden.answered(bundle, files))
    return Bundle.open(out)


def steps(cascade: Cascade, cheaper: Sequence[Cascade] = ()) -> int:
    """Count what `export` reports: one for each network, and one for each cascade."""
    return len(members_of((cascade, *cheaper))) + 1 + len(cheaper)


def members_of(gears: Sequence[Cascade]) -> tuple[str, ...]:
    """Name every member that any of them runs, once."""
    return tuple(dict.fromkeys(name for gear in gears for name in gear.member_names))


def _with_figures(gears: Sequence[Cascade], pool: Pool, split: str) -> tuple[Cascade, ...]:
    """Let gears have figures that can be compared: where they have none, of a split of their pool."""
    if len(gears) == 1:
        return tuple(gears)
    if common_split(gears) is None:
        gears = [
            gear.model_copy(update={"evaluated": {**gear.evaluated, split: evaluate(gear, pool, split)}})
            for gear in gears
        ]
    check_order(gears)
    return tuple(gears)


@dataclass(frozen=True)
class _Draft:
    """A bundle of which some parts are still to come."""

    folder: Path
    name: str
    version: str
    members: tuple[BundleMember, ...]

    def write(self, parity: CascadeParity | None = None, samples: Sequence[GoldenSample] = ()) -> Bundle:
        """Write `bundle.json` for what is in the folder."""
        files = sorted(p for p in self.folder.rglob("*") if p.is_file() and p.name != "bundle.json")
        file = BundleFile(
            name=self.name,
            version=self.version,
            files={p.relative_to(self.folder).as_posix(): sha256_of(p) for p in files},
            members=self.members,
            parity=parity,
            golden=tuple(samples),
            versions=_versions(),
        )
        write_model(self.folder / "bundle.json", file.sealed())
        return Bundle.open(self.folder)


def pool_of(cascade: Cascade, pool: Pool | Path | str | None) -> Pool:
    """Open the pool of a cascade: the one that is named, or the one that the cascade names.

    Raises:
        InvalidInput: Neither names one, or it is none.
    """
    if isinstance(pool, Pool):
        return pool
    if pool is None and cascade.pool is None:
        raise InvalidInput("the cascade does not say which pool it is of; name it with --pool")
    if pool is None and cascade.pool is not None:
        pool = cascade.pool.path
    assert pool is not None
    return Pool.open(pool)


def _check_may_go(out: Path) -> None:
    """Check that nothing but a bundle of ours would be replaced.

    Raises:
        InvalidInput: Something else is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "bundle.json").is_file():
        raise InvalidInput(f"{out}: exists and is no bundle; name another folder with -o")
    ours = {"bundle.json", *read_model(out / "bundle.json", BundleFile).files}
    other = next(
        (p for p in sorted(out.rglob("*")) if p.is_file() and p.relative_to(out).as_posix() not in ours), None
    )
    if other is not None:
        raise InvalidInput(
            f"{out}: holds {other.name}, which is no part of the bundle there; move it away first"
        )


def _write_member(spec: MemberSpec, pool: Pool, folder: Path, inputs: RealInputs) -> BundleMember:
    network = open_network(spec)
    member = pool.member(spec.member_name)
    path = folder / "members" / f"{member.name}.onnx"
    network.write_onnx(path)
    session = open_session(path, "cpu")
    parity = check_member(member.name, network, session, inputs.images, _BATCH)
    return BundleMember(
        name=member.name,
        file=f"members/{path.name}",
        input=session.input,
        output=session.output,
        preprocess=network.preprocess,
        macs=member.macs,
        params=member.params,
        opset=opset_of(onnx.load(path, load_external_data=False)),
        precision=network.precision,
        source=f"onnx:{Path(spec.rest).name}" if spec.kind == "onnx" else member.source,
        parity=parity,
    )


def _check_cascade(bundle: Bundle, pool: Pool, inputs: RealInputs) -> tuple[CascadeParity, Answers]:
    """Run the images through the executor, and compare its decisions with the recorded ones."""
    with CascadeExecutor(bundle, "cpu") as executor:
        answers = _joined([executor.run(list(part)) for part in inputs.images.batches(_BATCH)])
    recorded = [
        np.asarray(pool.probs(name, inputs.split)[inputs.rows], np.float32)
        for name in bundle.cascade.member_names
    ]
    parity = compare_decisions(bundle.cascade, recorded, answers, inputs.split)
    check_decisions(parity, str(pool.path))
    return parity, answers


def _joined(parts: Sequence[Answers]) -> Answers:
    return Answers(
        probs=np.concatenate([part.probs for part in parts]),
        label=np.concatenate([part.label for part in parts]),
        confidence=np.concatenate([part.confidence for part in parts]),
        exit_stage=np.concatenate([part.exit_stage for part in parts]),
        macs=np.concatenate([part.macs for part in parts]),
    )


def _versions() -> dict[str, str]:
    """Versions of what wrote the bundle and decoded its golden samples."""
    found = {"encas": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
