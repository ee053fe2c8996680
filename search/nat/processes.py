"""Several processes as a team: started here, on a cluster, or by torchrun."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from typing import Protocol

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from encas.cluster import Alongside, Cluster
from encas.errors import EncasError, InvalidInput
from encas.search.nat.team import ALONE, Team

Help = Callable[[Team], None]
_HOST = "127.0.0.1"
_GRACE_S = 5.0  # until a process whose connection broke is seen to have ended
_LONGEST_PAUSE_S = 0.01


class LostProcess(EncasError):
    """A process of the team is gone."""


class Together:
    """One process of several, which talk through torch.distributed: gloo on CPUs, NCCL between GPUs."""

    def __init__(self, store: Store, rank: int, size: int, watch: Callable[[float], None]) -> None:
        self._store, self._rank, self._size, self._watch = store, rank, size, watch
        self._n_told = 0

    @property
    def rank(self) -> int:
        """Which one this is."""
        return self._rank

    @property
    def size(self) -> int:
        """How many there are."""
        return self._size

    @torch.no_grad()
    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 tensors by their means over all processes, which must all call this.

        Raises:
            LostProcess: One of them is gone.
        """
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._wait(lambda: dist.all_reduce(flat, async_op=True))
        flat /= self._size
        for tensor, part in zip(
            tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(part.view(tensor.shape))

    def told(self, message: bytes) -> bytes:
        """Return what the first process says; the others wait for it, for hours if they must.

        Raises:
            LostProcess: One of them is gone.
        """
        self._n_told += 1
        key, first = f"told {self._n_told}", self._rank == 0
        if first:
            self._store.set(key, str(len(message)))
        self._until(lambda: self._store.check([key]))
        n = int(self._store.get(key))
        if n == 0:
            return b""
        content = torch.frombuffer(bytearray(message), dtype=torch.uint8) if first else torch.empty(n).byte()
        self._wait(lambda: dist.broadcast(content, 0, async_op=True))
        return content.numpy().tobytes()

    def _wait(self, begin: Callable[[], dist.Work | None]) -> None:
        try:
            work = begin()
            assert work is not None
            self._until(work.is_completed)
            work.wait()
        except RuntimeError as error:
            self._watch(_GRACE_S)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise LostProcess(f"training: the {self._size} processes lost each other: {reason}") from error

    def _until(self, done: Callable[[], bool]) -> None:
        """Wait, and watch the others meanwhile: NCCL does not notice that one has died."""
        pause_s = 1e-4
        while not done():
            self._watch(0.0)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


@contextmanager
def gathered(n: int, help_out: Help, device: str, cluster: Cluster | None = None) -> Iterator[Team]:
    """Yield a team of this process and n - 1 more, which run `help_out` and end with this block.

    Started by torchrun, this is the first of its processes; see `rank_by_torchrun`.

    Args:
        n: How many processes.
        help_out: What the others do until they are told an empty message; it is pickled.
        device: "cpu" or "cuda"; on "cuda" each process has a GPU of its own.
        cluster: Where the others run; this one takes the place of a job on its machine.

    Raises:
        InvalidInput: There are fewer GPUs or less room than processes, or a helper found something that is
            not right.
        LostProcess: One of them is gone.
    """
    if dist.is_torchelastic_launched():
        if n > 1:
            raise InvalidInput("--processes: torchrun has started them already; leave it out")
        with _by_torchrun(device) as team:
            yield team
            team.told(b"")
        return
    if n == 1:
        yield ALONE
        return
    helping = _near(n, device, help_out) if cluster is None else _far(n, device, help_out, cluster)
    with helping as helpers:
        helpers.await_all()
        with helpers.joined(0):
            team = Together(helpers.store, 0, n, helpers.watch)
            yield team
            team.told(b"")
            helpers.others.join()


def rank_by_torchrun() -> int:
    """Which process of those that torchrun has started this is; 0 without torchrun."""
    return int(os.environ["RANK"]) if dist.is_torchelastic_launched() else 0


def help_torchrun(help_out: Help, device: str) -> None:
    """Be another process than the first of those that torchrun has started."""
    with _by_torchrun(device) as team:
        help_out(team)


@contextmanager
def _by_torchrun(device: str) -> Iterator[Together]:
    store, rank, size = next(iter(rendezvous("env://")))
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with _in_group(store, rank, size, device):
        yield Together(store, rank, size, lambda _grace_s: None)  # torchrun watches


class _Others(Protocol):
    """The life of the other processes."""

    def ended(self) -> str | None:
        """Return which one has ended, and how; None: all are there."""

    def join(self) -> None:
        """Wait until all have ended."""


@dataclass(frozen=True)
class _Helpers:
    """The other processes, as the first one sees them."""

    n: int  # processes, the first included
    store: TCPStore
    others: _Others
    joined: Callable[[int], AbstractContextManager[None]]

    def await_all(self) -> None:
        ready = [f"ready {rank}" for rank in range(1, self.n)]
        while not self.store.check(ready):
            self.watch(0.0)
            time.sleep(0.05)

    def watch(self, grace_s: float) -> None:
        """Tell of one that has failed or ended; wait a little for it if it is about to."""
        until_s = time.monotonic() + grace_s
        self._tell_of_failed()
        while (ended := self.others.ended()) is None and time.monotonic() < until_s:
            time.sleep(0.01)
            self._tell_of_failed()
        if ended is not None:
            raise LostProcess(f"training: process {ended}; the same command goes on")

    def _tell_of_failed(self) -> None:
        for rank in range(1, self.n):
            if self.store.check([f"failed {rank}"]):
                raise InvalidInput(self.store.get(f"failed {rank}").decode())


@contextmanager
def _near(n: int, device: str, help_out: Help) -> Iterator[_Helpers]:
    """Start the others on this machine; they end with the block.

    Raises:
        InvalidInput: There are fewer GPUs.
    """
    if device == "cuda" and n > torch.cuda.device_count():
        raise InvalidInput(f"--processes {n}: each needs a GPU, there are {torch.cuda.device_count()}")
    store = TCPStore(_HOST, 0, n, is_master=True, wait_for_workers=False)
    make = get_context("spawn").Process
    processes = [make(target=_help, args=(rank, n, store.port, device, help_out)) for rank in range(1, n)]
    try:
        for process in processes:
            process.start()
        yield _Helpers(n, store, _Spawned(processes), lambda rank: _joined(store, rank, n, device))
    finally:
        for process in processes:
            process.terminate()
            process.join()


@dataclass(frozen=True)
class _Spawned:
    """Processes of this machine."""

    processes: Sequence[SpawnProcess]  # of the ranks from 1

    def ended(self) -> str | None:
        codes = [process.exitcode for process in self.processes]
        if all(code is None for code in codes):
            return None
        # Others end by themselves when one was ended; they have the higher exit codes.
        code, rank = min((code, rank) for rank, code in enumerate(codes, 1) if code is not None)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{rank} of 0 to {len(codes)} {how}"

    def join(self) -> None:
        for process in self.processes:
            process.join()


@contextmanager
def _far(n: int, device: str, help_out: Help, cluster: Cluster) -> Iterator[_Helpers]:
    """Start the others on machines of a cluster; they end with the block.

    They wait while candidates are evaluated, and jobs that evaluate wait while they train: so Ray is not told
    that they have cores and GPUs.

    Raises:
        InvalidInput: There is not so much room.
    """
    need = cluster.need(device)
    places = cluster.places(need)
    here = next((place for place in places if place.node == cluster.here), None)
    places = [place for place in places if place is not here]  # which is this process's own
    if len(places) < n - 1:
        raise InvalidInput(
            f"--processes {n}: the cluster has room for {len(places) + 1}, of {need.cores} cores"
            f"{' and a GPU' if need.gpus else ''} each; add machines, or name fewer"
        )
    address = cluster.address
    store = TCPStore(address, 0, n, is_master=True, wait_for_workers=False)
    told = [(rank, n, address, store.port, device, help_out, need.cores) for rank in range(1, n)]
    with cluster.alongside(_help_from_far, told, places[: n - 1]) as others:
        yield _Helpers(n, store, _Far(others), lambda rank: _taking_part(store, rank, n, device, need.cores))


@dataclass(frozen=True)
class _Far:
    """Processes of a cluster."""

    running: Alongside

    def ended(self) -> str | None:
        found = self.running.ended()
        if found is None:
            return None
        which, how = found
        return f"{which + 1} of 0 to {len(self.running)} {how}"

    def join(self) -> None:
        self.running.join()


def _help(rank: int, n: int, port: int, device: str, help_out: Help) -> None:
    """Be a helper: the whole life of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    parent = os.getppid()

    def watch(_grace_s: float) -> None:
        if os.getppid() != parent:
            raise LostProcess("the first process is gone")

    store = TCPStore(_HOST, port, n, is_master=False)
    store.set(f"ready {rank}", "")
    with _joined(store, rank, n, device):
        try:
            help_out(Together(store, rank, n, watch))
        except LostProcess:
            sys.exit(1)  # the first process knows, or is the one
        except EncasError as error:
            store.set(f"failed {rank}", str(error))  # before the others notice that a connection broke
            sys.exit(1)


def _help_from_far(rank: int, n: int, host: str, port: int, device: str, help_out: Help, cores: int) -> None:
    """Be a helper on another machine, where Ray ends whoever the first process leaves behind."""
    store = TCPStore(host, port, n, is_master=False)
    store.set(f"ready {rank}", "")
    with _taking_part(store, rank, n, device, cores):
        try:
            help_out(Together(store, rank, n, lambda _grace_s: None))
        except LostProcess:
            return  # the first process knows, or is the one
        except EncasError as error:
            store.set(f"failed {rank}", str(error))


@contextmanager
def _taking_part(store: Store, rank: int, n: int, device: str, cores: int) -> Iterator[None]:
    """Take part on a machine of a cluster, with so many of its cores, and the only GPU that is seen."""
    threads = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        with _in_group(store, rank, n, device):
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _joined(store: Store, rank: int, n: int, device: str) -> Iterator[None]:
    """Take part, with a GPU of one's own, or with a share of the cores."""
    threads = torch.get_num_threads()
    if device == "cuda":
        torch.cuda.set_device(rank)
    torch.set_num_threads(max(1, threads // n))
    try:
        with _in_group(store, rank, n, device):
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _in_group(store: Store, rank: int, n: int, device: str) -> Iterator[None]:
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=n, timeout=timedelta(minutes=30))
    try:
        yield
    finally:
        dist.destroy_process_group()
