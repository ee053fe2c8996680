"""Which samples run next: one queue per stage of each gear, filled by the survivors of many requests.

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
# Decoding and the others on this machine take time too: at least so many times the networks' own is expected.
_CAUTION = 1.5
# It grows where answers come later than that, and by this share more; a long wait that was shorter takes off
# a hundredth of it.
_MARGIN, _CALM = 1.1, 0.99
_LONG = 0.5  # of the time that a request has: who expects to wait for less shows little
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
    gear: int = 0

    def __len__(self) -> int:
        """Count the samples."""
        return sum(len(part.rows) for part in self.parts)


@dataclass
class _Request:
    deadline_s: float
    gear: int
    coming: list[int]  # (k,) samples that somebody prepares for a stage
    since_s: float
    expected_s: float  # for the networks, by what was here when it came
    n_queued: int = 0


@dataclass
class _Pace:
    """How long a sample takes until it leaves, by the latest batches, fading."""

    weight: float  # mean cost of a sample, in any unit that is the same for all gears
    busy_s: float = 0.0
    n_left: float = 0.0

    def add(self, n_left: int, busy_s: float) -> None:
        self.busy_s = _MEMORY * self.busy_s + busy_s
        self.n_left = _MEMORY * self.n_left + n_left

    @property
    def known_s(self) -> float | None:
        return self.busy_s / self.n_left if self.n_left else None


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
    """The queues of one cascade, or of several gears; callers take care that one thread at a time is in here.

    Later stages come first, so that what is nearly done does not wait for what has just come. A stage runs
    when a batch is full, when its oldest sample has waited for `max_queue_delay_s`, or, after the first
    stage, when nothing is on its way that could join: waiting would bring nothing then.
    """

    def __init__(
        self,
        limits: Sequence[StageLimits],
        clock: Callable[[], float],
        n_stages: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Make empty queues.

        Args:
            limits: (k,) of each stage, of whatever gear; for all gears together as for one.
            clock: Seconds that only rise.
            n_stages: Of each gear, at most k; by default there is one gear, of k stages.
            weights: Mean cost of a sample in each gear; says what to expect of one that has not run yet.
        """
        n_stages = n_stages or [len(limits)]
        self._limits, self._clock = tuple(limits), clock
        self._queues: list[list[_Queue[Ticket]]] = [[_Queue(limits[j]) for j in range(k)] for k in n_stages]
        self._coming = [[0] * k for k in n_stages]  # over all requests
        self._pace = [_Pace(weight) for weight in weights or [1.0] * len(n_stages)]
        self._places = sorted(  # (stage, gear): later stages first
            ((stage, gear) for gear, k in enumerate(n_stages) for stage in range(k)), reverse=True
        )
        self._requests: dict[Ticket, _Request] = {}
        self._deadlines: list[tuple[float, int, Ticket]] = []  # a heap; the number keeps tickets uncompared
        self._n_admitted = 0
        self._caution = _CAUTION
        self._n_running, self._gear_running = 0, 0

    @property
    def n_waiting(self) -> tuple[int, ...]:
        """(k,) samples that wait for each stage, those included that are being prepared for it."""
        waiting = [0] * len(self._limits)
        for stage, gear in self._places:
            waiting[stage] += self._queues[gear][stage].n + self._coming[gear][stage]
        return tuple(waiting)

    @property
    def n_requests(self) -> int:
        """Requests that are neither answered nor given up."""
        return len(self._requests)

    @property
    def capacity(self) -> int:
        """Samples that the largest possible request has."""
        return self._limits[0].max_queue_size

    @property
    def fill(self) -> float:
        """How much of the fullest queue is taken, in [0, 1]."""
        sizes = (limits.max_queue_size for limits in self._limits)
        return max(waiting / size for waiting, size in zip(self.n_waiting, sizes, strict=True))

    @property
    def delay_s(self) -> float:
        """How long the networks are busy with what is here, as far as it is known."""
        return sum(self._expected_s(gear, n) for gear, n in enumerate(self._n_of_gears()))

    def has_room(self, n: int = 1, deadline_s: float = np.inf, gear: int = 0) -> bool:
        """Whether a request of n samples would be taken, in a gear.

        No queue may be longer than its limit, and where others wait the answer must be expected in time: an
        early refusal lets a client turn elsewhere, and what is computed too late helps nobody.
        """
        all_waiting = self.n_waiting
        for stage, (waiting, limits) in enumerate(zip(all_waiting, self._limits, strict=True)):
            if waiting + (n if stage == 0 else 1) > limits.max_queue_size:
                return False
        if not any(all_waiting):
            return True
        return self._clock() + self._caution * (self.delay_s + self._expected_s(gear, n)) <= deadline_s

    def ran(self, n_left: int, busy_s: float) -> None:
        """Learn from the batch that was taken last how long samples take, until they leave."""
        self._n_running = 0
        self._pace[self._gear_running].add(n_left, busy_s)

    def admit(self, ticket: Ticket, n: int, deadline_s: float, gear: int = 0) -> None:
        """Take a request of n samples, which somebody now prepares for the first stage of a gear.

        Raises:
            QueueFull: There is no room, or no time.
        """
        if not self.has_room(n, deadline_s, gear):
            raise QueueFull
        expected_s = self.delay_s + self._expected_s(gear, n)
        coming = [0] * len(self._queues[gear])
        self._requests[ticket] = _Request(deadline_s, gear, coming, self._clock(), expected_s)
        self._n_admitted += 1
        heapq.heappush(self._deadlines, (deadline_s, self._n_admitted, ticket))
        self.announce(ticket, 0, n)

    def announce(self, ticket: Ticket, stage: int, n: int) -> None:
        """Count samples that are being prepared for a stage; `put` follows."""
        request = self._requests.get(ticket)
        if request is not None:
            request.coming[stage] += n
            self._coming[request.gear][stage] += n

    def put(self, ticket: Ticket, stage: int, rows: Rows) -> None:
        """Queue samples that are ready to run; those of a request that was given up are forgotten."""
        request = self._requests.get(ticket)
        if request is None:
            return
        arrived = min(request.coming[stage], len(rows))
        request.coming[stage] -= arrived
        self._coming[request.gear][stage] -= arrived
        queue = self._queues[request.gear][stage]
        queue.parts.append(Part(ticket, rows, self._clock()))
        queue.n += len(rows)
        request.n_queued += len(rows)

    def drop(self, ticket: Ticket) -> bool:
        """Forget a request that was answered or given up; False if it was unknown."""
        request = self._requests.pop(ticket, None)
        if request is None:
            return False
        self._learn(request)
        for stage, queue in enumerate(self._queues[request.gear]):
            self._coming[request.gear][stage] -= request.coming[stage]
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
        for stage, gear in self._places:
            due_s = self._due_s(stage, gear)
            if due_s is not None and due_s <= now:
                batch = Batch(stage, self._queues[gear][stage].take(), gear)
                for part in batch.parts:
                    self._requests[part.ticket].n_queued -= len(part.rows)
                self._n_running, self._gear_running = len(batch), gear
                return batch
        return None

    def wait_s(self) -> float | None:
        """Say in how many seconds there will be something to take or to expire; None: when told of more."""
        times = [due_s for stage, gear in self._places if (due_s := self._due_s(stage, gear)) is not None]
        if self._deadlines:
            times.append(self._deadlines[0][0])
        return max(0.0, min(times) - self._clock()) if times else None

    def _learn(self, request: _Request) -> None:
        """Note how much longer than expected a long wait was."""
        has_s, took_s = request.deadline_s - request.since_s, self._clock() - request.since_s
        if request.expected_s * self._caution >= _LONG * has_s:
            calmer = _CAUTION + _CALM * (self._caution - _CAUTION)
            self._caution = max(calmer, _MARGIN * took_s / request.expected_s)

    def _n_of_gears(self) -> list[int]:
        """Samples that wait or run, by gear."""
        found = [
            sum(queue.n for queue in queues) + sum(coming)
            for queues, coming in zip(self._queues, self._coming, strict=True)
        ]
        found[self._gear_running] += self._n_running
        return found

    def _expected_s(self, gear: int, n: int) -> float:
        """Time of n samples in a gear; of one that has not run, by its cost and the others' times."""
        known_s = self._pace[gear].known_s
        if known_s is not None:
            return n * known_s
        others = [pace.known_s / pace.weight for pace in self._pace if pace.known_s is not None]
        return n * self._pace[gear].weight * sum(others) / len(others) if others else 0.0

    def _due_s(self, stage: int, gear: int) -> float | None:
        """When a stage is to run, None without samples."""
        queue = self._queues[gear][stage]
        if not queue.n:
            return None
        if queue.n >= queue.limits.max_batch_size:
            return -np.inf
        upstream = sum(self._coming[gear][: stage + 1]) + sum(q.n for q in self._queues[gear][:stage])
        if stage > 0 and upstream == 0:
            return -np.inf
        return queue.parts[0].since_s + queue.limits.max_queue_delay_s
