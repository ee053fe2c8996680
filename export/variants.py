"""Variants of members in another precision: members of their own, among which the search chooses."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from encas.data import LabelledImages
from encas.errors import InvalidInput, require
from encas.export import graph
from encas.export.inputs import recorded_images
from encas.export.parity import TOLERANCE
from encas.export.recorder import record, tensors
from encas.export.source import MemberSpec, open_network, portable, spec_of
from encas.files import replaced, sha256_of
from encas.member import Member, Precision, Variant
from encas.pool import Pool
from encas.preprocess import Preprocess
from encas.runtime import Session, open_session

FEWEST = 32  # images; the ranges that fewer show are exceeded by others
DEFAULT_CALIBRATION = 128
_BATCH = 32
Advance = Callable[[int, str], None]  # variants made, or answers given, since the last call, and of whom


def quantize(
    pool: Pool,
    names: Sequence[str] = (),
    *,
    precision: Precision = "int8",
    calibration: int = DEFAULT_CALIBRATION,
    split: str = "val",
    device: str = "cpu",
    allow_code: bool = False,
    advance: Advance = lambda _n, _of: None,
) -> Pool:
    """Add a variant of each member, recorded on every split whose images are at hand.

    Variants that are there already, made in the same way of the same network, stay as they are.

    Args:
        pool: Their ONNX files go into its folder `variants`.
        names: Members in fp32; by default all that are, but for those with a temperature.
        precision: "int8" (ranges told from images) or "fp16" (for GPUs).
        calibration: Images that the ranges of activations come from, evenly spread over the split.
        split: Where they are from: what is searched on, never what is reported on.
        device: "cpu" or "cuda", for recording.
        allow_code: Run the Python functions that `torch:` members name.
        advance: Told of each variant that is made, and of the answers that are recorded.

    Raises:
        InvalidInput: A member cannot be opened or quantised, there are too few images, or none at hand.
    """
    if precision not in ("int8", "fp16"):
        raise InvalidInput(f"precision '{precision}': must be int8 or fp16")
    require("onnxruntime", "cpu")
    members = [_checked(pool, name) for name in dict.fromkeys(names or originals(pool))]
    if not members:
        raise InvalidInput(f"{pool.path}: has no members in fp32 to make variants of")
    images = at_hand(pool)
    chosen = _calibration(images, split, calibration, pool) if precision == "int8" else None
    n, of = (0, None) if chosen is None else (len(chosen), split)
    specs, variants, made = [], {}, set()
    for member in members:
        name = f"{member.name}.{precision}"
        file, variants[name] = (
            pool.path / "variants" / f"{name}.onnx",
            Variant(of=member.name, calibration=n, split=of, sha256=member.sha256),
        )
        if not is_made(pool, name, file, variants[name]):
            _make(pool, member, file, chosen, allow_code=allow_code)
            made.add(name)
        advance(1, f"made {name}")
        specs.append(MemberSpec(source=f"onnx:{file}", name=name, preprocess=member.preprocess))
    answer(pool, specs, images, made, device, advance)
    return noted(Pool.open(pool.path), variants)


def answer(
    pool: Pool,
    specs: Sequence[MemberSpec],
    splits: Iterable[str],
    made: Container[str],
    device: str,
    advance: Advance,
) -> None:
    """Record variants on splits whose images are at hand; those that were `made` now are recorded anew."""
    for which in splits:
        data = pool.split(which).data
        assert data is not None  # or its images would not be at hand
        for again in (True, False):
            record(
                pool.path,
                [spec for spec in specs if (spec.member_name in made) == again],
                pool.path / data.path,
                split=which,
                rows=data.rows,
                device=device,
                again=again,
                advance=advance,
            )


def noted(pool: Pool, variants: Mapping[str, Variant]) -> Pool:
    """Note how each of these members was made."""
    for name, variant in variants.items():
        pool = pool.with_variant(name, variant)
    return pool


def originals(pool: Pool) -> list[str]:
    """Name the members in fp32 that are no variants of others."""
    return [m.name for m in pool.file.members if m.precision == "fp32" and m.variant is None]


def _checked(pool: Pool, name: str) -> Member:
    member = pool.member(name)
    if member.precision != "fp32":
        raise InvalidInput(f"{pool.path}: member '{name}' is {member.precision} already; name one in fp32")
    return member


def at_hand(pool: Pool) -> dict[str, LabelledImages]:
    """Find the images of every split whose images are still where they were recorded."""
    found = {name: recorded_images(pool, name) for name in pool.file.splits}
    at_hand = {name: images for name, images in found.items() if images is not None}
    if not at_hand:
        raise InvalidInput(
            f"{pool.path}: the images of no split are at hand, and variants must answer them; put them where "
            "the pool says, or record the members again on images that are there"
        )
    return at_hand


def _calibration(images: Mapping[str, LabelledImages], split: str, n: int, pool: Pool) -> LabelledImages:
    """Take n images of a split, evenly spread."""
    known = pool.split(split).n
    if n < FEWEST:
        raise InvalidInput(
            f"calibration: {n} images are too few to tell the ranges of an int8 network; "
            f"{FEWEST} or more ({DEFAULT_CALIBRATION} are usual)"
        )
    if n > known:
        raise InvalidInput(
            f"calibration: {n} images are asked for, split '{split}' of {pool.path} has {known}; ask for "
            f"{FEWEST} to {known}, or name a larger split"
            if known >= FEWEST
            else f"calibration: split '{split}' of {pool.path} has {known} images, which are too few to tell "
            f"the ranges of an int8 network; record {FEWEST} or more"
        )
    if split not in images:
        raise InvalidInput(
            f"{pool.path}: the images of split '{split}' are not at hand to tell the ranges of an int8 "
            "network; put them where the pool says"
        )
    rows = np.linspace(0, known - 1, n).round().astype(np.intp)
    return images[split].take(rows)


def is_made(pool: Pool, name: str, file: Path, variant: Variant) -> bool:
    """Whether a variant is there, made in the same way of the same network.

    Raises:
        InvalidInput: A member of this name is something else.
    """
    if name not in pool.names:
        return False
    known = pool.member(name)
    if known.source != f"onnx:{portable(file, pool.path)}":
        raise InvalidInput(f"{pool.path}: has another member '{name}' already, from {known.source}")
    return known.variant == variant and file.is_file() and sha256_of(file) == known.sha256


def _make(pool: Pool, member: Member, file: Path, chosen: LabelledImages | None, *, allow_code: bool) -> None:
    """Write the file of a variant."""
    network = open_network(spec_of(member, pool.path, allow_code=allow_code))
    with tempfile.TemporaryDirectory() as folder, replaced(file) as target:
        usual = Path(folder) / "usual.onnx"
        network.write_onnx(usual)
        place = f"{pool.path}: member '{member.name}'"
        if chosen is None:
            graph.save(_in_fp16(onnx.load(usual), place), target)
            return
        _write_int8(usual, target, chosen, network.preprocess, place)


def _write_int8(
    usual: Path, target: Path, chosen: LabelledImages, preprocess: Preprocess, place: str
) -> None:
    """Have a process of its own make the graph: see there."""
    calibration, made = usual.with_name("calibration.npy"), usual.with_name("made.onnx")
    np.save(calibration, np.concatenate(list(tensors(chosen, preprocess, _BATCH))))
    command = [sys.executable, "-m", "encas.export.quantizer", str(usual), str(made), str(calibration)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["the process ended without a word"])[-1]
        raise InvalidInput(f"{place}: ONNX Runtime cannot quantise it: {said[:200]}")
    model = onnx.load(made)
    if graph.precision_of(model) != "int8":
        raise InvalidInput(
            f"{place}: holds nothing that can be quantised, as convolutions and products with weights can; "
            "name other members"
        )
    _check_batches(open_session(made, "cpu"), np.load(calibration, mmap_mode="r")[:_BATCH], place)
    graph.save(model, target)


def _check_batches(session: Session, tensor: NDArray[np.float32], place: str) -> None:
    """Refuse a network that answers an image otherwise when others stand beside it.

    Activations are rounded: what differs in the last bit can come out a step apart, and the cascade would
    decide otherwise than was recorded.
    """
    together = session.run(tensor)
    for size in (1, 2, 5):
        parts = [session.run(tensor[start : start + size]) for start in range(0, len(tensor), size)]
        difference = float(np.abs(np.concatenate(parts) - together).max())
        if not difference <= TOLERANCE:  # NaN too
            raise InvalidInput(
                f"{place}: in int8 its probabilities differ by up to {difference:.2g} when {size} instead of "
                f"{len(tensor)} images are answered together; leave it in fp32"
            )


def _in_fp16(model: ModelProto, place: str) -> ModelProto:
    """Convert weights and activations; what goes in and comes out, and the softmax, stay in float32."""
    from onnxruntime.transformers.float16 import (  # noqa: PLC0415  (int8 needs none of it)
        DEFAULT_OP_BLOCK_LIST,
        convert_float_to_float16,
    )

    try:
        made: ModelProto = convert_float_to_float16(
            model, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, "Softmax"]
        )
    except Exception as error:  # the converter has no errors of its own
        raise InvalidInput(f"{place}: ONNX Runtime cannot convert it to fp16: {error}") from None
    if graph.precision_of(made) != "fp16":
        raise InvalidInput(f"{place}: holds no weights that could be in fp16; name other members")
    return made
