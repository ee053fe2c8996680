"""The Open Inference Protocol over gRPC, on the same models as REST, in the same event loop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from encas.bundle import Bundle
from encas.errors import InvalidInput, TooLarge
from encas.serve.access import Certificate, Tokens
from encas.serve.front import REASON, REQUEST_ID, TRACE_HEADERS
from encas.serve.grpc_guard import Door, check_parts, read_message
from encas.serve.grpc_messages import CALLS, SERVICE, message
from encas.serve.grpc_protocol import read_request, write_response
from encas.serve.model import INPUT, outputs_for
from encas.serve.models import Model
from encas.serve.protocol import InferRequest
from encas.serve.refusals import FAILED, Refusal, kind_of, message_of
from encas.serve.routes import describe
from encas.serve.service import EXTENSIONS, Question, Service
from encas.serve.statistics import ModelStatistics, Statistics

_log = logging.getLogger("encas.serve")
_OVERHEAD_BYTES = 65_536  # of a message, besides what counts as the body
_MOST_STREAMS = 256  # of one connection
_MOST_METADATA_BYTES = 65_536  # as the head of a request of HTTP
_HEAVY_BYTES = 16_384  # of numbers one by one, which are read in a thread

Handler = Callable[[Any, Any], Awaitable[Any]]


class GrpcServer:
    """Runs while the event loop does."""

    def __init__(
        self,
        service: Service,
        statistics: Statistics,
        *,
        reuse_port: bool = False,
        tokens: Tokens | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        """Make the server; `start` opens its port.

        Args:
            service: Answers.
            statistics: Of the same service.
            reuse_port: Whether other processes listen on the same port.
            tokens: One of which every call must bring, except those of the health service.
            certificate: For TLS.
        """
        most = service.limits.max_body_bytes + _OVERHEAD_BYTES
        self._service, self._certificate = service, certificate
        self._server = grpc.aio.server(
            interceptors=[Door(tokens, _refuse_counted(service))] if tokens and tokens.digests else [],
            options=[
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", int(reuse_port)),
                ("grpc.max_concurrent_streams", _MOST_STREAMS),
                ("grpc.max_metadata_size", _MOST_METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", _MOST_METADATA_BYTES),
            ],
        )
        calls = _Calls(service, statistics)
        handlers: dict[str, Any] = {
            # As if of a stream: a message is read when there is room for it, and not waited for for ever.
            name: grpc.stream_unary_rpc_method_handler(
                _guarded(_reading(name, getattr(calls, name), service)),
                response_serializer=message(f"{name}Response").SerializeToString,
            )
            for name in CALLS
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port.

        Raises:
            InvalidInput: The address cannot be had.
        """
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            found = self._add_port(place)
        except RuntimeError:
            found = 0
        if not found:
            raise InvalidInput(
                f"cannot listen for gRPC on {host}, port {port}; choose another with --grpc-port"
            )
        await self.tell()
        await self._server.start()
        return found

    def _add_port(self, place: str) -> int:
        if self._certificate is None:
            return self._server.add_insecure_port(place)
        pair = self._certificate.key.read_bytes(), self._certificate.chain.read_bytes()
        return self._server.add_secure_port(place, grpc.ssl_server_credentials([pair]))

    async def tell(self) -> None:
        """Let the health service say what is true now."""
        kinds = health_pb2.HealthCheckResponse
        status = kinds.SERVING if self._service.ready else kinds.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)

    async def stop(self, grace_s: float) -> None:
        """Answer what was accepted, for so long."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


def _guarded(handler: Handler) -> Handler:
    """Turn errors into the statuses of gRPC."""

    async def guarded(request: Any, context: Any) -> Any:
        try:
            return await handler(request, context)
        except Exception as error:
            if isinstance(error, grpc.RpcError):
                raise
            if kind_of(error) is FAILED:
                _log.error("a request failed", exc_info=error)
            await _refuse(context, error)

    return guarded


async def _refuse(context: Any, error: Exception) -> None:
    kind = kind_of(error)
    await context.abort(getattr(grpc.StatusCode, kind.grpc), message_of(error), ((REASON, kind.reason),))


def _refuse_counted(service: Service) -> Callable[[Any, Exception], Awaitable[None]]:
    async def refuse(context: Any, error: Exception) -> None:
        with suppress(type(error)), service.observed(Question("grpc", "", None)):
            raise error
        await _refuse(context, error)

    return refuse


def _reading(name: str, handler: Handler, service: Service) -> Handler:
    """Give a handler the message that comes."""
    kind = message(f"{name}Request")

    def parsed(content: bytes) -> Any:
        if name != "ModelInfer" and len(content) > _OVERHEAD_BYTES:
            raise TooLarge(f"request: has {len(content)} bytes; at most {_OVERHEAD_BYTES} are taken")
        check_parts(name, content)
        try:
            return kind.FromString(content)
        except DecodeError:
            raise InvalidInput("request: no message of protobuf") from None

    async def read(messages: Any, context: Any) -> Any:
        with service.bodies.held() as held:
            content = await read_message(messages, service.bodies, held)
            if len(content) > _HEAVY_BYTES:
                request = await asyncio.get_running_loop().run_in_executor(service.pool, parsed, content)
            else:
                request = parsed(content)
            del content
            return await handler(request, context)

    return read


class _Calls:
    """One method for each call, named as the protocol names it."""

    def __init__(self, service: Service, statistics: Statistics) -> None:
        self._service, self._statistics = service, statistics

    async def ServerLive(self, _request: Any, _context: Any) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, _request: Any, _context: Any) -> Any:
        return message("ServerReadyResponse")(ready=self._service.ready)

    async def ModelReady(self, request: Any, _context: Any) -> Any:
        try:
            self._service.models.engine(request.name, request.version or None)
        except (InvalidInput, Refusal):
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=True)

    async def ServerMetadata(self, _request: Any, _context: Any) -> Any:
        return message("ServerMetadataResponse")(
            name="encas", version=self._service.version, extensions=EXTENSIONS
        )

    async def ModelMetadata(self, request: Any, _context: Any) -> Any:
        found = describe(self._service, request.name, request.version or None)
        return message("ModelMetadataResponse")(**found.model_dump(mode="json"))

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        traced = {name: headers[name] for name in TRACE_HEADERS if name in headers}
        question = Question(
            "grpc",
            request.model_name,
            request.model_version or None,
            headers.get(REQUEST_ID, "") or request.id,
            traced,
            context.time_remaining(),
        )

        def parse(bundle: Bundle) -> InferRequest:
            return read_request(request, input_name=INPUT, output_names=tuple(outputs_for(bundle)))

        with self._service.observed(question) as seen:
            self._service.check(question.model, question.version)
            heavy = not request.raw_input_contents and request.ByteSize() > _HEAVY_BYTES
            answer = seen.answer = await self._service.infer(question, parse, heavy=heavy)
        return write_response(answer.request, answer.bundle.name, answer.bundle.file.version, answer.outputs)

    async def RepositoryIndex(self, request: Any, _context: Any) -> Any:
        response = message("RepositoryIndexResponse")()
        for entry in await asyncio.to_thread(self._service.models.index):
            if entry.state == "READY" or not request.ready:
                response.models.add(
                    name=entry.name, version=entry.version, state=entry.state, reason=entry.reason
                )
        return response

    async def RepositoryModelLoad(self, request: Any, _context: Any) -> Any:
        if request.parameters:
            raise InvalidInput("parameters: a model is loaded as it is; send none")
        await self._service.load(request.model_name)
        return message("RepositoryModelLoadResponse")()

    async def RepositoryModelUnload(self, request: Any, _context: Any) -> Any:
        await self._service.unload(request.model_name)
        return message("RepositoryModelUnloadResponse")()

    async def ModelStatistics(self, request: Any, _context: Any) -> Any:
        models = self._service.models.all()
        if request.name:
            self._service.models.find(request.name, request.version or None)
            models = tuple(model for model in models if _is_asked(model, request))
        response = message("ModelStatisticsResponse")()
        for model in models:
            response.model_stats.add(**_without_stages(self._statistics.of(model.bundle)))
        return response


def _is_asked(model: Model, request: Any) -> bool:
    return model.bundle.name == request.name and request.version in ("", model.bundle.file.version)


def _without_stages(statistics: ModelStatistics) -> dict[str, Any]:
    return statistics.model_dump(exclude={"stage_stats"})
