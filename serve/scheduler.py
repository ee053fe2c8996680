"""Which samples run next: one queue per stage, filled by the survivors of many requests.

Nothing here waits, runs or knows the time of day: a thread (`encas.serve.engine`) asks, and passes a clock.
"""

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]
# Of what is known about the pace, the last ten batches or so count.
_MEMORY = 0.9
# Decoding and the others on this machine take time too: so many times the networks' own is expected.
_CAUTION = 1.5
Ticket = TypeVar("Ticket", bound=Hashable)  # stands for one request


class QueueFull(Exception):
    """No more samples are taken until some have been answered."""


@dataclass(frozen=True)
class StageLimits:
    """How a stage batches, and how many samples may wait for it before requests are refused."""

    max_batch_size: int = 32
    max_queue_delay_s: float = 0.0  # what a sample may wait for others to join it
    max_queue_size: int = 512


@dataclass(frozen=True)
class Part(Generic[Ticket]):
    """Samples of one request that wait for a stage."""

    ticket: Ticket
    rows: Rows  # of the request
    since_s: float


@dataclass(frozen=True)
class Batch(Generic[Ticket]):
    """What is to run now."""

    stage: int
    parts: tuple[Part[Ticket], ...]

    def __len__(self) -> int:
        """Count the samples."""
        return sum(len(part.rows) for part in self.parts)


@dataclass
class _Request:
    deadline_s: float
    coming: list[int]  # (k,) samples that somebody prepares for a stage
    n_queued: int = 0


@dataclass
class _Queue(Generic[Ticket]):
    limits: StageLimits
    parts: deque[Part[Ticket]] = field(default_factory=deque)
    n: int = 0

    def take(self) -> tuple[Part[Ticket], ...]:
        """Cut a batch off; a request that is larger than that goes in pieces."""
        taken, space = [], self.limits.max_batch_size
        while self.parts and space:
            part = self.parts.popleft()
            if len(part.rows) > space:
                rest = Part(part.ticket, part.rows[space:], part.since_s)
                self.parts.appendleft(rest)
                part = Part(part.ticket, part.rows[:space], part.since_s)
            taken.append(part)
            space -= len(part.rows)
        self.n -= self.limits.max_batch_size - space
        return tuple(taken)

    def drop(self, ticket: Ticket) -> None:
        kept = deque(part for part in self.parts if part.ticket != ticket)
        self.n -= sum(len(part.rows) for part in self.parts) - sum(len(part.rows) for part in kept)
        self.parts = kept


class Scheduler(Generic[Ticket]):
    """The queues of one cascade; callers take care that one thread at a time is in here.

    Later stages come first, so that what is nearly done does not wait for what has just come. A stage runs
    when a batch is full, when its oldest sample has waited for `max_queue_delay_s`, or, after the first
    stage, when nothing is on its way that could join: waiting would bring nothing then.
    """

    def __init__(self, limits: Sequence[StageLimits], clock: Callable[[], float]) -> None:
        """Make empty queues.

        Args:
            limits: (k,) of each stage.
            clock: Seconds that only rise.
        """
        self._queues: list[_Queue[Ticket]] = [_Queue(limit) for limit in limits]
        self._clock = clock
        self._requests: dict[Ticket, _Request] = {}
        self._coming = [0] * len(limits)  # (k,) over all requests
        self._deadlines: list[tuple[float, int, Ticket]] = []  # a heap; the number keeps tickets uncompared
        self._n_admitted = 0
        self._busy_s, self._n_left = 0.0, 0.0  # of the latest batches, fading
        self._n_running = 0

    @property
    def n_waiting(self) -> tuple[int, ...]:
        """(k,) samples that wait for each stage, those included that are being prepared for it."""
        return tuple(queue.n + coming for queue, coming in zip(self._queues, self._coming, strict=True))

    @property
    def n_requests(self) -> int:
        """Requests that are neither answered nor given up."""
        return len(self._requests)

    @property
    def capacity(self) -> int:
        """Samples that the largest possible request has."""
        return self._queues[0].limits.max_queue_size

    def has_room(self, n: int = 1, deadline_s: float = np.inf) -> bool:
        """Whether a request of n samples would be taken.

        No queue may be longer than its limit, and where others wait the answer must be expected in time: an
        early refusal lets a client turn elsewhere, and what is computed too late helps nobody.
        """
        all_waiting = self.n_waiting
        for stage, (waiting, queue) in enumerate(zip(all_waiting, self._queues, strict=True)):
            if waiting + (n if stage == 0 else 1) > queue.limits.max_queue_size:
                return False
        n_before = sum(all_waiting) + self._n_running
        return not any(all_waiting) or self._clock() + self._expected_s(n_before + n) <= deadline_s

    def ran(self, n_left: int, busy_s: float) -> None:
        """Learn from the batch that was taken last how long samples take, until they leave."""
        self._n_running = 0
        self._busy_s = _MEMORY * self._busy_s + busy_s
        self._n_left = _MEMORY * self._n_left + n_left

    def admit(self, ticket: Ticket, n: int, deadline_s: float) -> None:
        """Take a request of n samples, which somebody now prepares.

        Raises:
            QueueFull: There is no room, or no time.
        """
        if not self.has_room(n, deadline_s):
            raise QueueFull
        self._requests[ticket] = _Request(deadline_s, [0] * len(self._queues))
        self._n_admitted += 1
        heapq.heappush(self._deadlines, (deadline_s, self._n_admitted, ticket))
        self.announce(ticket, 0, n)

    def announce(self, ticket: Ticket, stage: int, n: int) -> None:
        """Count samples that are being prepared for a stage; `put` follows."""
        request = self._requests.get(ticket)
        if request is not None:
            request.coming[stage] += n
            self._coming[stage] += n

    def put(self, ticket: Ticket, stage: int, rows: Rows) -> None:
        """Queue samples that are ready to run; those of a request that was given up are forgotten."""
        request = self._requests.get(ticket)
        if request is None:
            return
        arrived = min(request.coming[stage], len(rows))
        request.coming[stage] -= arrived
        self._coming[stage] -= arrived
        queue = self._queues[stage]
        queue.parts.append(Part(ticket, rows, self._clock()))
        queue.n += len(rows)
        request.n_queued += len(rows)

    def drop(self, ticket: Ticket) -> bool:
        """Forget a request that was answered or given up; False if it was unknown."""
        request = self._requests.pop(ticket, None)
        if request is None:
            return False
        for stage, queue in enumerate(self._queues):
            self._coming[stage] -= request.coming[stage]
            if request.n_queued:
                queue.drop(ticket)
        return True

    def expire(self) -> list[Ticket]:
        """Forget the requests whose deadline has passed, and name them."""
        now, gone = self._clock(), []
        while self._deadlines and self._deadlines[0][0] <= now:
            ticket = heapq.heappop(self._deadlines)[2]
            if self.drop(ticket):
                gone.append(ticket)
        while self._deadlines and self._deadlines[0][2] not in self._requests:
            heapq.heappop(self._deadlines)  # answered long ago
        return gone

    def take(self) -> Batch[Ticket] | None:
        """Cut off the batch that is to run now; None if none is due."""
        now = self._clock()
        for stage in reversed(range(len(self._queues))):
            due_s = self._due_s(stage)
            if due_s is not None and due_s <= now:
                batch = Batch(stage, self._queues[stage].take())
                for part in batch.parts:
                    self._requests[part.ticket].n_queued -= len(part.rows)
                self._n_running = len(batch)
                return batch
        return None

    def wait_s(self) -> float | None:
        """Say in how many seconds there will be something to take or to expire; None: when told of more."""
        times = [due_s for stage in range(len(self._queues)) if (due_s := self._due_s(stage)) is not None]
        if self._deadlines:
            times.append(self._deadlines[0][0])
        return max(0.0, min(times) - self._clock()) if times else None

    def _expected_s(self, n: int) -> float:
        return _CAUTION * n * self._busy_s / self._n_left if self._n_left else 0.0

    def _due_s(self, stage: int) -> float | None:
        """When a stage is to run, None without samples."""
        queue = self._queues[stage]
        if not queue.n:
            return None
        if queue.n >= queue.limits.max_batch_size:
            return -np.inf
        upstream = sum(self._coming[: stage + 1]) + sum(q.n for q in self._queues[:stage])
        if stage > 0 and upstream == 0:
            return -np.inf
        return queue.parts[0].since_s + queue.limits.max_queue_delay_s
