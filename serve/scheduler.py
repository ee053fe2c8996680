"""When and where the requests of a model are run."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.concurrency import run_in_threadpool

from encas.cascade import Answers
from encas.serve.model import Images

# What the app knows of running a model: it hands in one request's images and awaits their answers.
Infer = Callable[[Images], Awaitable[Answers]]


class Executor(Protocol):
    """What can run a batch; several threads may ask at once."""

    def run(self, images: Images) -> Answers:
        """Answer a batch."""
        ...


def one_by_one(executor: Executor) -> Infer:
    """Run every request by itself, as soon as it comes, in a thread of its own."""

    async def infer(images: Images) -> Answers:
        return await run_in_threadpool(executor.run, images)

    return infer
