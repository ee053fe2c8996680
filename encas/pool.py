"""A pool: networks for one task, with their costs and their recorded outputs on labelled splits."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from encas.errors import InvalidInput
from encas.files import FileModel, locked, read_model, read_npy, sha256_of, write_model, write_npy
from encas.member import NAME, Latency, Member, Outputs, Variant

__all__ = [
    "NAME",
    "SUM_TOLERANCE",
    "DataReference",
    "Latency",
    "Member",
    "Outputs",
    "Pool",
    "PoolFile",
    "Split",
    "check_labels",
    "check_probs",
]

# float16 keeps 11 bits: rounding moves a sum of probabilities by up to 5e-4, denormals by a little more.
SUM_TOLERANCE = 5e-3
_CHECK_ROWS = 4096


class DataReference(FileModel):
    """Which images a split was recorded on."""

    path: str
    rows: str = ":"  # a slice, start:stop:step
    sha256: str | None = None  # of some of the images, see `LabelledImages.fingerprint`


class Split(FileModel):
    """Labelled samples; every member's outputs on them have one row for each."""

    n: int = Field(ge=1)
    labels: str  # file of (n,) class indices, relative to the pool
    sha256: str
    data: DataReference | None = None  # unknown for imported outputs


class PoolFile(FileModel):
    """`pool.json`; members are sorted by name, so that the order of recording leaves no trace."""

    format: Literal["encas-pool/1"] = "encas-pool/1"
    classes: tuple[str, ...] | int
    splits: Mapping[str, Split] = Field(default_factory=dict)
    members: tuple[Member, ...] = ()


@dataclass(frozen=True)
class Pool:
    """A pool on disk. Methods that change it write the files and return the new state."""

    path: Path
    file: PoolFile

    @classmethod
    def open(cls, path: Path | str) -> "Pool":
        """Read a pool's description; arrays stay on disk until they are asked for.

        Raises:
            InvalidInput: No such pool, or `pool.json` is not what it should be.
        """
        path = Path(path)
        if not (path / "pool.json").is_file():
            what = "holds no pool.json" if path.is_dir() else "no such folder"
            raise InvalidInput(f"{path}: {what}; make a pool with 'encas pool record' or 'encas pool import'")
        return cls(path, read_model(path / "pool.json", PoolFile))

    @classmethod
    def open_or_create(cls, path: Path | str, classes: Sequence[str] | int) -> "Pool":
        """Open a pool, or start an empty one; the classes must be the same."""
        path = Path(path)
        classes = classes if isinstance(classes, int) else tuple(classes)
        if not (path / "pool.json").exists():
            if path.exists() and (
                not path.is_dir() or any(not p.name.startswith(".") for p in path.iterdir())
            ):
                raise InvalidInput(f"{path}: exists and is no pool; name a new folder")
            return cls(path, PoolFile(classes=classes))
        pool = cls.open(path)
        if pool.n_classes != (classes if isinstance(classes, int) else len(classes)):
            raise InvalidInput(f"{path}: has {pool.n_classes} classes, the new outputs have another number")
        if (
            not isinstance(classes, int)
            and not isinstance(pool.file.classes, int)
            and pool.file.classes != classes
        ):
            raise InvalidInput(f"{path}: its classes have other names, or stand in another order")
        return pool

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.file.classes if isinstance(self.file.classes, int) else len(self.file.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class; the index where the pool has no names."""
        if isinstance(self.file.classes, int):
            return tuple(str(index) for index in range(self.file.classes))
        return self.file.classes

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all members, in order."""
        return tuple(member.name for member in self.file.members)

    @property
    def sha256(self) -> str:
        """Digest of the recorded outputs; measuring latency does not change it."""
        content = [
            self.file.model_dump(mode="json", include={"classes"}),
            {name: [split.n, split.sha256] for name, split in sorted(self.file.splits.items())},
            [
                [member.name, member.macs, {name: o.sha256 for name, o in sorted(member.outputs.items())}]
                for member in self.file.members
            ],
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def member(self, name: str) -> Member:
        """Find a member.

        Raises:
            InvalidInput: The pool has no member of this name.
        """
        for member in self.file.members:
            if member.name == name:
                return member
        raise InvalidInput(f"{self.path}: no member '{name}'; it has: {_listed(self.names)}")

    def split(self, name: str) -> Split:
        """Find a split.

        Raises:
            InvalidInput: The pool has no split of this name.
        """
        if name not in self.file.splits:
            raise InvalidInput(f"{self.path}: no split '{name}'; it has: {_listed(self.file.splits)}")
        return self.file.splits[name]

    def labels(self, split: str) -> NDArray[np.int64]:
        """(n,) class indices of a split."""
        path = self.path / self.split(split).labels
        labels = read_npy(path)
        return check_labels(labels, self.n_classes, str(path), n=self.split(split).n)

    def probs(self, member: str, split: str) -> NDArray[np.float16]:
        """(n, c) recorded probabilities, memory-mapped.

        Raises:
            InvalidInput: Not recorded, truncated, or of another shape or type.
        """
        n = self.split(split).n
        outputs = self.member(member).outputs.get(split)
        if outputs is None:
            raise InvalidInput(
                f"{self.path}: member '{member}' has no outputs for split '{split}'; record them first"
            )
        path = self.path / outputs.probs
        probs = read_npy(path, memory_map=True)
        if probs.dtype != np.float16 or probs.shape != (n, self.n_classes):
            raise InvalidInput(
                f"{path}: must be float16 of shape ({n}, {self.n_classes}), is {probs.dtype} of {probs.shape}"
            )
        return probs

    def members_with(self, split: str) -> tuple[Member, ...]:
        """Members whose outputs on a split are recorded.

        Raises:
            InvalidInput: There is no such split, or no member has outputs for it.
        """
        self.split(split)
        members = tuple(member for member in self.file.members if split in member.outputs)
        if not members:
            raise InvalidInput(f"{self.path}: no member has outputs for split '{split}'; record them first")
        return members

    def with_split(self, name: str, labels: NDArray[Any], data: DataReference | None = None) -> "Pool":
        """Add a split; if there is one of this name, its images and labels must be the same."""
        if re.fullmatch(NAME, name) is None:
            raise InvalidInput(f"split '{name}': must be a plain name as val or test, without / and spaces")
        place = f"labels of split '{name}'"
        labels = check_labels(labels, self.n_classes, place)
        with locked(self.path):
            now = self._now()
            if not (self.path / "pool.json").exists():  # so that a pool that is killed now is known as one
                now = now._write({})
            known = now.file.splits.get(name)
            if known is not None and any(name in member.outputs for member in now.file.members):
                if not np.array_equal(now.labels(name), labels):
                    raise InvalidInput(
                        f"{self.path}: split '{name}' has other labels ({known.n} samples, now "
                        f"{len(labels)}); use the same data in the same order, or another split name"
                    )
                if data is None or known.data == data:
                    return now
                if known.data is not None and known.data.sha256 not in (None, data.sha256):
                    raise InvalidInput(
                        f"{self.path}: split '{name}' was recorded on other images, those of "
                        f"{known.data.path} (rows {known.data.rows}); use the same, or another split name"
                    )
                known = known.model_copy(update={"data": data})
                return now._write({"splits": {**now.file.splits, name: known}})
            file = f"{name}/labels.npy"
            digest = write_npy(self.path / file, labels)
            split = Split(n=len(labels), labels=file, sha256=digest, data=data)
            return now._write({"splits": {**now.file.splits, name: split}})

    def with_outputs(self, member: Member, split: str, probs: NDArray[Any], engine: str) -> "Pool":
        """Add what a member answered on a split, and the member if it is new.

        Args:
            member: Its `outputs` and `latency` are ignored: those of the pool stay, unless its weights are
                others now.
            split: Must be there already.
            probs: (n, c); stored as float16.
            engine: What computed them, as "torch 2.14".

        Raises:
            InvalidInput: Wrong shape, NaN, rows that do not sum to 1, or another network of the same name.
        """
        n = self.split(split).n
        check_probs(probs, n, self.n_classes, f"outputs of '{member.name}' on '{split}'")
        file = f"{split}/probs/{member.name}.npy"
        with locked(self.path):
            now = self._now()
            known = next((m for m in now.file.members if m.name == member.name), None)
            if known is not None and known.source != member.source:
                raise InvalidInput(
                    f"{self.path}: has a member '{member.name}' already, from {known.source}; "
                    "give the new one another name"
                )
            digest = write_npy(self.path / file, np.ascontiguousarray(probs, np.float16))
            is_same = known is not None and known.sha256 == member.sha256
            outputs = dict(known.outputs if known and is_same else {})
            outputs[split] = Outputs(probs=file, sha256=digest, engine=engine)
            latency = known.latency if known and is_same else ()
            variant = known.variant if known and is_same else member.variant
            update = {"outputs": outputs, "latency": latency, "variant": variant}
            return now._with_member(member.model_copy(update=update))

    def with_variant(self, name: str, variant: Variant) -> "Pool":
        """Note how a member was made; it does the same multiply-accumulates with the same weights."""
        with locked(self.path):
            now = self._now()
            of = now.member(variant.of)
            update = {"variant": variant, "macs": of.macs, "params": of.params}
            return now._with_member(now.member(name).model_copy(update=update))

    def with_latency(self, measured: Mapping[str, Iterable[Latency]]) -> "Pool":
        """Add timings; one of the same machine, provider, precision and batch size is replaced."""
        with locked(self.path):
            now = self._now()
            members = []
            for member in now.file.members:
                new = {_latency_key(entry): entry for entry in measured.get(member.name, ())}
                kept = {_latency_key(entry): entry for entry in member.latency}
                entries = tuple(entry for _, entry in sorted({**kept, **new}.items()))
                members.append(member.model_copy(update={"latency": entries}))
            return now._write({"members": tuple(members)})

    def is_recorded(self, member: str, split: str) -> bool:
        """Whether a member's outputs on a split are there and match their hash."""
        known = next((m for m in self.file.members if m.name == member), None)
        outputs = known.outputs.get(split) if known else None
        if outputs is None:
            return False
        path = self.path / outputs.probs
        return path.is_file() and sha256_of(path) == outputs.sha256

    def problems(self) -> list[str]:
        """Read everything, and say in one line each what is not as it should be."""
        found = []
        for name, split in self.file.splits.items():
            found += _problem(partial(self.labels, name), self.path / split.labels, split.sha256)
        for member in self.file.members:
            for name, outputs in member.outputs.items():
                found += _problem(
                    partial(self._check_outputs, member.name, name), self.path / outputs.probs, outputs.sha256
                )
        return found

    def _check_outputs(self, member: str, split: str) -> None:
        place = f"outputs of '{member}' on '{split}'"
        check_probs(self.probs(member, split), self.split(split).n, self.n_classes, place)

    def _now(self) -> "Pool":
        """Return the state on disk, which another process may have changed."""
        return Pool.open(self.path) if (self.path / "pool.json").exists() else self

    def _with_member(self, member: Member) -> "Pool":
        others = [m for m in self.file.members if m.name != member.name]
        return self._write({"members": tuple(sorted([*others, member], key=lambda m: m.name))})

    def _write(self, update: Mapping[str, Any]) -> "Pool":
        file = self.file.model_copy(update=update)
        write_model(self.path / "pool.json", file)
        return Pool(self.path, file)


def check_labels(labels: NDArray[Any], n_classes: int, place: str, n: int | None = None) -> NDArray[np.int64]:
    """Return labels as (n,) int64 after checking shape, type and range.

    Raises:
        InvalidInput: Says what was found and what would be right.
    """
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInput(
            f"{place}: must be one row of whole numbers, is {labels.dtype} of shape {labels.shape}"
        )
    if n is not None and len(labels) != n:
        raise InvalidInput(f"{place}: {n} labels are needed, one for each sample; found {len(labels)}")
    if len(labels) == 0:
        raise InvalidInput(f"{place}: there are none")
    if labels.min() < 0 or labels.max() >= n_classes:
        raise InvalidInput(
            f"{place}: class indices must be 0 to {n_classes - 1}, found {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int64)


def check_probs(probs: NDArray[Any], n: int, n_classes: int, place: str) -> None:
    """Check that every row is a probability distribution.

    Raises:
        InvalidInput: Says what was found, where, and what would be right.
    """
    if probs.shape != (n, n_classes) or not np.issubdtype(probs.dtype, np.floating):
        raise InvalidInput(
            f"{place}: must be floating point of shape ({n}, {n_classes}), "
            f"is {probs.dtype} of shape {probs.shape}"
        )
    for start in range(0, n, _CHECK_ROWS):
        block = np.asarray(probs[start : start + _CHECK_ROWS], np.float32)
        sums = block.sum(axis=1)
        if not np.isfinite(sums).all():
            row = start + int(np.flatnonzero(~np.isfinite(sums))[0])
            raise InvalidInput(f"{place}: row {row} holds NaN or infinity; probabilities are needed")
        if block.min() < 0 or np.abs(sums - 1).max() > SUM_TOLERANCE:
            row = int(np.argmax((block.min(axis=1) < 0) | (np.abs(sums - 1) > SUM_TOLERANCE)))
            raise InvalidInput(
                f"{place}: row {start + row} is no probability distribution: smallest value "
                f"{block[row].min():.4g}, sum {sums[row]:.4g}; softmax outputs are needed (sum 1)"
            )


def _latency_key(entry: Latency) -> tuple[str, str, str, int]:
    return (entry.machine, entry.provider, entry.precision, entry.batch)


def _problem(read: Callable[[], object], path: Path, sha256: str) -> list[str]:
    try:
        read()
    except InvalidInput as error:
        return [str(error)]
    return [] if sha256_of(path) == sha256 else [f"{path}: its bytes have changed since it was recorded"]


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(names[:8]) or "none"
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
