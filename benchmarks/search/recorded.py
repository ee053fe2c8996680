"""Recorded outputs of real networks, divided into splits as often as wanted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encas.pool import Member, Pool

DATA = Path(__file__).resolve().parents[2] / "../shared/data"


@dataclass(frozen=True)
class Recorded:
    """What m networks answer on n labelled samples of c classes."""

    names: list[str]
    macs: NDArray[np.int64]  # (m,)
    probs: NDArray[np.float16]  # (m, n, c)
    labels: NDArray[np.int64]  # (n,)

    def pool(self, path: Path, splits: Mapping[str, NDArray[np.intp]]) -> Pool:
        """Make a pool of which each split holds some of the samples."""
        pool = Pool.open_or_create(path, self.probs.shape[2])
        for split, rows in splits.items():
            pool = pool.with_split(split, self.labels[rows])
            for i, name in enumerate(self.names):
                member = Member(name=name, source="imported", macs=int(self.macs[i]))
                pool = pool.with_outputs(member, split, self.probs[i][rows], "recorded")
        return pool


def cifar10(data: Path) -> Recorded:
    """Six networks of 12 to 125 MMACs on the 10,000 test images of CIFAR-10."""
    found = np.load(data / "cifar10/outputs.npz")
    logits = found["logits"].astype(np.float32)
    e = np.exp(logits - logits.max(axis=2, keepdims=True))
    probs = (e / e.sum(axis=2, keepdims=True)).astype(np.float16)
    names = [name.decode() for name in found["logits_names"]]
    return Recorded(names, found["logits_macs"], probs, found["labels"].astype(np.int64))


def photographs(data: Path) -> Recorded:
    """54 variants of nine networks, of 8 to 753 MMACs, on 1,000 photographs.

    The 50 largest probabilities are known; what is left is spread evenly over the other 950 classes.
    """
    found = np.load(data / "imagenet/variants54_top50.npz")
    top = found["top50_prob"].astype(np.float32)
    rest = np.maximum(1 - top.sum(axis=2), 0) / 950
    probs = np.repeat(rest[:, :, None], 1000, axis=2)
    np.put_along_axis(probs, found["top50_class"].astype(np.intp), top, axis=2)
    probs /= probs.sum(axis=2, keepdims=True)
    names = [name.decode() for name in found["names"]]
    return Recorded(names, found["macs"], probs.astype(np.float16), found["labels"].astype(np.int64))


RECORDED = {"cifar10": cifar10, "photographs": photographs}
