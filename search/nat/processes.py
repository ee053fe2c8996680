"""Several processes as a team: started here, or by torchrun."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

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
def gathered(n: int, help_out: Help, device: str) -> Iterator[Team]:
    """Yield a team of this process and n - 1 more, which run `help_out` and end with this block.

    Started by torchrun, this is the first of its processes; see `rank_by_torchrun`.

    Args:
        n: How many processes.
        help_out: What the others do until they are told an empty message; it is pickled.
        device: "cpu" or "cuda"; on "cuda" each process has a GPU of its own.

    Raises:
        InvalidInput: There are fewer GPUs than processes, or a helper found something that is not right.
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
    if device == "cuda" and n > torch.cuda.device_count():
        raise InvalidInput(f"--processes {n}: each needs a GPU, there are {torch.cuda.device_count()}")
    store = TCPStore(_HOST, 0, n, is_master=True, wait_for_workers=False)
    helpers = _Helpers.start(n, store, device, help_out)
    try:
        helpers.await_all()
        with _joined(store, 0, n, device):
            team = Together(store, 0, n, helpers.watch)
            yield team
            team.told(b"")
            helpers.join()
    finally:
        helpers.end()


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


@dataclass(frozen=True)
class _Helpers:
    """The other processes, as the first one sees them."""

    processes: Sequence[SpawnProcess]  # of the ranks from 1
    store: TCPStore

    @classmethod
    def start(cls, n: int, store: TCPStore, device: str, help_out: Help) -> "_Helpers":
        make = get_context("spawn").Process
        made = [make(target=_help, args=(rank, n, store.port, device, help_out)) for rank in range(1, n)]
        for process in made:
            process.start()
        return cls(made, store)

    def await_all(self) -> None:
        ready = [f"ready {rank}" for rank in range(1, len(self.processes) + 1)]
        while not self.store.check(ready):
            self.watch(0.0)
            time.sleep(0.05)

    def watch(self, grace_s: float) -> None:
        """Tell of one that has failed or ended; wait a little for it if it is about to."""
        until_s = time.monotonic() + grace_s
        self._tell_of_failed()
        while not (ended := self._ended()) and time.monotonic() < until_s:
            time.sleep(0.01)
            self._tell_of_failed()
        if not ended:
            return
        # Others end by themselves when one was ended; they have the higher exit codes.
        code, rank = min((self.processes[rank - 1].exitcode or 0, rank) for rank in ended)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = len(self.processes)
        raise LostProcess(f"training: process {rank} of 0 to {last} {how}; the same command goes on")

    def _tell_of_failed(self) -> None:
        for rank in range(1, len(self.processes) + 1):
            if self.store.check([f"failed {rank}"]):
                raise InvalidInput(self.store.get(f"failed {rank}").decode())

    def _ended(self) -> list[int]:
        return [rank for rank, process in enumerate(self.processes, 1) if process.exitcode is not None]

    def join(self) -> None:
        for process in self.processes:
            process.join()

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
        self.join()


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
