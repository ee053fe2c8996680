"""Recording: what networks answer for every image of a split, into a pool."""

import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encas.cluster import Cluster
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
from encas.member import Precision
from encas.pool import DataReference, Member, Pool
from encas.preprocess import Preprocess
from encas.runtime import decode, prepare
from encas.runtime.machine import usable_cores
from encas.runtime.session import share_threads

Tensor = NDArray[np.float32]
Advance = Callable[[int, str], None]  # answers given since the last call, and by whom
Group = list[tuple[MemberSpec, Network]]

MOST_TOGETHER = 8  # networks that answer for the same tensors
_BATCHES_AHEAD = 2
_JOB_BYTES = 2**31  # of answers that a job holds
_JOBS_A_SLOT = 2  # networks take different times: the last ones should not keep a whole cluster waiting


@dataclass(frozen=True)
class Recording:
    """What networks are asked, the same for all of them."""

    images: LabelledImages
    place: str  # what errors call them
    pool: str
    fingerprint: str  # of the images
    batch: int
    device: str
    preprocess: Preprocess | None  # of members that do not tell it
    before: Mapping[str, Preprocess | None]  # how those of the pool prepared images for its other splits
    cores: int | None = None  # that a job may use; None: all that there are
    room_bytes: int | None = None  # for what a job returns


@dataclass(frozen=True)
class Recorded:
    """What a network has answered, and what a pool notes of it."""

    probs: NDArray[np.float16]  # (n, c)
    engine: str
    macs: int
    params: int
    preprocess: Preprocess
    precision: Precision
    sha256: str | None  # of its weights


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
    cluster: Cluster | None = None,
) -> Pool:
    """Record networks on labelled images; members that are recorded already are skipped.

    Neighbours in the list that prepare images in the same way, up to eight, share the work of it, and are
    written when all of them are done. Held in memory are they, their answers, a few batches, and one network
    more.

    On a cluster jobs of a few neighbours run where there is room; their answers are sent here and written
    here. Images and weights that are files must be found by the same paths on all its machines.

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
        cluster: Where the networks run; None: in this process. The bytes that are written are the same, if
            jobs have as many threads as this process would have.

    Raises:
        EncasError: See `Cluster.run`.
        InvalidInput: See `open_images` and `open_network`; a member twice, or unlike the one in the pool.
    """
    pool = Path(pool)
    if cluster is not None:
        data = Path(data).absolute()  # its machines work in other folders
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
    recording = Recording(
        images, str(data), str(pool), reference.sha256 or "", batch, device, preprocess, _preparations(known)
    )

    def begin(n_classes: int) -> None:
        nonlocal known
        known = Pool.open_or_create(pool, images.classes or n_classes)
        known = known.with_split(split, images.labels, reference)

    if cluster is None:
        found = answered(recording, todo, begin, advance)
    else:
        _check_writable(pool)
        found = _answered_on(cluster, recording, todo, begin, advance)
    for spec, one in found:
        assert known is not None
        known = known.with_outputs(_member(spec, one, pool), split, one.probs, one.engine)
    if known is None:
        raise ValueError("name at least one member")
    remove_leftovers(pool)
    return known


def answered(
    recording: Recording,
    specs: Sequence[MemberSpec],
    begin: Callable[[int], None] = lambda _n_classes: None,
    advance: Advance = lambda _n, _by: None,
) -> Iterator[tuple[MemberSpec, Recorded]]:
    """Open networks, and let them answer all images, neighbours that prepare them in the same way together.

    Args:
        recording: What is asked.
        specs: As `absolute` returns them.
        begin: Told the number of classes before a group of networks answers.
        advance: As `record`.

    Raises:
        InvalidInput: A network cannot be opened, has other classes, or prepares images in another way than it
            did before.
    """
    for group in _groups(specs, recording.device, recording.preprocess):
        n_classes = _common_classes(group, recording)
        _check_preprocess(recording, group)
        begin(n_classes)
        for (spec, network), probs in zip(group, _answers(group, recording, advance), strict=True):
            yield (
                spec,
                Recorded(
                    probs,
                    network.engine,
                    network.macs,
                    network.params,
                    network.preprocess,
                    network.precision,
                    weights_sha256(spec),
                ),
            )


def _answered_on(
    cluster: Cluster,
    recording: Recording,
    specs: Sequence[MemberSpec],
    begin: Callable[[int], None],
    advance: Advance,
) -> Iterator[tuple[MemberSpec, Recorded]]:
    """Yield the same as `answered`, as jobs end."""
    if not specs:
        return
    need = cluster.need(recording.device)
    room_bytes = min(_JOB_BYTES, cluster.room_bytes)
    most = room_bytes // (2 * len(recording.images) * len(recording.images.classes or range(1000)))
    jobs = _jobs(specs, cluster.n_slots(need), min(MOST_TOGETHER, most))
    recording = replace(recording, cores=need.cores, room_bytes=cluster.room_bytes)
    digests = {spec.member_name: weights_sha256(spec) for spec in specs}
    for which, found in cluster.run(_answer, recording, jobs, need):
        for spec, one in zip(jobs[which], found, strict=True):
            if one.sha256 != digests[spec.member_name]:
                raise InvalidInput(
                    f"{spec.weights or spec.rest}: is another file on a machine of the cluster than here; "
                    "all of them need the same"
                )
            begin(one.probs.shape[1])
            yield spec, one
            advance(len(recording.images), spec.member_name)


def _answer(recording: Recording, specs: Sequence[MemberSpec]) -> list[Recorded]:
    """Be a job."""
    if recording.cores is not None:
        share_threads(recording.cores)
    missing = [
        image for image in recording.images.images[:1] if isinstance(image, Path) and not image.exists()
    ]
    if missing or recording.images.fingerprint() != recording.fingerprint:
        raise InvalidInput(
            f"{missing[0]}: is not there; the images must be found by the same paths on all machines"
            if missing
            else "the images are others than on the machine that asks for their answers"
        )

    def check_room(n_classes: int) -> None:
        n, room_bytes = len(recording.images), recording.room_bytes
        n_bytes = 2 * n * n_classes * len(specs)
        if room_bytes is not None and n_bytes > room_bytes:
            raise InvalidInput(
                f"the answers of {len(specs)} networks to {n} images take {n_bytes // 2**20} MiB, "
                f"Ray has room for {room_bytes // 2**20}; start it with more --object-store-memory, or "
                "record fewer --rows at a time"
            )

    return [one for _, one in answered(recording, specs, check_room)]


def _jobs(specs: Sequence[MemberSpec], n_slots: int, most: int) -> list[Sequence[MemberSpec]]:
    """Cut the list so that all slots have work to the end, and no job has more than `most`."""
    n_jobs = _JOBS_A_SLOT * n_slots if n_slots > 1 else 1
    size = max(1, min(most, math.ceil(len(specs) / n_jobs)))
    return [specs[start : start + size] for start in range(0, len(specs), size)]


def _check_writable(pool: Path) -> None:
    """Write a file where the pool is, or will be, before a cluster computes for hours.

    Raises:
        InvalidInput: It cannot be written.
    """
    place = next(path for path in (pool.resolve(), *pool.resolve().parents) if path.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".encas-"):
            pass
    except OSError as error:
        raise InvalidInput(
            f"{pool}: cannot be written here ({error.strerror}); name another folder"
        ) from None


def tensors(
    images: LabelledImages, preprocess: Preprocess, batch: int, n_threads: int | None = None
) -> Iterator[Tensor]:
    """Yield all images as (n, channels, height, width) tensors; threads prepare them a little ahead."""
    ahead: deque[list[Future[Tensor]]] = deque()
    work = partial(_prepared, preprocess)
    with ThreadPoolExecutor(n_threads or usable_cores()) as threads:
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


def _common_classes(group: Group, recording: Recording) -> int:
    """Check that networks and data have the same number of classes."""
    images, data = recording.images, recording.place
    n_classes = len(images.classes) if images.classes else group[0][1].n_classes
    for spec, network in group:
        if network.n_classes != n_classes:
            other = f"{data} has {n_classes} classes" if images.classes else f"others know {n_classes}"
            raise InvalidInput(
                f"{spec.member_name}: tells {network.n_classes} classes apart, {other}; "
                "all must have the same classes, whose names --classes FILE can give"
            )
    return n_classes


def _preparations(pool: Pool | None) -> dict[str, Preprocess | None]:
    return {} if pool is None else {member.name: member.preprocess for member in pool.file.members}


def _check_preprocess(recording: Recording, group: Group) -> None:
    """Check that members of the pool prepare images as they did for its other splits."""
    for spec, network in group:
        name = spec.member_name
        if recording.before.get(name, network.preprocess) != network.preprocess:
            raise InvalidInput(
                f"{recording.pool}: member '{name}' was recorded with another preprocessing; give the same, "
                "or the new member another name"
            )


def _answers(group: Group, recording: Recording, advance: Advance) -> list[NDArray[np.float16]]:
    """(n, c) probabilities of each network."""
    n, names = len(recording.images), ", ".join(spec.member_name for spec, _ in group)
    probs = [np.empty((n, network.n_classes), np.float16) for _, network in group]
    start = 0
    for tensor in tensors(recording.images, group[0][1].preprocess, recording.batch, recording.cores):
        rows = slice(start, start + len(tensor))
        for (_, network), out in zip(group, probs, strict=True):
            out[rows] = network.probs(tensor)
            advance(len(tensor), names)
        start += len(tensor)
    return probs


def _member(spec: MemberSpec, recorded: Recorded, pool: Path) -> Member:
    stored = as_stored(spec, pool)
    return Member(
        name=spec.member_name,
        source=stored.source,
        weights=stored.weights,
        sha256=recorded.sha256,
        macs=recorded.macs,
        params=recorded.params,
        preprocess=recorded.preprocess,
        precision=recorded.precision,
    )
