"""Why a request is not answered: each reason with its word for machines and its statuses."""

from dataclasses import dataclass

from encas.errors import EncasError, InvalidInput, TooLarge


class UnknownModel(InvalidInput):
    """No such model, or no such version of it."""


class UnknownEncoding(InvalidInput):
    """A content encoding that this server does not read."""


class Refusal(EncasError):
    """The request was sound, and is not answered now."""


class Overloaded(Refusal):
    """A queue is full."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} has more requests than it can answer; ask again later")


class Unauthorized(Refusal):
    """No token that opens this server."""

    def __init__(self) -> None:
        super().__init__("this server needs a token, as 'Authorization: Bearer TOKEN'")


class NotReady(Refusal):
    """A model is still loading, or could not be loaded."""


class ShuttingDown(Refusal):
    """The server, or a model, is being stopped."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is being stopped; ask again")


class DeadlinePassed(Refusal):
    """The answer would have come too late."""

    def __init__(self, model: str, timeout_s: float | None = None) -> None:
        limit = "" if timeout_s is None else f" within {timeout_s:g} s"
        super().__init__(f"model '{model}' did not answer{limit}")


class SlowClient(Refusal):
    """The body did not come in time."""


class ClientGone(Refusal):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Kind:
    """What an error is called over the wire."""

    reason: str  # for machines
    status: int  # of HTTP
    grpc: str  # name of a grpc.StatusCode
    retry_after_s: int | None = None


OK = Kind("ok", 200, "OK")
FAILED = Kind("failed", 500, "INTERNAL")
# The first that fits counts.
_KINDS: tuple[tuple[type[Exception], Kind], ...] = (
    (UnknownModel, Kind("unknown_model", 404, "NOT_FOUND")),
    (UnknownEncoding, Kind("unknown_encoding", 415, "INVALID_ARGUMENT")),
    (TooLarge, Kind("too_large", 413, "RESOURCE_EXHAUSTED")),
    (InvalidInput, Kind("invalid", 400, "INVALID_ARGUMENT")),
    (Overloaded, Kind("queue_full", 503, "RESOURCE_EXHAUSTED", 1)),
    (Unauthorized, Kind("unauthorized", 401, "UNAUTHENTICATED")),
    (NotReady, Kind("not_ready", 503, "UNAVAILABLE", 1)),
    (ShuttingDown, Kind("shutting_down", 503, "UNAVAILABLE", 1)),
    (DeadlinePassed, Kind("deadline", 504, "DEADLINE_EXCEEDED")),
    (SlowClient, Kind("slow_client", 408, "DEADLINE_EXCEEDED")),
    (ClientGone, Kind("cancelled", 499, "CANCELLED")),
)


def kind_of(error: Exception) -> Kind:
    """Classify what went wrong."""
    return next((kind for known, kind in _KINDS if isinstance(error, known)), FAILED)


def status_of(error: Exception, overload_status: int) -> int:
    """Return the status of HTTP; where there are too many requests, users choose it."""
    kind = kind_of(error)
    return overload_status if kind.reason == "queue_full" else kind.status


def message_of(error: Exception) -> str:
    """Say in one line what a client may know of it."""
    if kind_of(error) is FAILED:
        return "the server failed on this request; its log says why"
    return " ".join(str(error).splitlines())
