"""Several processes that serve from one socket: a supervisor keeps them going, and their models the same."""

import contextlib
import multiprocessing
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from encas.bundle import BundleFile
from encas.errors import EncasError, InvalidInput
from encas.files import read_model
from encas.serve.models import newest_bundle
from encas.serve.options import Address, Announce, Options
from encas.serve.refusals import UnknownModel
from encas.serve.worker import work

# Before a worker is replaced that never became ready; twice as long each time, up to the second number.
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_KILL_AFTER_S = 5.0  # beyond the grace that the workers have been given


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    ready: bool = False


@dataclass
class _Change:
    """Loading or unloading a model everywhere."""

    asked_by: _Worker
    token: int  # by which the worker knows it
    done: Callable[[], None]  # when everybody has made it
    waiting: set[_Worker] = field(default_factory=set)
    failure: Exception | None = None


def supervise(options: Options, listener: socket.socket, announce: Announce) -> None:
    """Keep `options.workers` processes serving until SIGINT or SIGTERM.

    Raises:
        InvalidInput: The first workers could not start.
    """
    with (
        tempfile.TemporaryDirectory(prefix="encas-metrics-") as folder,
        _reserved_grpc_port(options) as grpc_port,
    ):
        supervisor = Supervisor(replace(options, grpc_port=grpc_port), listener, announce, folder)
        supervisor.run()
    if supervisor.failure is not None:
        raise InvalidInput(supervisor.failure)


class Supervisor:
    """Starts workers, replaces those that die, passes on what concerns all of them."""

    def __init__(self, options: Options, listener: socket.socket, announce: Announce, folder: str) -> None:
        """Know what to start; `run` does it.

        Args:
            options: As for one process.
            listener: The socket that all of them serve from.
            announce: Told the address when all workers are ready for the first time.
            folder: Where they count metrics together.
        """
        self.failure: str | None = None
        self._options, self._listener, self._announce, self._folder = options, listener, announce, folder
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._changes: dict[int, _Change] = {}
        self._names: dict[Path, str] = {}  # of served bundles, whose folders may go away later
        self._n_changes = 0
        self._announced = self._stopping = False
        self._pause_s = _PAUSE_S
        self._starts_s: list[float] = []  # when workers are to be started

    def run(self) -> None:
        """Serve until a signal comes."""
        wake, waker = socket.socketpair()

        def stop(_signal: int, _frame: object) -> None:
            self._stopping = True
            with contextlib.suppress(OSError):
                waker.send(b"x")

        before = {sig: signal.signal(sig, stop) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._names = {path: _name_of(path) for path in self._options.paths}
            for _ in range(self._options.workers):
                self._start()
            while not self._stopping:
                now_s = time.monotonic()
                wait_s = max(0.0, min([60.0, *(due_s - now_s for due_s in self._starts_s)]))
                self._look(wait([wake, *self._handles()], timeout=wait_s))
                self._start_due()
        finally:
            self._stop()
            for sig, handler in before.items():
                signal.signal(sig, handler)
            wake.close()
            waker.close()

    def _handles(self) -> list[Any]:
        return [handle for worker in self._workers for handle in (worker.pipe, worker.process.sentinel)]

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        served = tuple(self._names.items()) if self._announced else ()
        options = replace(self._options, served=served)
        process = self._context.Process(
            target=work, args=(options, self._listener, theirs, self._folder), daemon=True
        )
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours))

    def _start_due(self) -> None:
        now_s = time.monotonic()
        due = [due_s for due_s in self._starts_s if due_s <= now_s]
        self._starts_s = [due_s for due_s in self._starts_s if due_s > now_s]
        for _ in due:
            self._start()

    def _look(self, handles: list[Any]) -> None:
        """Hear what workers say, and then which of them are gone."""
        for worker in list(self._workers):
            if worker.pipe in handles:
                with contextlib.suppress(EOFError, OSError):
                    self._hear(worker, worker.pipe.recv())
        for worker in list(self._workers):
            if worker.process.sentinel in handles:
                self._gone(worker)

    def _hear(self, worker: _Worker, message: tuple[Any, ...]) -> None:
        match message:
            case ("ready", Address() as address):
                worker.ready, self._pause_s = True, _PAUSE_S
                if not self._announced and all(one.ready for one in self._workers):
                    self._announced = True
                    self._announce(address)
            case ("failed", str() as failure):
                if not self._announced:
                    self.failure = self.failure or failure
                    self._stopping = True
                else:
                    sys.stderr.write(f"encas: a worker could not start: {failure}\n")
            case ("change", int() as token, str() as what, str() as name):
                self._change(worker, token, what, name)
            case ("applied", int() as number, failure):
                self._applied(self._changes[number], worker, failure)

    def _gone(self, worker: _Worker) -> None:
        """Replace a worker that has died."""
        self._workers.remove(worker)
        worker.process.join()
        mark_process_dead(worker.process.pid, self._folder)  # type: ignore[no-untyped-call]
        worker.pipe.close()
        for change in list(self._changes.values()):
            self._applied(change, worker, None)
        if self._stopping or not self._announced:
            if not self._stopping:
                self.failure = "a worker died while it started; run with --workers 1 to see why"
                self._stopping = True
            return
        pause_s = 0.0
        if not worker.ready:
            pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LONGEST_PAUSE_S)
        when = f" in {pause_s:g} s" if pause_s else ""
        sys.stderr.write(f"encas: worker {worker.process.pid} died; another one takes its place{when}\n")
        sys.stderr.flush()
        self._starts_s.append(time.monotonic() + pause_s)

    def _change(self, worker: _Worker, token: int, what: str, name: str) -> None:
        """Let all workers load or unload a model, and answer when they all have."""
        subject, paths = name, tuple(path for path in self._options.paths if self._names[path] != name)
        if what == "load":
            try:
                path = self._newest(name)
            except EncasError as error:
                worker.pipe.send(("done", token, error))
                return
            self._names[path] = name
            subject, paths = str(path), (*paths, path)

        def done() -> None:
            self._options = replace(self._options, paths=paths)  # workers that start later begin so

        self._n_changes += 1
        change = _Change(worker, token, done, {one for one in self._workers if one.ready})
        self._changes[self._n_changes] = change
        for one in change.waiting:
            one.pipe.send(("apply", self._n_changes, what, subject))

    def _newest(self, name: str) -> Path:
        repository = self._options.repository
        path = None if repository is None else newest_bundle(repository, name)
        if path is None:
            raise UnknownModel(f"the repository has no model {name[:80]!r}")
        return path

    def _applied(self, change: _Change, worker: _Worker, failure: Exception | None) -> None:
        if worker not in change.waiting:
            return
        change.waiting.discard(worker)
        change.failure = change.failure or failure
        if change.waiting:
            return
        self._changes = {number: one for number, one in self._changes.items() if one is not change}
        if change.failure is None:
            change.done()
        with contextlib.suppress(OSError):
            change.asked_by.pipe.send(("done", change.token, change.failure))

    def _stop(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        until_s = time.monotonic() + self._options.grace_s + _KILL_AFTER_S
        for worker in self._workers:
            worker.process.join(max(0.0, until_s - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()


def _name_of(path: Path) -> str:
    return read_model(path / "bundle.json", BundleFile).name


@contextmanager
def _reserved_grpc_port(options: Options) -> Iterator[int | None]:
    """Take a port that all workers can listen on, and nobody else."""
    if options.grpc_port is None:
        yield None
        return
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind((options.host, options.grpc_port))
        except OSError as error:
            raise InvalidInput(
                f"cannot listen for gRPC on {options.host}, port {options.grpc_port}: {error.strerror}; "
                "choose another with --grpc-port"
            ) from None
        yield int(holder.getsockname()[1])
