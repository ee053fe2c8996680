"""Variants of members with a temperature: as sure as they are right."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encas.errors import InvalidInput, require
from encas.export import graph
from encas.export.source import MemberSpec, open_network, spec_of
from encas.export.variants import Advance, answer, at_hand, is_made, noted
from encas.files import replaced
from encas.member import Member, Variant
from encas.pool import Pool

COLDEST, HOTTEST = 0.1, 10.0
_LEAST = 2.0**-25  # half of the smallest float16: what stands for a probability that was too small for it
_CLOSE = 1e-4  # of two temperatures, relative
_MOST_STEPS = 40
_ROWS = 4096  # at a time, so that memory stays bounded for many classes


def temper(
    pool: Pool,
    names: Sequence[str] = (),
    *,
    split: str = "val",
    device: str = "cpu",
    allow_code: bool = False,
    advance: Advance = lambda _n, _of: None,
) -> Pool:
    """Add a variant of each member whose logits are divided by the temperature of the least log-loss.

    The variant of a network is a network: an ONNX file with the temperature before its softmax, recorded on
    every split whose images are at hand. Of imported outputs those of the variant are computed. Variants that
    are there already, of the same network and temperature, stay as they are.

    Args:
        pool: ONNX files go into its folder `variants`.
        names: Members without a temperature; by default all of them.
        split: Where the temperatures are from: what is searched on, never what is reported on.
        device: "cpu" or "cuda", for recording.
        allow_code: Run the Python functions that `torch:` members name.
        advance: Told of each variant that is made, and of the answers that are recorded.

    Raises:
        InvalidInput: A member has a temperature or no outputs on the split, or cannot be opened; no images
            are at hand.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    members = [_checked(pool, name) for name in dict.fromkeys(names or untempered(pool))]
    if not members:
        raise InvalidInput(f"{pool.path}: has no members without a temperature")
    images = at_hand(pool) if any(member.source != "imported" for member in members) else {}
    labels = pool.labels(split)
    specs, variants, made = [], {}, set()
    for member in members:
        name = f"{member.name}.tempered"
        variants[name] = Variant(
            of=member.name,
            sha256=member.sha256,
            split=split,
            temperature=best_temperature(pool.probs(member.name, split), labels),
        )
        if member.source == "imported":
            pool = _computed(pool, member, name, variants[name])
        else:
            file = pool.path / "variants" / f"{name}.onnx"
            if not is_made(pool, name, file, variants[name]):
                _make(pool, member, file, variants[name], allow_code=allow_code)
                made.add(name)
            specs.append(MemberSpec(source=f"onnx:{file}", name=name, preprocess=member.preprocess))
        advance(1, f"made {name}")
    if specs:
        answer(pool, specs, images, made, device, advance)
    return noted(Pool.open(pool.path), variants)


def untempered(pool: Pool) -> list[str]:
    """Name the members that have no temperature yet, and could have one."""
    return [member.name for member in pool.file.members if _could(member)]


def best_temperature(probs: NDArray[np.float16], labels: NDArray[np.int64]) -> float:
    """Find the temperature of the least mean log-loss, in four digits, between `COLDEST` and `HOTTEST`.

    The loss is convex in b = 1 / T; Newton steps find where its slope is 0, within bounds that close in.

    Args:
        probs: (n, c) at temperature 1.
        labels: (n,).
    """
    low, high, b = 1 / HOTTEST, 1 / COLDEST, 1.0
    for _ in range(_MOST_STEPS):
        slope, bend = _slope(probs, labels, b)
        low, high = (low, b) if slope > 0 else (b, high)
        step = b - slope / bend if bend > 0 else 0.0
        before, b = b, step if low < step < high else (low * high) ** 0.5
        if abs(b / before - 1) < _CLOSE:
            break
    return float(f"{1 / b:.4g}")


def tempered(probs: NDArray[np.float16], temperature: float) -> NDArray[np.float32]:
    """(q, c) what a softmax of the same logits, divided by a temperature, would give."""
    return _softmax(_logs(probs) / np.float32(temperature))


def _slope(probs: NDArray[np.float16], labels: NDArray[np.int64], b: float) -> tuple[float, float]:
    """First and second derivative by b of the mean log-loss."""
    slope = bend = 0.0
    for start in range(0, len(labels), _ROWS):
        logs, right = _logs(probs[start : start + _ROWS]), labels[start : start + _ROWS]
        weights = _softmax(logs * np.float32(b))
        mean = (weights * logs).sum(axis=1)
        slope += float((mean - logs[np.arange(len(right)), right]).sum())
        bend += float(((weights * logs**2).sum(axis=1) - mean**2).sum())
    return slope / len(labels), bend / len(labels)


def _logs(probs: NDArray[np.float16]) -> NDArray[np.float32]:
    """Logits, but for a number that is the same for all classes."""
    logs: NDArray[np.float32] = np.log(np.maximum(probs.astype(np.float32), np.float32(_LEAST)))
    return logs


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs: NDArray[np.float32] = e / e.sum(axis=1, keepdims=True)
    return probs


def _could(member: Member) -> bool:
    has_one = member.variant is not None and member.variant.temperature is not None
    return not has_one and member.precision != "fp16"


def _checked(pool: Pool, name: str) -> Member:
    member = pool.member(name)
    if not _could(member):
        raise InvalidInput(
            f"{pool.path}: member '{name}' has a temperature already, or is in fp16; name another one"
        )
    return member


def _computed(pool: Pool, member: Member, name: str, variant: Variant) -> Pool:
    """Add outputs of a variant of imported ones."""
    made = Member(name=name, source="imported", macs=member.macs, params=member.params, variant=variant)
    for split in member.outputs:
        probs = pool.probs(member.name, split)
        parts = [
            tempered(probs[start : start + _ROWS], variant.temperature or 1.0)
            for start in range(0, len(probs), _ROWS)
        ]
        pool = pool.with_outputs(made, split, np.concatenate(parts), "imported")
    return pool


def _make(pool: Pool, member: Member, file: Path, variant: Variant, *, allow_code: bool) -> None:
    """Write the network of a variant."""
    require("onnx", "export")
    network = open_network(spec_of(member, pool.path, allow_code=allow_code))
    with tempfile.TemporaryDirectory() as folder, replaced(file) as target:
        usual = Path(folder) / "usual.onnx"
        network.write_onnx(usual)
        place = f"{pool.path}: member '{member.name}'"
        graph.save(graph.with_temperature(graph.load(usual), variant.temperature or 1.0, place), target)
