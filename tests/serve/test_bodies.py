import asyncio
from dataclasses import replace

import pytest

from encas.serve.bodies import Bodies
from encas.serve.limits import Limits
from encas.serve.refusals import Overloaded, SlowClient
from encas.serve.scheduler import StageLimits

TWO = Limits((StageLimits(max_batch_size=1, max_queue_size=1),), max_body_bytes=10)  # two requests, 80 bytes
THREE = replace(TWO, stages=(StageLimits(max_batch_size=1, max_queue_size=2),))


async def slow(bodies: Bodies, n_bytes: int = 0) -> None:
    with bodies.held() as held:
        async with bodies.coming(held):
            held.take(n_bytes)
            await asyncio.sleep(30)


async def begun(*clients: asyncio.Task[None]) -> None:
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(client.done() for client in clients)


def test_where_too_many_bodies_come_the_oldest_gives_way() -> None:
    async def main() -> None:
        bodies = Bodies(TWO)
        first, second = (asyncio.create_task(slow(bodies)) for _ in range(2))
        await begun(first, second)
        third = asyncio.create_task(slow(bodies))
        with pytest.raises(SlowClient):
            await first
        assert bodies.n_coming == 2
        await begun(second, third)
        second.cancel()
        third.cancel()

    asyncio.run(main())


def test_where_bodies_hold_too_much_the_largest_gives_way() -> None:
    async def main() -> None:
        bodies = Bodies(THREE)
        small, large = (asyncio.create_task(slow(bodies, n_bytes)) for n_bytes in (20, 50))
        await begun(small, large)
        with bodies.held() as held:
            async with bodies.coming(held):
                held.take(10)
                held.take(10)  # 90 with the others
                with pytest.raises(SlowClient):
                    await large
                await begun(small)
        small.cancel()

    asyncio.run(main())


def test_who_holds_the_most_is_refused_and_what_is_let_go_is_free_again() -> None:
    async def main() -> None:
        bodies = Bodies(TWO)
        for _ in range(3):
            with bodies.held() as held:
                async with bodies.coming(held):
                    held.take(80)
                    with pytest.raises(Overloaded):
                        held.take(1)
                with pytest.raises(Overloaded):
                    held.unpack(1)

    asyncio.run(main())


def test_a_body_that_does_not_come_is_given_up() -> None:
    async def main() -> None:
        bodies = Bodies(Limits(request_timeout_s=0.01))
        with pytest.raises(SlowClient):
            await slow(bodies)
        assert bodies.n_coming == 0

    asyncio.run(main())
