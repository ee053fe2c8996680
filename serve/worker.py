"""One process among several that serve from one socket."""

import asyncio
import os
import signal
import socket
import sys
import threading
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from encas.errors import EncasError, InvalidInput
from encas.serve.options import Options

if TYPE_CHECKING:
    from encas.serve.models import Models
    from encas.serve.service import Control, Service

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported


def work(options: Options, listener: socket.socket, pipe: Connection, folder: str) -> None:
    """Serve until SIGTERM, or until the supervisor is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the supervisor tells us
    os.environ[SHARED_FOLDER] = folder
    from encas.serve.server import run_worker  # noqa: PLC0415  # imports prometheus_client

    link = Link(pipe)
    try:
        run_worker(options, listener, lambda address: link.send(("ready", address)), link.attach)
    except (EncasError, OSError) as error:
        link.send(("failed", str(error)))
        sys.exit(1)


class Link:
    """The worker's end of the pipe to its supervisor."""

    def __init__(self, pipe: Connection) -> None:
        """Hold the pipe; `attach` begins to listen."""
        self._pipe, self._lock = pipe, threading.Lock()
        self._asked: dict[int, Future[Exception | None]] = {}
        self._n_asked = 0

    def send(self, message: tuple[Any, ...]) -> None:
        """Tell the supervisor something."""
        with self._lock:
            self._pipe.send(message)

    def attach(self, service: "Service") -> "Control":
        """Let all workers load and unload what clients of this one ask for."""
        threading.Thread(target=self._listen, args=(service.models,), daemon=True).start()
        return self._change

    async def _change(self, what: Literal["load", "unload"], name: str) -> None:
        self._n_asked += 1
        token = self._n_asked
        answer = self._asked[token] = Future()
        self.send(("change", token, what, name))
        failure = await asyncio.wrap_future(answer)
        if failure is not None:
            raise failure

    def _listen(self, models: "Models") -> None:
        try:
            while True:
                match self._pipe.recv():
                    case ("apply", number, what, subject):
                        self.send(("applied", number, _apply(models, what, subject)))
                    case ("done", token, failure):
                        self._asked.pop(token).set_result(failure)
        except (EOFError, OSError):  # the supervisor is gone
            os.kill(os.getpid(), signal.SIGTERM)


def _apply(models: "Models", what: str, subject: str) -> Exception | None:
    """Load a bundle, or unload a model; return what went wrong."""
    try:
        if what == "load":
            models.load_from(Path(subject))
        else:
            models.unload(subject)
    except EncasError as error:
        return error
    except Exception as error:  # which other processes might not know
        return InvalidInput(str(error))
    return None
