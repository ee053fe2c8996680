"""Synthetic pools of any size whose probabilities behave like those of real networks.

Every sample has a difficulty and a few classes that it is easily taken for, the same for all members;
families of members share a part of their noise, so errors are correlated. A member's skill is set to give it
the accuracy that was asked for, its temperature so that its mean confidence equals that accuracy (it is
calibrated).
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from encas.pool import Member, Pool

N_RIVALS = 15  # classes that a sample is easily taken for
N_FAMILIES = 12
# The logits of all other classes: with these, the sorted probabilities of 1,000 classes fall off as those of
# real ImageNet networks do on images that they are unsure of (0.4, 0.17, 0.08 .. 0.005 at the 16th, 0.001 at
# the 50th).
TAIL_MEAN, TAIL_SHARED, TAIL_OWN = -8.8, 1.9, 1.1
_SINGLE_TO_HALF = np.float32(2.0**-112)
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Table:
    """What the members of a pool are like."""

    names: tuple[str, ...]
    accuracy: NDArray[np.float64]
    macs: NDArray[np.int64]


def invented_table(m: int, lowest: float, highest: float) -> Table:
    """m networks from 20 to 1,000 MMACs, whose accuracy grows with the logarithm of their cost, unevenly."""
    rng = np.random.default_rng(m)
    size = np.linspace(0, 1, m)
    accuracy = lowest + (highest - lowest) * (1 - np.exp(-3.5 * size)) / (1 - np.exp(-3.5))
    accuracy -= (highest - lowest) * 0.15 * rng.random(m)
    names = tuple(f"net{index:03d}" for index in range(m))
    return Table(names, accuracy, (2e7 * 50**size).astype(np.int64))


def timm_table(path: Path, m: int) -> Table:
    """m of the models in a table of published results (columns model, top1, gmacs), evenly over its rows."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row["gmacs"]) > 0]
    chosen = sorted({row["model"]: row for row in rows}.items())
    chosen = [chosen[index] for index in np.linspace(0, len(chosen) - 1, m).astype(int)]
    accuracy = np.array([float(row["top1"]) / 100 for _, row in chosen])
    macs = np.array([round(float(row["gmacs"]) * 1e9) for _, row in chosen], np.int64)
    return Table(tuple(name for name, _ in chosen), accuracy, macs)


@dataclass(frozen=True)
class _Samples:
    """What all members share."""

    label: NDArray[np.int64]  # (n,)
    classes: NDArray[np.int64]  # (n, q) the label, then the rivals
    strength: Floats  # (n, q) logits before any member's skill and noise


def _samples(n: int, c: int, rng: np.random.Generator) -> _Samples:
    q = min(c, 1 + N_RIVALS)
    label = rng.integers(c, size=n)
    offsets = np.argsort(rng.random((n, min(c - 1, 4 * N_RIVALS))), axis=1)[:, : q - 1] + 1
    classes = np.column_stack([label, (label[:, None] + offsets) % c])
    hardness = rng.normal(0, 2.0, n)
    strength = -0.6 * np.log1p(np.arange(q)) + rng.normal(0, 0.6, (n, q))
    strength[:, 0] = -hardness
    return _Samples(label, classes, strength.astype(np.float32))


@njit(inline="always")  # type: ignore[untyped-decorator]
def _next(state: Any) -> Any:
    """One step of xorshift; each state gives four draws of 16 bits."""
    state ^= state << np.uint64(13)
    state ^= state >> np.uint64(7)
    return state ^ (state << np.uint64(17))


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _fill(
    weights: Floats,
    classes: NDArray[np.int64],
    shared_tail: Floats,
    own_tail: Floats,
    seeds: tuple[int, int],
    out: NDArray[np.uint16],
) -> None:
    """Softmax rows as float16 bits: the given weights for a sample's own classes, random ones for all others.

    The tails are tables of 2**16 factors, one drawn from each for every class; `seeds` are for both draws.
    """
    shared, own = np.uint64(seeds[0]), np.uint64(seeds[1])
    n, c = out.shape
    row = np.empty(c, np.float32)
    for i in range(n):
        for first in range(0, c, 4):
            shared, own = _next(shared), _next(own)
            for part in range(min(4, c - first)):
                shift = np.uint64(16 * part)
                factor = own_tail[(own >> shift) & np.uint64(0xFFFF)]
                row[first + part] = factor * shared_tail[(shared >> shift) & np.uint64(0xFFFF)]
        for q in range(classes.shape[1]):
            row[classes[i, q]] = weights[i, q]
        total = np.float32(0)
        for k in range(c):
            total += row[k]
        share = np.float32(1) / total
        # Scaled so that exponent and fraction lie, 13 bits higher, where float16 has them.
        for k in range(c):
            scaled = np.float32(row[k] * share * _SINGLE_TO_HALF)
            out[i, k] = (np.uint32(scaled.view(np.uint32)) + np.uint32(0x1000)) >> np.uint32(13)


def _temperature(logits: Floats, tail: float, confidence: float) -> float:
    """Bisect for the temperature at which the mean of the largest probability is as wanted."""
    low, high = 0.05, 20.0
    for _ in range(25):
        temperature = (low * high) ** 0.5
        weights = np.exp(logits / temperature)
        total = weights.sum(axis=1) + tail
        if (weights.max(axis=1) / total).mean() > confidence:
            low = temperature
        else:
            high = temperature
    return (low * high) ** 0.5


def make_pool(path: Path, table: Table, n: int, c: int, seed: int = 1, split: str = "val") -> Pool:
    """Write a pool of the table's members, n samples and c classes."""
    rng = np.random.default_rng(seed)
    samples = _samples(n, c, rng)
    q = samples.classes.shape[1]
    families = rng.normal(0, 1, (N_FAMILIES, n, q)).astype(np.float32)
    normal = rng.normal(0, 1, 1 << 16).astype(np.float32)
    shared_tail, own_tail = np.exp(TAIL_SHARED * normal + TAIL_MEAN), np.exp(TAIL_OWN * normal)
    tail_mean = float(shared_tail.mean() * own_tail.mean())
    pool = Pool.open_or_create(path, c).with_split(split, samples.label)
    for index, name in enumerate(table.names):
        own = np.random.default_rng([seed, index])
        noise = 0.3 * families[index % N_FAMILIES] + own.normal(0, 0.35, (n, q))
        logits = samples.strength + noise.astype(np.float32)
        margin = logits[:, 1:].max(axis=1) - logits[:, 0]
        logits[:, 0] += np.quantile(margin, table.accuracy[index])
        logits -= logits[:, 1:].max(axis=1).mean()
        some = slice(0, n, max(1, n // 2000))
        temperature = _temperature(logits[some], (c - q) * tail_mean, float(table.accuracy[index]))
        bits = np.empty((n, c), np.uint16)
        weights, seeds = np.exp(logits / np.float32(temperature)), (seed + 1, int(own.integers(1, 1 << 62)))
        _fill(weights, samples.classes, shared_tail, own_tail, seeds, bits)
        member = Member(name=name, source="imported", macs=int(table.macs[index]))
        pool = pool.with_outputs(member, split, bits.view(np.float16), "synthetic")
    return pool
