"""The extension `model_repository`: which bundles there are, and loading and unloading them by name."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Body, FastAPI, Path
from starlette.concurrency import run_in_threadpool

from encas.errors import InvalidInput
from encas.files import FileModel
from encas.serve import openapi
from encas.serve.service import Service

ModelName = Annotated[str, Path(description="A name that the repository's index lists.")]


class IndexRequest(FileModel):
    """What is to be listed."""

    ready: bool = False  # only what can be asked


class IndexedModel(FileModel):
    """One version of a model in the repository."""

    name: str
    version: str
    state: str
    reason: str


class LoadRequest(FileModel):
    """Nothing that this server knows may be changed while loading."""

    parameters: Mapping[str, Any] | None = None


def add(app: FastAPI, service: Service) -> None:
    """Give an application these calls."""

    @app.post("/v2/repository/index", tags=["repository"])
    async def index(request: Annotated[IndexRequest | None, Body()] = None) -> tuple[IndexedModel, ...]:
        """List what is served, and what could be loaded."""
        entries = await run_in_threadpool(service.models.index)
        only_ready = request is not None and request.ready
        return tuple(
            IndexedModel(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
            for entry in entries
            if entry.state == "READY" or not only_ready
        )

    @app.post("/v2/repository/models/{model}/load", tags=["repository"], responses=openapi.LOAD)
    async def load(model: ModelName, request: Annotated[LoadRequest | None, Body()] = None) -> None:
        """Serve the newest version that the repository has of a model, instead of what is served now.

        What is served now answers until then, and goes on if the new version cannot be loaded.
        """
        if request is not None and request.parameters:
            raise InvalidInput(
                f"parameters: {', '.join(map(str, request.parameters))[:80]}: a model is loaded as it is; "
                "send none"
            )
        await service.load(model)

    @app.post("/v2/repository/models/{model}/unload", tags=["repository"], responses=openapi.LOAD)
    async def unload(model: ModelName, request: Annotated[LoadRequest | None, Body()] = None) -> None:  # noqa: ARG001
        """Serve a model no more, once it has answered what it has accepted."""
        await service.unload(model)
