"""Merging pools whose members answered for the same samples."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from encas.errors import InvalidInput
from encas.export.source import portable
from encas.files import replaced_folder
from encas.pool import Member, Pool


def merge(out: Path | str, pools: Sequence[Path | str]) -> Pool:
    """Make a pool of the members of several.

    Args:
        out: A new folder.
        pools: At least one; the same classes, and the same labels for splits of the same name.

    Raises:
        InvalidInput: A pool is damaged, the pools do not fit together, or two members of one name are not
            the same.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out}: exists; name a new folder")
    opened = [Pool.open(path) for path in pools]
    if not opened:
        raise ValueError("name at least one pool")
    classes = _common_classes(opened)
    _check_splits(opened)
    _check_members(opened)
    with replaced_folder(out) as temporary:
        merged = Pool.open_or_create(temporary, classes)
        for pool in opened:
            merged = _copy(pool, merged, out)
    return Pool.open(out)


def _copy(pool: Pool, merged: Pool, out: Path) -> Pool:
    """Write the splits and members of one pool into another, which will lie at `out`."""
    for name, split in pool.file.splits.items():
        data = split.data
        if data is not None:
            data = data.model_copy(update={"path": _moved(data.path, pool, out)})
        merged = merged.with_split(name, pool.labels(name), data)
    for member in pool.file.members:
        for name, outputs in member.outputs.items():
            probs = pool.probs(member.name, name)
            merged = merged.with_outputs(_moved_member(member, pool, out), name, probs, outputs.engine)
    return merged.with_latency({member.name: member.latency for member in pool.file.members})


def _common_classes(pools: Sequence[Pool]) -> tuple[str, ...] | int:
    named = [pool for pool in pools if not isinstance(pool.file.classes, int)]
    first = named[0] if named else pools[0]
    for pool in pools:
        if pool.n_classes != first.n_classes:
            raise InvalidInput(
                f"{pool.path}: has {pool.n_classes} classes, {first.path} has {first.n_classes}; "
                "merged pools must have the same"
            )
        if pool in named and pool.file.classes != first.file.classes:
            raise InvalidInput(
                f"{pool.path}: its classes have other names or another order than {first.path}"
            )
    return first.file.classes


def _check_splits(pools: Sequence[Pool]) -> None:
    for j, pool in enumerate(pools):
        problems = pool.problems()
        if problems:
            raise InvalidInput(problems[0])
        for other in pools[:j]:
            for name in pool.file.splits.keys() & other.file.splits.keys():
                what = "labels" if not np.array_equal(pool.labels(name), other.labels(name)) else None
                if len({_fingerprint(pool, name), _fingerprint(other, name)} - {None}) == 2:
                    what = "images"
                if what is not None:
                    raise InvalidInput(
                        f"{pool.path}: split '{name}' has other {what} than in {other.path}; "
                        "merged pools must have answered for the same samples"
                    )


def _fingerprint(pool: Pool, split: str) -> str | None:
    data = pool.split(split).data
    return None if data is None else data.sha256


def _check_members(pools: Sequence[Pool]) -> None:
    """Check that members of one name are one network, whose answers agree where both have them."""
    seen: dict[str, tuple[Member, Pool]] = {}
    for pool in pools:
        for member in pool.file.members:
            other, home = seen.setdefault(member.name, (member, pool))
            if not _same(member, pool, other, home):
                raise InvalidInput(
                    f"{pool.path}: member '{member.name}' is not the one of this name in {home.path}; "
                    "record one of them under another name"
                )


def _same(member: Member, pool: Pool, other: Member, home: Pool) -> bool:
    facts = {"outputs", "latency"}
    one = _moved_member(member, pool, pool.path).model_dump(exclude=facts)
    two = _moved_member(other, home, pool.path).model_dump(exclude=facts)
    common = member.outputs.keys() & other.outputs.keys()
    return one == two and all(member.outputs[s].sha256 == other.outputs[s].sha256 for s in common)


def _moved_member(member: Member, pool: Pool, out: Path) -> Member:
    """Return a member whose files are named as seen from another pool."""
    kind, _, file = member.source.partition(":")
    source = f"onnx:{_moved(file, pool, out)}" if kind == "onnx" else member.source
    weights = None if member.weights is None else _moved(member.weights, pool, out)
    return member.model_copy(update={"source": source, "weights": weights})


def _moved(path: str, pool: Pool, out: Path) -> str:
    return portable(pool.path / path, out)
