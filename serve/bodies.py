"""The bodies of requests: how many may come at once, how long each may take, what all of them may hold."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from encas.serve.limits import Limits
from encas.serve.refusals import Overloaded, SlowClient


class Held:
    """The bytes that one request holds."""

    def __init__(self, bodies: "Bodies") -> None:
        """Hold nothing yet."""
        self._bodies = bodies
        self.n_bytes = 0

    def take(self, n_bytes: int) -> None:
        """Hold so many more of what comes; in the event loop.

        Raises:
            Overloaded: All requests together would hold more than they may, and this one the most.
        """
        self._bodies.take(self, n_bytes, makes_room=True)

    def unpack(self, n_bytes: int) -> None:
        """Hold so many more, made of what has come; in any thread.

        Raises:
            Overloaded: All requests together would hold more than they may.
        """
        self._bodies.take(self, n_bytes, makes_room=False)


class Bodies:
    """Makes room for those that come quickly by sending away those that do not.

    Refusing the newest would let a few hundred clients that send a byte now and then keep out everybody.
    """

    def __init__(self, limits: Limits) -> None:
        """Begin with none.

        Args:
            limits: As many may come as requests may be in work.
        """
        self._limits = limits
        self._coming: dict[asyncio.Timeout, Held] = {}  # the oldest first
        self._n_bytes = 0
        self._lock = threading.Lock()

    @property
    def n_coming(self) -> int:
        """Requests whose body has not come as a whole."""
        return len(self._coming)

    @contextmanager
    def held(self) -> Iterator[Held]:
        """Count what a request holds until the block ends."""
        held = Held(self)
        try:
            yield held
        finally:
            with self._lock:
                self._n_bytes -= held.n_bytes

    @asynccontextmanager
    async def coming(self, held: Held) -> AsyncIterator[None]:
        """Read a body in this block; in the event loop.

        Raises:
            SlowClient: It did not come in time, or others needed the room.
        """
        if len(self._coming) >= self._limits.max_requests:
            self._send_away(next(iter(self._coming)))
        try:
            async with asyncio.timeout(self._limits.request_timeout_s) as limit:
                self._coming[limit] = held
                try:
                    yield
                finally:
                    self._coming.pop(limit, None)
        except TimeoutError:
            raise SlowClient("the body did not come in time") from None

    def take(self, held: Held, n_bytes: int, *, makes_room: bool) -> None:
        """As `Held.take` and `Held.unpack`."""
        with self._lock:
            full = self._n_bytes + n_bytes > self._limits.max_held_bytes
            if full:
                if not makes_room:
                    raise Overloaded("the server")
                largest = max(self._coming, key=lambda one: self._coming[one].n_bytes, default=None)
                if largest is None or self._coming[largest] is held:
                    raise Overloaded("the server")
                self._send_away(largest)
            self._n_bytes += n_bytes
            held.n_bytes += n_bytes

    def _send_away(self, one: asyncio.Timeout) -> None:
        self._coming.pop(one, None)
        one.reschedule(asyncio.get_running_loop().time())
