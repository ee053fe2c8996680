"""The order in which samples run, with a clock that stands still until a test moves it."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encas.serve.scheduler import Batch, QueueFull, Scheduler, StageLimits

NEVER = 1e9


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def scheduler(*limits: StageLimits) -> tuple[Scheduler[str], Clock]:
    clock = Clock()
    return Scheduler(limits, clock), clock


def send(queues: Scheduler[str], ticket: str, n: int, deadline_s: float = NEVER) -> None:
    queues.admit(ticket, n, deadline_s)
    queues.put(ticket, 0, np.arange(n))


def content(batch: Batch[str] | None) -> tuple[int, list[tuple[str, list[int]]]] | None:
    if batch is None:
        return None
    return batch.stage, [(part.ticket, part.rows.tolist()) for part in batch.parts]


def test_samples_of_several_requests_form_one_batch() -> None:
    queues, _ = scheduler(StageLimits(4))
    for ticket, n in (("a", 1), ("b", 2), ("c", 3)):
        send(queues, ticket, n)
    assert content(queues.take()) == (0, [("a", [0]), ("b", [0, 1]), ("c", [0])])
    assert content(queues.take()) == (0, [("c", [1, 2])])
    assert queues.take() is None


def test_survivors_of_several_requests_form_the_next_stages_batch() -> None:
    queues, _ = scheduler(StageLimits(2, max_queue_size=9), StageLimits(2, max_queue_delay_s=1))
    for ticket in "abcd":
        send(queues, ticket, 1)
    row = np.zeros(1, np.intp)
    assert content(queues.take()) == (0, [("a", [0]), ("b", [0])])
    queues.put("a", 1, row)  # b has left
    assert content(queues.take()) == (0, [("c", [0]), ("d", [0])])  # a may wait for them
    queues.put("d", 1, row)
    assert content(queues.take()) == (1, [("a", [0]), ("d", [0])])


def test_gears_have_queues_of_their_own_and_the_limits_in_common() -> None:
    clock = Clock()
    limits = (StageLimits(4, max_queue_size=5), StageLimits(4, max_queue_size=5))
    queues = Scheduler[str](limits, clock, n_stages=(2, 1))
    queues.admit("a", 2, NEVER, gear=0)
    queues.admit("b", 2, NEVER, gear=1)
    assert queues.n_waiting == (4, 0)
    assert queues.fill == 0.8
    assert not queues.has_room(2, gear=1)
    queues.put("a", 0, np.arange(2))
    queues.put("b", 0, np.arange(2))
    found = [queues.take() for _ in range(2)]
    assert sorted((batch.gear, batch.parts[0].ticket) for batch in found if batch) == [(0, "a"), (1, "b")]
    queues.put("a", 1, np.arange(1))
    assert content(queues.take()) == (1, [("a", [0])])  # nothing of its own gear could join
    assert queues.take() is None


def test_what_a_gear_takes_is_expected_by_its_cost_until_it_has_run() -> None:
    clock = Clock()
    queues = Scheduler[str]([StageLimits(4)], clock, n_stages=(1, 1), weights=(8.0, 2.0))
    queues.admit("a", 4, NEVER, gear=0)
    queues.put("a", 0, np.arange(4))
    assert queues.delay_s == 0  # nothing is known yet
    queues.take()
    queues.ran(4, 4.0)  # a second for each
    queues.drop("a")
    queues.admit("b", 3, NEVER, gear=1)
    assert queues.delay_s == 3 * 0.25
    # 0.75 s for what is here and a second or a quarter for another one, with half as much for caution.
    assert not queues.has_room(1, deadline_s=2.0, gear=0)
    assert queues.has_room(1, deadline_s=2.0, gear=1)
    queues.put("b", 0, np.arange(3))
    queues.take()
    queues.ran(3, 1.5)
    queues.drop("b")
    queues.admit("c", 4, NEVER, gear=1)
    assert queues.delay_s == 4 * 0.5


def test_a_full_later_stage_comes_before_an_earlier_one() -> None:
    queues, _ = scheduler(StageLimits(1), StageLimits(1), StageLimits(1))
    for stage, ticket in enumerate("abc"):
        queues.admit(ticket, 1, NEVER)
        queues.put(ticket, stage, np.zeros(1, np.intp))
    assert [content(queues.take())[0] for _ in range(3)] == [2, 1, 0]  # type: ignore[index]


def test_a_survivor_does_not_wait_when_nobody_can_join_it() -> None:
    queues, _ = scheduler(StageLimits(4), StageLimits(4, max_queue_delay_s=1))
    send(queues, "a", 1)
    queues.take()
    queues.put("a", 1, np.zeros(1, np.intp))
    assert content(queues.take()) == (1, [("a", [0])])


def test_a_survivor_waits_no_longer_than_its_stage_allows() -> None:
    queues, clock = scheduler(StageLimits(4, max_queue_delay_s=10), StageLimits(4, max_queue_delay_s=1))
    send(queues, "a", 1)
    clock.now_s = 10
    queues.take()
    queues.put("a", 1, np.zeros(1, np.intp))
    send(queues, "b", 1)
    assert queues.take() is None
    assert queues.wait_s() == 1
    clock.now_s = 11
    assert content(queues.take()) == (1, [("a", [0])])


def test_a_first_batch_waits_for_company_as_long_as_it_may() -> None:
    queues, clock = scheduler(StageLimits(2, max_queue_delay_s=0.5))
    send(queues, "a", 1)
    assert queues.take() is None
    clock.now_s = 0.25
    assert queues.wait_s() == 0.25
    send(queues, "b", 1)
    assert content(queues.take()) == (0, [("a", [0]), ("b", [0])])
    send(queues, "c", 1)
    clock.now_s = 0.75
    assert content(queues.take()) == (0, [("c", [0])])
    assert queues.wait_s() == NEVER - 0.75


def test_a_request_beyond_the_queue_is_refused_and_one_that_fits_is_not() -> None:
    queues, _ = scheduler(StageLimits(2, max_queue_size=3))
    queues.admit("a", 2, NEVER)  # being prepared: that counts
    with pytest.raises(QueueFull):
        queues.admit("b", 2, NEVER)
    queues.admit("c", 1, NEVER)
    assert not queues.has_room()
    queues.put("a", 0, np.arange(2))
    queues.take()
    assert queues.has_room(2)
    assert queues.n_waiting == (1,)


def test_a_full_later_queue_refuses_at_the_door() -> None:
    queues, _ = scheduler(StageLimits(2), StageLimits(2, max_queue_size=2))
    send(queues, "a", 2)
    queues.take()
    queues.announce("a", 1, 2)
    assert not queues.has_room()
    queues.put("a", 1, np.arange(2))
    assert not queues.has_room()
    queues.take()
    assert queues.has_room()


def test_a_request_that_would_be_answered_too_late_is_refused_at_once() -> None:
    queues, _ = scheduler(StageLimits(2))
    send(queues, "a", 2, deadline_s=1e-9)  # nothing waits: it is tried in any case
    queues.take()
    queues.ran(n_left=2, busy_s=0.2)  # 0.1 s each, and half as much again for caution
    send(queues, "b", 4)
    with pytest.raises(QueueFull):
        queues.admit("c", 1, deadline_s=0.7)
    queues.admit("c", 1, deadline_s=0.8)
    for _ in range(100):
        queues.ran(n_left=2, busy_s=0.02)  # it has become faster
    queues.admit("d", 1, deadline_s=0.7)


def test_where_answers_come_later_than_expected_more_is_refused_until_they_do_not() -> None:
    queues, clock = scheduler(StageLimits(1, max_queue_size=9))

    def answer(ticket: str, takes_s: float) -> None:
        """Say that its networks took 0.1 s, whatever else took time."""
        assert content(queues.take()) == (0, [(ticket, [0])])
        clock.now_s += takes_s
        queues.ran(1, 0.1)
        queues.drop(ticket)

    def n_taken() -> int:
        """Fill the queue with requests that have a second each, and take them out again."""
        n = 0
        while queues.has_room(deadline_s=clock.now_s + 1):
            send(queues, f"{clock.now_s} {n}", 1, clock.now_s + 1)
            n += 1
        return n

    send(queues, "first", 1)
    answer("first", 0.1)
    start_s = clock.now_s
    assert n_taken() == 6  # 1.5 x 0.1 s for each
    for k in range(5):
        answer(f"{start_s} {k}", 0.19)
    clock.now_s = start_s + 1
    assert queues.expire() == [f"{start_s} 5"]
    start_s = clock.now_s
    assert n_taken() == 4  # of the six, the last needed more than a second, 1.67 x 0.6 s, and 1.1 x that
    for _ in range(300):  # from now on as fast as expected
        for k in range(n_taken_before := queues.n_requests):
            answer(f"{start_s} {k}", 0.1)
        start_s = clock.now_s
        assert n_taken() >= n_taken_before
    assert queues.n_requests == 6


def test_what_is_running_is_reckoned_with() -> None:
    queues, _ = scheduler(StageLimits(2))
    send(queues, "a", 2)
    queues.take()
    queues.ran(n_left=2, busy_s=0.2)
    send(queues, "b", 3)
    queues.take()  # 2 are running, 1 waits
    with pytest.raises(QueueFull):
        queues.admit("c", 1, deadline_s=0.5)
    queues.admit("c", 1, deadline_s=0.7)


def test_a_request_that_was_given_up_leaves_the_queues() -> None:
    queues, _ = scheduler(StageLimits(2), StageLimits(2, max_queue_delay_s=1))
    for ticket in "ab":
        send(queues, ticket, 2)
    assert queues.drop("a")
    assert not queues.drop("a")
    assert content(queues.take()) == (0, [("b", [0, 1])])
    queues.put("a", 1, np.arange(2))  # its stage was running when it went
    assert queues.n_waiting == (0, 0)
    assert queues.n_requests == 1


def test_what_is_being_prepared_for_a_request_that_is_gone_is_not_waited_for() -> None:
    queues, _ = scheduler(StageLimits(2), StageLimits(2, max_queue_delay_s=1))
    send(queues, "a", 1)
    queues.take()
    queues.admit("b", 1, NEVER)
    queues.put("a", 1, np.zeros(1, np.intp))
    assert queues.take() is None
    queues.drop("b")
    assert content(queues.take()) == (1, [("a", [0])])


def test_requests_whose_time_is_over_are_named_once_and_not_run() -> None:
    queues, clock = scheduler(StageLimits(2, max_queue_delay_s=5))
    send(queues, "late", 1, deadline_s=1)
    send(queues, "answered", 1, deadline_s=2)
    queues.drop("answered")
    assert queues.wait_s() == 1
    assert queues.expire() == []
    clock.now_s = 3
    assert queues.expire() == ["late"]
    assert queues.expire() == []
    assert queues.take() is None
    assert queues.wait_s() is None


Request = tuple[int, int]  # samples, stages that each of them passes


@pytest.mark.slow
@given(
    requests=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2)), min_size=1, max_size=12),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    dropped=st.sets(st.integers(0, 11)),
)
def test_every_sample_passes_its_stages_once_in_order_and_no_batch_is_too_large(
    requests: list[Request], sizes: tuple[int, int, int], dropped: set[int]
) -> None:
    queues, clock = scheduler(*(StageLimits(size, 0.5, 100) for size in sizes))
    for i, (n, _) in enumerate(requests):
        send(queues, str(i), n)
    for i in dropped:
        queues.drop(str(i))
    seen: dict[tuple[str, int], list[int]] = {}
    while (wait_s := queues.wait_s()) is not None and wait_s < NEVER / 2:
        clock.now_s += wait_s
        batch = queues.take()
        if batch is None:
            continue
        assert 1 <= len(batch) <= sizes[batch.stage]
        for part in batch.parts:
            for row in part.rows.tolist():
                seen.setdefault((part.ticket, row), []).append(batch.stage)
            if batch.stage < requests[int(part.ticket)][1]:
                queues.put(part.ticket, batch.stage + 1, part.rows)
    assert queues.n_waiting == (0, 0, 0)
    expected = {
        (str(i), row): list(range(last + 1))
        for i, (n, last) in enumerate(requests)
        for row in range(n)
        if i not in dropped
    }
    assert seen == expected
