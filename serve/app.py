"""The web application: the Open Inference Protocol over REST, and what people and monitors ask besides."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

import encas
from encas.bundle import Bundle
from encas.errors import EncasError
from encas.runtime.executor import CascadeExecutor
from encas.serve import openapi, predict, repository, routes, web
from encas.serve.access import Tokens
from encas.serve.alarms import Alarms
from encas.serve.engine import StageExecutor
from encas.serve.front import Door, InferFront, error_headers
from encas.serve.limits import Limits
from encas.serve.live import Live
from encas.serve.metrics import Metrics
from encas.serve.models import Start
from encas.serve.protocol import encode_error
from encas.serve.refusals import FAILED, message_of, status_of
from encas.serve.service import Observer, Service
from encas.serve.statistics import Statistics

_log = logging.getLogger("encas.serve")

Loaded = Callable[[Exception | None], None]


def log_loaded(failure: Exception | None) -> None:
    """Tell the log that a bundle could not be loaded."""
    if failure is not None:
        _log.error("a bundle could not be loaded: %s", failure)


def log_failure(error: Exception) -> None:
    """Tell the log what the server failed on."""
    _log.error("a request failed", exc_info=error)


def create_app(
    bundles: Sequence[Bundle],
    *,
    load: Callable[[Bundle], StageExecutor] = CascadeExecutor,
    loaded: Loaded = log_loaded,
    limits: Limits | None = None,
    repository_path: Path | None = None,
    overload_status: int = 503,
    tokens: Tokens | None = None,
    observers: Sequence[Observer] = (),
    start: Start | None = None,
) -> FastAPI:
    """Make the application; it loads the bundles when a server starts it, and is live meanwhile.

    What answers the requests is then `app.state.service`.

    Args:
        bundles: Of different names or versions.
        load: Opens a bundle for running; called in a thread.
        loaded: Called once in the event loop, with what went wrong or None when everything is ready.
        limits: Sizes, times and how requests are batched.
        repository_path: Folder of bundles that clients may load by name.
        overload_status: Of HTTP, where there are too many requests: 503 or 429.
        tokens: One of which every request must bring, except those after the server's health.
        observers: Told of every request and batch, besides metrics and statistics.
        start: See `Service`; `load` is then not called.

    Raises:
        InvalidInput: No bundle, or two of one name and version.
    """
    statistics, metrics, live = Statistics(), Metrics(), Live()
    alarms = Alarms((limits or Limits()).drift_rate)
    service = Service(
        bundles,
        load,
        limits=limits,
        repository=repository_path,
        observers=(statistics, metrics, live, alarms, *observers),
        start=start,
    )
    metrics.watch(service, alarms.of)
    alarms.watch(service)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_load(service, loaded))
        yield
        await asyncio.wait([task])
        await asyncio.to_thread(service.close)

    app = FastAPIOffline(
        title="encas",
        version=encas.__version__,
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_parameters={"validatorUrl": None},  # nothing is asked of anybody outside
        static_url="/docs-files",
        redirect_slashes=False,
        responses=openapi.ANY_ERROR,
    )
    app.state.service, app.state.statistics, app.state.metrics = service, statistics, metrics
    _add_errors(app, overload_status)
    routes.add(app, service, statistics, metrics)
    repository.add(app, service)
    predict.add(app, service)
    web.add(app, service, live, alarms)
    app.add_middleware(InferFront, service=service, overload_status=overload_status, failed=log_failure)
    if tokens is not None and tokens.digests:
        app.add_middleware(Door, service=service, tokens=tokens)  # added last: it comes first
    openapi.complete(app)
    return app


async def _load(service: Service, loaded: Loaded) -> None:
    try:
        await run_in_threadpool(service.models.load_all)
    except Exception as error:
        loaded(error)
    else:
        loaded(None)


def _add_errors(app: FastAPI, overload_status: int) -> None:
    async def refuse(_request: Request, error: Exception) -> Response:
        headers = {name.decode(): value.decode() for name, value in error_headers(error)}
        return _error(status_of(error, overload_status), message_of(error), headers)

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return _error(400, f"{place}: {first['msg']}", {"encas-reason": "invalid"})

    async def gone(_request: Request, _error_of: Exception) -> Response:
        return _error(499, "the client went away")  # nobody will read it

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, AnyHTTPException)
        message = {
            "Not Found": f"no such path: {request.url.path[:200]}; GET /docs lists those that there are",
            "Method Not Allowed": f"{request.method[:20]} does not work on {request.url.path[:200]}",
        }.get(error.detail, error.detail)
        return _error(error.status_code, message, dict(error.headers or {}))

    async def crashed(_request: Request, error: Exception) -> Response:
        # Starlette raises the error once more for the log, and the server then drops the connection.
        return _error(500, message_of(error), {"Connection": "close", "encas-reason": FAILED.reason})

    app.add_exception_handler(EncasError, refuse)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(AnyHTTPException, http_error)
    app.add_exception_handler(Exception, crashed)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    content = encode_error(" ".join(message.splitlines()))
    return Response(content, status, media_type="application/json", headers=headers)
