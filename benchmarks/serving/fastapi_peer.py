"""The same cascade behind FastAPI: python fastapi_peer.py fastapi|whole BUNDLE PORT.

fastapi: a plain handler that runs each request by itself in a thread.
whole: FastAPI with a batcher that runs the whole cascade on whatever waits: batching as most servers do it.
"""

import asyncio
import sys
from pathlib import Path

import numpy as np
from fastapi import FastAPI, Request

from encas.bundle import Bundle
from encas.runtime import CascadeExecutor

MAX_BATCH = 32


def decoded(kind: str, body: bytes, bundle: Bundle) -> object:
    """An encoded image, or a prepared tensor of one or more samples."""
    if kind == "jpeg":
        return body
    return np.frombuffer(body, np.float32).reshape(-1, *bundle.stage_members[0].preprocess.shape)


def run(executor: CascadeExecutor, inputs: list) -> list[dict]:
    """Run inputs of one kind together; each gets its answers."""
    if isinstance(inputs[0], bytes):
        answers, sizes = executor.run(inputs), [1] * len(inputs)
    else:
        answers = executor.run(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
        sizes = [len(one) for one in inputs]
    found, start = [], 0
    for size in sizes:
        rows = slice(start, start + size)
        start += size
        found.append(
            {
                "class": answers.label[rows].tolist(),
                "confidence": answers.confidence[rows].tolist(),
                "exit_stage": answers.exit_stage[rows].tolist(),
                "macs": answers.macs[rows].tolist(),
                "probs": answers.probs[rows].tolist(),
            }
        )
    return found


def fastapi(bundle_path: Path, port: int, *, batched: bool) -> None:
    import uvicorn  # noqa: PLC0415

    app, executor = FastAPI(), CascadeExecutor(bundle_path, "cpu")
    waiting: list[tuple[object, asyncio.Future]] = []
    running = False

    async def drain() -> None:
        nonlocal running
        running = True
        while waiting:
            batch = waiting[:MAX_BATCH]
            del waiting[:MAX_BATCH]
            found = await asyncio.to_thread(run, executor, [one for one, _ in batch])
            for (_, future), answer in zip(batch, found, strict=True):
                future.set_result(answer)
        running = False

    @app.post("/{kind}")
    async def infer(kind: str, request: Request) -> dict:
        one = decoded(kind, await request.body(), executor.bundle)
        if not batched:
            return (await asyncio.to_thread(run, executor, [one]))[0]
        future = asyncio.get_running_loop().create_future()
        waiting.append((one, future))
        if not running:
            task = asyncio.create_task(drain())
            app.state.task = task
        return await future

    @app.get("/health")
    async def health() -> dict:
        return {}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    server, path, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    fastapi(path, number, batched=server == "whole")
