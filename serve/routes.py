"""The calls of the protocol that say what is there: health, metadata, statistics; and the metrics."""

from typing import Annotated, Any

from fastapi import FastAPI, Path, Response

from encas.files import FileModel
from encas.serve import openapi
from encas.serve.metrics import Metrics
from encas.serve.model import ModelMetadata, metadata_of
from encas.serve.models import Model, not_ready
from encas.serve.refusals import ShuttingDown
from encas.serve.service import EXTENSIONS, Service
from encas.serve.statistics import ModelStatistics, Statistics

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


class StatisticsList(FileModel):
    """Statistics of the versions that were asked for."""

    model_stats: tuple[ModelStatistics, ...]


def add(app: FastAPI, service: Service, statistics: Statistics, metrics: Metrics) -> None:
    """Give an application these calls."""
    _add_health(app, service)
    _add_statistics(app, service, statistics, metrics)  # before the models: one could be named "stats"
    _add_metadata(app, service)
    _add_infer(app)


def describe(service: Service, name: str, version: str | None = None) -> ModelMetadata:
    """Describe a model, or one version of it."""
    model = service.models.find(name, version)
    versions = service.models.versions(name) if version is None else (version,)
    return metadata_of(model.bundle).model_copy(update={"versions": versions})


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/v2/health/live", tags=["health"])
    async def live() -> Live:
        """Say that the process answers."""
        return Live(live=True)

    @app.get("/v2/health/ready", tags=["health"], responses=openapi.LOADING)
    async def ready() -> Ready:
        """Say whether every model can be asked; 503 while they are loading, and before the server stops."""
        if service.draining:
            raise ShuttingDown("the server")
        if not service.models.ready:
            raise not_ready("the server", service.models.failure())
        return Ready(ready=True)

    @app.get("/v2/models/{model}/ready", tags=["health"], responses=openapi.UNKNOWN | openapi.LOADING)
    async def model_ready(model: ModelName) -> ModelReady:
        """Say whether a model can be asked; 503 while it is loading."""
        service.models.engine(model)
        return ModelReady(name=model, ready=True)

    @app.get(
        "/v2/models/{model}/versions/{version}/ready",
        tags=["health"],
        responses=openapi.UNKNOWN | openapi.LOADING,
    )
    async def version_ready(model: ModelName, version: Version) -> ModelReady:
        """Say whether a version of a model can be asked."""
        service.models.engine(model, version)
        return ModelReady(name=model, ready=True)


def _add_metadata(app: FastAPI, service: Service) -> None:
    @app.get("/v2", tags=["metadata"])
    async def server_metadata() -> ServerMetadata:
        """Say what this server is, and which extensions of the protocol it knows."""
        return ServerMetadata(name="encas", version=service.version, extensions=EXTENSIONS)

    @app.get("/v2/models", tags=["metadata"])
    async def model_list() -> ModelList:
        """List the models."""
        return ModelList(models=service.models.names)

    @app.get("/v2/models/{model}", tags=["metadata"], responses=openapi.UNKNOWN)
    async def model_metadata(model: ModelName) -> ModelMetadata:
        """Describe a model's inputs and outputs; -1 in a shape is any number."""
        return describe(service, model)

    @app.get("/v2/models/{model}/versions/{version}", tags=["metadata"], responses=openapi.UNKNOWN)
    async def version_metadata(model: ModelName, version: Version) -> ModelMetadata:
        """Describe a version of a model."""
        return describe(service, model, version)


def _add_statistics(app: FastAPI, service: Service, statistics: Statistics, metrics: Metrics) -> None:
    def of(models: tuple[Model, ...]) -> StatisticsList:
        return StatisticsList(model_stats=tuple(statistics.of(model.bundle) for model in models))

    @app.get("/v2/models/stats", tags=["statistics"])
    async def all_statistics() -> StatisticsList:
        """Count what every model has done since the server started."""
        return of(service.models.all())

    @app.get("/v2/models/{model}/stats", tags=["statistics"], responses=openapi.UNKNOWN)
    async def model_statistics(model: ModelName) -> StatisticsList:
        """Count what the versions of a model have done."""
        service.models.find(model)
        return of(tuple(found for found in service.models.all() if found.bundle.name == model))

    @app.get("/v2/models/{model}/versions/{version}/stats", tags=["statistics"], responses=openapi.UNKNOWN)
    async def version_statistics(model: ModelName, version: Version) -> StatisticsList:
        """Count what a version of a model has done."""
        return of((service.models.find(model, version),))

    text: dict[str, Any] = {"content": {"text/plain": {"schema": {"type": "string"}}}}

    @app.get(
        "/metrics",
        tags=["statistics"],
        response_class=Response,
        responses={200: {"description": "Prometheus's text format.", **text}},
    )
    async def prometheus() -> Response:
        """Give the metrics to Prometheus."""
        return Response(metrics.text(), headers={"content-type": metrics.content_type})


def _add_infer(app: FastAPI) -> None:
    """Document what `encas.serve.front` answers before these functions are reached."""

    @app.post("/v2/models/{model}/infer", tags=["inference"], **openapi.INFER)
    async def infer(model: ModelName) -> Response:
        """Classify images."""
        raise AssertionError(model)

    @app.post("/v2/models/{model}/versions/{version}/infer", tags=["inference"], **openapi.INFER)
    async def version_infer(model: ModelName, version: Version) -> Response:
        """Classify images with a version of a model."""
        raise AssertionError(model, version)
