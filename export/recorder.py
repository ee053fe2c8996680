"""Recording: what networks answer for every image of a split, into a pool."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encas.data import Image, LabelledImages, open_images
from encas.errors import InvalidInput
from encas.export.source import (
    MemberSpec,
    Network,
    absolute,
    as_stored,
    first_twice,
    open_network,
    portable,
    weights_sha256,
)
from encas.files import remove_leftovers
from encas.pool import DataReference, Member, Pool
from encas.preprocess import Preprocess
from encas.runtime import decode, prepare
from encas.runtime.machine import usable_cores

Tensor = NDArray[np.float32]
Advance = Callable[[int, str], None]  # answers given since the last call, and by whom
Group = list[tuple[MemberSpec, Network]]

MOST_TOGETHER = 8  # networks that answer for the same tensors
_BATCHES_AHEAD = 2


def record(
    pool: Path | str,
    members: Sequence[MemberSpec | str],
    data: Path | str,
    *,
    split: str = "val",
    rows: str = ":",
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    batch: int = 64,
    device: str = "cpu",
    again: bool = False,
    advance: Advance = lambda _n, _by: None,
) -> Pool:
    """Record networks on labelled images; members that are recorded already are skipped.

    Neighbours in the list that prepare images in the same way, up to eight, share the work of it, and are
    written when all of them are done. Held in memory are they, their answers, a few batches, and one network
    more.

    Args:
        pool: Folder; it is made if it does not exist.
        members: Sources, or more about each; files that they name are found from the current folder.
        data: See `encas.data.open_images`.
        split: Name of the split that the data is.
        rows: Which rows of the data, as a slice `start:stop:step`.
        classes: Names in the order of the networks' outputs, where the data does not tell.
        preprocess: For members of which neither the list nor the source tells it.
        batch: Samples at a time. Another batch size may change the last bits of an answer.
        device: "cpu" or "cuda".
        again: Record members again that are recorded already. Where the file of their weights is another now,
            what they answered on other splits goes, and so do their latencies.
        advance: Told about progress: a member answers every image of the data once.

    Raises:
        InvalidInput: See `open_images` and `open_network`; a member twice, or unlike the one in the pool.
    """
    pool = Path(pool)
    specs = [absolute(MemberSpec(source=m) if isinstance(m, str) else m, Path()) for m in members]
    twice = first_twice([spec.member_name for spec in specs])
    if twice is not None:
        raise InvalidInput(
            f"member '{twice}' is named twice; leave one out, or give each its own name in --members FILE"
        )
    known = Pool.open(pool) if (pool / "pool.json").exists() else None
    if classes is None and known is not None and not isinstance(known.file.classes, int):
        classes = known.file.classes
    images = open_images(data).rows(rows).in_classes(classes)
    reference = DataReference(path=portable(data, pool), rows=rows, sha256=images.fingerprint())
    todo = []
    for spec in specs:
        if known is not None and _is_recorded(known, spec, split, again=again):
            known = known.with_split(split, images.labels, reference)
            advance(len(images), spec.member_name)
        else:
            todo.append(spec)
    for group in _groups(todo, device, preprocess):
        n_classes = _common_classes(group, images, data)
        _check_preprocess(known, group)
        known = Pool.open_or_create(pool, images.classes or n_classes)
        known = known.with_split(split, images.labels, reference)
        for (spec, network), probs in zip(group, _answers(group, images, batch, advance), strict=True):
            known = known.with_outputs(_member(spec, network, pool), split, probs, network.engine)
    if known is None:
        raise ValueError("name at least one member")
    remove_leftovers(pool)
    return known


def tensors(images: LabelledImages, preprocess: Preprocess, batch: int) -> Iterator[Tensor]:
    """Yield all images as (n, channels, height, width) tensors; threads prepare them a little ahead."""
    ahead: deque[list[Future[Tensor]]] = deque()
    work = partial(_prepared, preprocess)
    with ThreadPoolExecutor(usable_cores()) as threads:
        for part in images.batches(batch):
            ahead.append([threads.submit(work, image) for image in part])
            if len(ahead) > _BATCHES_AHEAD:
                yield np.stack([future.result() for future in ahead.popleft()])
        while ahead:
            yield np.stack([future.result() for future in ahead.popleft()])


def _prepared(preprocess: Preprocess, image: Image) -> Tensor:
    return prepare(decode(image), preprocess)


def _is_recorded(pool: Pool, spec: MemberSpec, split: str, *, again: bool) -> bool:
    """Whether the pool has a member's answers, and it is the same member.

    Raises:
        InvalidInput: The pool has another network of this name.
    """
    if spec.member_name not in pool.names:
        return False
    known, new = pool.member(spec.member_name), as_stored(spec, pool.path)
    same_way = new.preprocess in (None, known.preprocess)
    if (known.source, known.weights) != (new.source, new.weights) or not same_way:
        of = f"{known.source}" + (f" with {known.weights}" if known.weights else "")
        raise InvalidInput(
            f"{pool.path}: has a member '{known.name}' already, from {of}"
            + ("" if same_way else " with another preprocessing")
            + "; give the new one another name"
        )
    if again:
        return False
    if known.sha256 not in (None, weights_sha256(spec)):
        raise InvalidInput(
            f"{spec.weights or spec.rest}: has changed since member '{known.name}' of {pool.path} was "
            "recorded; add --again to replace it, or give the new one another name"
        )
    return pool.is_recorded(known.name, split)


def _groups(specs: Sequence[MemberSpec], device: str, default: Preprocess | None) -> Iterator[Group]:
    """Open networks, and yield neighbours that prepare images in the same way together."""
    group: Group = []
    for spec in specs:
        network = open_network(spec, device, default)
        if group and (len(group) == MOST_TOGETHER or network.preprocess != group[0][1].preprocess):
            yield group
            group = []
        group.append((spec, network))
    if group:
        yield group


def _common_classes(group: Group, images: LabelledImages, data: Path | str) -> int:
    """Check that networks and data have the same number of classes."""
    n_classes = len(images.classes) if images.classes else group[0][1].n_classes
    for spec, network in group:
        if network.n_classes != n_classes:
            other = f"{data} has {n_classes} classes" if images.classes else f"others know {n_classes}"
            raise InvalidInput(
                f"{spec.member_name}: tells {network.n_classes} classes apart, {other}; "
                "all must have the same classes, whose names --classes FILE can give"
            )
    return n_classes


def _check_preprocess(pool: Pool | None, group: Group) -> None:
    """Check that members of the pool prepare images as they did for its other splits."""
    for spec, network in group:
        name = spec.member_name
        if pool is None or name not in pool.names or pool.member(name).preprocess == network.preprocess:
            continue
        raise InvalidInput(
            f"{pool.path}: member '{name}' was recorded with another preprocessing; give the same, or the "
            "new member another name"
        )


def _answers(group: Group, images: LabelledImages, batch: int, advance: Advance) -> list[NDArray[np.float16]]:
    """(n, c) probabilities of each network."""
    n, names = len(images), ", ".join(spec.member_name for spec, _ in group)
    probs = [np.empty((n, network.n_classes), np.float16) for _, network in group]
    start = 0
    for tensor in tensors(images, group[0][1].preprocess, batch):
        rows = slice(start, start + len(tensor))
        for (_, network), out in zip(group, probs, strict=True):
            out[rows] = network.probs(tensor)
            advance(len(tensor), names)
        start += len(tensor)
    return probs


def _member(spec: MemberSpec, network: Network, pool: Path) -> Member:
    stored = as_stored(spec, pool)
    return Member(
        name=spec.member_name,
        source=stored.source,
        weights=stored.weights,
        sha256=weights_sha256(spec),
        macs=network.macs,
        params=network.params,
        preprocess=network.preprocess,
        precision=network.precision,
    )
