"""The web application: the paths of the Open Inference Protocol over REST."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

import encas
from encas.bundle import Bundle
from encas.errors import InvalidInput
from encas.files import FileModel
from encas.runtime.executor import CascadeExecutor
from encas.serve import openapi
from encas.serve.model import INPUT, OUTPUTS, Images, ModelMetadata, images_of, metadata_of, outputs_of
from encas.serve.models import Load, Models
from encas.serve.protocol import (
    HEADER_LENGTH,
    InferRequest,
    TooLarge,
    UnknownEncoding,
    decompress,
    encode_error,
    encode_response,
    parse_request,
)

MAX_BODY_BYTES = 64 * 2**20
_log = logging.getLogger("uvicorn.error")  # where the server writes

Loaded = Callable[[Exception | None], None]
ModelName = Annotated[str, Path(description="A name that GET /v2/models lists.")]
Version = Annotated[str, Path(description="A version that the model's metadata lists.")]


class Live(FileModel):
    """The process answers."""

    live: bool


class Ready(FileModel):
    """All models are loaded."""

    ready: bool


class ModelReady(FileModel):
    """One model is loaded."""

    name: str
    ready: bool


class ModelList(FileModel):
    """Names of the models."""

    models: tuple[str, ...]


class ServerMetadata(FileModel):
    """What this server is."""

    name: str
    version: str
    extensions: tuple[str, ...]


def log_failure(failure: Exception | None) -> None:
    """Tell the log that a bundle could not be loaded."""
    if failure is not None:
        _log.error("a bundle could not be loaded: %s", failure)


def create_app(
    bundles: Sequence[Bundle],
    *,
    load: Load = CascadeExecutor,
    loaded: Loaded = log_failure,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> FastAPI:
    """Make the application; it loads the bundles when a server starts it, and is live meanwhile.

    Args:
        bundles: With different names.
        load: Opens a bundle for running; called in a thread.
        loaded: Called once in the event loop, with what went wrong or None when everything is ready.
        max_body_bytes: The largest body, as sent and unpacked.

    Raises:
        InvalidInput: No bundle, or two of one name.
    """
    models = Models(bundles)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_load(models, load, loaded))
        yield
        await asyncio.wait([task])

    app = FastAPI(
        title="encas",
        version=encas.__version__,
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        responses=openapi.ANY_ERROR,
    )
    _add_errors(app)
    _add_health(app, models)
    _add_metadata(app, models)
    _add_infer(app, models, max_body_bytes)
    openapi.complete(app)
    return app


async def _load(models: Models, load: Load, loaded: Loaded) -> None:
    try:
        await run_in_threadpool(models.load, load)
    except Exception as error:
        models.failure = str(error)
        loaded(error)
    else:
        loaded(None)


def _add_errors(app: FastAPI) -> None:
    async def refuse(_request: Request, error: Exception) -> Response:
        statuses: dict[type[Exception], int] = {TooLarge: 413, UnknownEncoding: 415}
        return _error(statuses.get(type(error), 400), str(error))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, AnyHTTPException)
        message = {
            "Not Found": f"no such path: {request.url.path[:200]}; GET /docs lists those that there are",
            "Method Not Allowed": f"{request.method[:20]} does not work on {request.url.path[:200]}",
        }.get(error.detail, error.detail)
        return _error(error.status_code, message, error.headers)

    async def crashed(_request: Request, _exception: Exception) -> Response:
        # Starlette raises the error once more for the log, and the server then drops the connection.
        headers = {"Connection": "close"}
        return _error(500, "the server failed on this request; its log says why", headers)

    app.add_exception_handler(InvalidInput, refuse)
    app.add_exception_handler(RequestValidationError, refuse)
    app.add_exception_handler(ClientDisconnect, refuse)  # nobody will read it
    app.add_exception_handler(AnyHTTPException, http_error)
    app.add_exception_handler(Exception, crashed)


def _add_health(app: FastAPI, models: Models) -> None:
    @app.get("/v2/health/live", tags=["health"])
    async def live() -> Live:
        """Say that the process answers."""
        return Live(live=True)

    @app.get("/v2/health/ready", tags=["health"], responses=openapi.LOADING)
    async def ready() -> Ready:
        """Say whether every model can be asked; 503 while they are loading."""
        if not models.ready:
            raise models.not_ready("the server")
        return Ready(ready=True)

    @app.get("/v2/models/{model}/ready", tags=["health"], responses=openapi.UNKNOWN | openapi.LOADING)
    async def model_ready(model: ModelName) -> ModelReady:
        """Say whether a model can be asked; 503 while it is loading."""
        models.find(model, None)
        models.infer(model)
        return ModelReady(name=model, ready=True)

    @app.get(
        "/v2/models/{model}/versions/{version}/ready",
        tags=["health"],
        responses=openapi.UNKNOWN | openapi.LOADING,
    )
    async def version_ready(model: ModelName, version: Version) -> ModelReady:
        """Say whether a version of a model can be asked."""
        models.find(model, version)
        return await model_ready(model)


def _add_metadata(app: FastAPI, models: Models) -> None:
    @app.get("/v2", tags=["metadata"])
    async def server_metadata() -> ServerMetadata:
        """Say what this server is, and which extensions of the protocol it knows."""
        return ServerMetadata(name="encas", version=encas.__version__, extensions=("binary_tensor_data",))

    @app.get("/v2/models", tags=["metadata"])
    async def model_list() -> ModelList:
        """List the models."""
        return ModelList(models=tuple(models.bundles))

    @app.get("/v2/models/{model}", tags=["metadata"], responses=openapi.UNKNOWN)
    async def model_metadata(model: ModelName) -> ModelMetadata:
        """Describe a model's inputs and outputs; -1 in a shape is any number."""
        return metadata_of(models.find(model, None))

    @app.get("/v2/models/{model}/versions/{version}", tags=["metadata"], responses=openapi.UNKNOWN)
    async def version_metadata(model: ModelName, version: Version) -> ModelMetadata:
        """Describe a version of a model."""
        return metadata_of(models.find(model, version))


def _add_infer(app: FastAPI, models: Models, max_body_bytes: int) -> None:
    @app.post("/v2/models/{model}/infer", tags=["inference"], **openapi.INFER)
    async def infer(model: ModelName, request: Request) -> Response:
        """Classify images."""
        return await _answer(models, model, None, request, max_body_bytes)

    @app.post("/v2/models/{model}/versions/{version}/infer", tags=["inference"], **openapi.INFER)
    async def version_infer(model: ModelName, version: Version, request: Request) -> Response:
        """Classify images with a version of a model."""
        return await _answer(models, model, version, request, max_body_bytes)


async def _answer(
    models: Models, name: str, version: str | None, request: Request, max_body_bytes: int
) -> Response:
    """Answer an inference request; what grows with the body is done in threads, not in the event loop."""
    bundle = models.find(name, version)
    infer = models.infer(name)
    body = await _body(request, max_body_bytes)

    def read() -> tuple[InferRequest, Images]:
        plain = decompress(body, request.headers.get("content-encoding"), max_body_bytes)
        header_length = request.headers.get(HEADER_LENGTH)
        parsed = parse_request(plain, header_length, input_name=INPUT, output_names=tuple(OUTPUTS))
        return parsed, images_of(parsed.input, bundle)

    parsed, images = await run_in_threadpool(read)
    answers = await infer(images)

    def write() -> tuple[bytes, int | None]:
        return encode_response(parsed, bundle.name, bundle.file.version, outputs_of(answers, bundle))

    content, header_length = await run_in_threadpool(write)
    if header_length is None:
        return Response(content, media_type="application/json")
    return Response(
        content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(header_length)}
    )


async def _body(request: Request, max_bytes: int) -> bytes:
    """Read the body as it is, whatever its content type: clients of the protocol send none."""
    said = request.headers.get("content-length", "")
    chunks, n_bytes = [], int(said) if said.isdigit() else 0
    if n_bytes <= max_bytes:
        n_bytes = 0
        async for chunk in request.stream():
            chunks.append(chunk)
            n_bytes += len(chunk)
            if n_bytes > max_bytes:
                break
    if n_bytes > max_bytes:
        raise TooLarge(f"the body has {n_bytes} bytes or more; at most {max_bytes} are taken")
    return b"".join(chunks)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    content = encode_error(" ".join(message.splitlines()))
    return Response(content, status, media_type="application/json", headers=dict(headers or {}))
