"""The extension `model_repository`: which bundles there are, and loading and unloading them by name."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Path, Request
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool

from encas.errors import InvalidInput
from encas.files import FileModel, parse_model
from encas.serve import openapi
from encas.serve.front import read_body
from encas.serve.service import Service

_MOST_BYTES = 65_536
Body = TypeVar("Body", bound=FileModel)
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

    @app.post("/v2/repository/index", tags=["repository"], **_documented(IndexRequest, openapi.INVALID))
    async def index(request: Request) -> tuple[IndexedModel, ...]:
        """List what is served, and what could be loaded."""
        wanted = await _body(request, IndexRequest, service)
        entries = await run_in_threadpool(service.models.index)
        return tuple(
            IndexedModel(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
            for entry in entries
            if entry.state == "READY" or not wanted.ready
        )

    @app.post(
        "/v2/repository/models/{model}/load", tags=["repository"], **_documented(LoadRequest, openapi.LOAD)
    )
    async def load(model: ModelName, request: Request) -> None:
        """Serve the newest version that the repository has of a model, instead of what is served now.

        What is served now answers until then, and goes on if the new version cannot be loaded.
        """
        parameters = (await _body(request, LoadRequest, service)).parameters
        if parameters:
            raise InvalidInput(
                f"parameters: {', '.join(map(str, parameters))[:80]}: a model is loaded as it is; send none"
            )
        await service.load(model)

    @app.post(
        "/v2/repository/models/{model}/unload", tags=["repository"], **_documented(LoadRequest, openapi.LOAD)
    )
    async def unload(model: ModelName, request: Request) -> None:
        """Serve a model no more, once it has answered what it has accepted."""
        await _body(request, LoadRequest, service)
        await service.unload(model)


def _documented(model: type[FileModel], responses: openapi.Responses) -> dict[str, Any]:
    schema = {"application/json": {"schema": model.model_json_schema()}}
    return {"responses": responses, "openapi_extra": {"requestBody": {"content": schema}}}


async def _body(request: Request, model: type[Body], service: Service) -> Body:
    """Read a small body, whatever its content type; none is the default."""
    with service.bodies.held() as held:
        content = await read_body(request.receive, request.headers, _MOST_BYTES, service.bodies, held)
    try:
        return parse_model(from_json(content or b"{}"), model, "request")
    except ValueError as error:
        raise InvalidInput(f"request: not JSON: {error}") from None
