"""A server of the Open Inference Protocol, of any make, that is asked over HTTP; standard library only."""

import base64
import http.client
import json
import math
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from encas.errors import InvalidInput

HEADER_LENGTH = "Inference-Header-Content-Length"
# A zero, drawn by hand: what a model that takes encoded images is shown.
IMAGE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAARklEQVR42gXBYRVAMBgAwHt7/vsiaGCaLIJGIqyCBp4EI4E1"
    "III7lLYFaG99i0Gelh55T+LqbpI4GUm+WeQP01PqAdZW8QOg+BHx1aT2vAAAAABJRU5ErkJggg=="
)
CODES = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
_MOST_BYTES = 64 * 2**20  # of an answer


@dataclass(frozen=True)
class Answer:
    """What a server has answered."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        """Read the body, or the JSON before raw tensors."""
        length = self.headers.get(HEADER_LENGTH.lower())
        return json.loads(self.body if length is None else self.body[: int(length)])


class Call(Protocol):
    """Asks a server, and returns whatever comes."""

    def __call__(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Ask."""
        ...


class Peer:
    """The server that is asked."""

    def __init__(self, url: str, model: str | None = None, timeout_s: float = 30.0) -> None:
        """Know the server.

        Args:
            url: Of its root, as http://host:8000.
            model: To be asked; by default the first one that the server lists.
            timeout_s: For each call.
        """
        self._url, self._timeout_s = url.rstrip("/"), timeout_s
        self.model = model or self._first_model()
        answer = self.call("GET", f"/v2/models/{self.model}")
        if answer.status != 200:
            raise InvalidInput(f"{url}: has no model '{self.model}' (status {answer.status})")
        self.metadata: dict[str, Any] = answer.json()

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask, and return whatever comes.

        Raises:
            InvalidInput: Nothing comes.
        """
        request = urllib.request.Request(self._url + path, body, dict(headers or {}), method=method)
        if body is not None and not request.has_header("Content-type"):
            request.add_header("Content-type", "")  # as clients of the protocol, who send none
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as reply:
                return _answer(reply)
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise InvalidInput(f"{self._url}: does not answer: {reason}") from None

    @contextmanager
    def connection(self) -> Iterator[Call]:
        """Ask over one connection that is kept, so that one of a server's processes answers everything."""
        place = urlsplit(self._url)
        kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
        with closing(kind(place.netloc, timeout=self._timeout_s)) as kept:

            def call(method: str, path: str, body: bytes | None = None) -> Answer:
                try:
                    kept.request(method, place.path + path, body)
                    return _answer(kept.getresponse())
                except (OSError, http.client.HTTPException) as error:
                    raise InvalidInput(f"{self._url}: does not answer: {error}") from None

            yield call

    def infer(self, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask the model."""
        return self.call("POST", f"/v2/models/{self.model}/infer", body, headers)

    @property
    def extensions(self) -> list[str]:
        """What the server says that it has besides."""
        found = self.call("GET", "/v2")
        extensions = found.json().get("extensions", []) if found.status == 200 else []
        return extensions if isinstance(extensions, list) else []

    def inputs(self) -> list[tuple[dict[str, Any], bytes]]:
        """Make the head of each input, and its raw tensor."""
        made = []
        for entry in self.metadata.get("inputs", []):
            shape = [1 if size < 0 else size for size in entry["shape"]]
            n = math.prod(shape)
            if entry["datatype"] == "BYTES":
                raw = b"".join(struct.pack("<I", len(IMAGE)) + IMAGE for _ in range(n))
            else:
                raw = bytes(n * struct.calcsize("<" + CODES[entry["datatype"]]))
            made.append(({"name": entry["name"], "datatype": entry["datatype"], "shape": shape}, raw))
        return made

    def json_request(self, **fields: Any) -> bytes:
        """Write a request whose data are in the JSON."""
        inputs = []
        for head, raw in self.inputs():
            if head["datatype"] == "BYTES":
                data: list[Any] = [base64.b64encode(IMAGE).decode()] * math.prod(head["shape"])
            else:
                data = [0] * (len(raw) // struct.calcsize("<" + CODES[head["datatype"]]))
            inputs.append({**head, "data": data})
        return json.dumps({"inputs": inputs, **fields}).encode()

    def raw_request(self, **fields: Any) -> tuple[bytes, dict[str, str]]:
        """Write a request whose data are behind the JSON."""
        made = self.inputs()
        inputs = [{**head, "parameters": {"binary_data_size": len(raw)}} for head, raw in made]
        text = json.dumps({"inputs": inputs, **fields}).encode()
        return text + b"".join(raw for _, raw in made), {HEADER_LENGTH: str(len(text))}

    def _first_model(self) -> str:
        for method, path in (("GET", "/v2/models"), ("POST", "/v2/repository/index")):
            answer = self.call(method, path, None if method == "GET" else b"{}")
            if answer.status != 200:
                continue
            found = answer.json()
            names = found.get("models", []) if isinstance(found, dict) else [one["name"] for one in found]
            if names:
                return str(names[0])
        raise InvalidInput(f"{self._url}: lists no models; name one with --model")


def _answer(reply: Any) -> Answer:
    headers = {name.lower(): value for name, value in reply.headers.items()}
    return Answer(reply.status, headers, reply.read(_MOST_BYTES))
