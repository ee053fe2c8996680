"""Which sentences of the Open Inference Protocol a server keeps: asks it, and reads what it answers.

It knows nothing of encas: the model's metadata say what a request must look like.
"""

import gzip
import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from encas.serve.peer import CODES, HEADER_LENGTH, IMAGE, Answer, Peer


@dataclass(frozen=True)
class Verdict:
    """One sentence, and whether the server keeps it."""

    section: str
    sentence: str
    kept: bool | None  # None: it does not say that it has this extension
    found: str


class Broken(Exception):
    """A sentence is not kept."""


def check(peer: Peer) -> Iterator[Verdict]:
    """Ask about one sentence after the other."""
    extensions = peer.extensions
    for section, needs, sentence, keeps in SENTENCES:
        if needs is not None and needs not in extensions:
            yield Verdict(section, sentence, None, f"the extension {needs} is not listed")
            continue
        try:
            found = keeps(peer)
        except Broken as broken:
            yield Verdict(section, sentence, False, str(broken))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error) as error:
            yield Verdict(section, sentence, False, f"the answer has another form: {error!r}"[:200])
        else:
            yield Verdict(section, sentence, True, found or "")


def _expect(condition: bool, found: str) -> None:
    if not condition:
        raise Broken(found)


def _ok(answer: Answer) -> Any:
    _expect(answer.status == 200, f"status {answer.status}: {answer.body[:120]!r}")
    return answer.json()


def _is_error(answer: Answer, *statuses: int) -> str:
    _expect(answer.status in statuses, f"status {answer.status}")
    body = answer.json()
    _expect(isinstance(body, dict) and isinstance(body.get("error"), str), f"body {answer.body[:120]!r}")
    return f"status {answer.status}"


def _live(peer: Peer) -> str:
    answer = peer.call("GET", "/v2/health/live")
    _expect(answer.status == 200, f"status {answer.status}")
    return ""


def _live_body(peer: Peer) -> str:
    _expect(_ok(peer.call("GET", "/v2/health/live")) == {"live": True}, "another body")
    return ""


def _ready(peer: Peer) -> str:
    _expect((status := peer.call("GET", "/v2/health/ready").status) == 200, f"status {status}")
    return ""


def _model_ready(peer: Peer) -> str:
    body = _ok(peer.call("GET", f"/v2/models/{peer.model}/ready"))
    _expect(body.get("name") == peer.model and body.get("ready") is True, f"body {body}")
    return ""


def _unknown_ready(peer: Peer) -> str:
    return _is_error(peer.call("GET", "/v2/models/no-such-model/ready"), 404)


def _server_metadata(peer: Peer) -> str:
    body = _ok(peer.call("GET", "/v2"))
    fits = all(isinstance(body.get(name), kind) for name, kind in _SERVER_FIELDS.items())
    _expect(fits, f"body {body}")
    return f"{body['name']} {body['version']}"


_SERVER_FIELDS: dict[str, type] = {"name": str, "version": str, "extensions": list}


def _metadata(peer: Peer) -> str:
    body = peer.metadata
    _expect(body.get("name") == peer.model, f"name {body.get('name')!r}")
    _expect(isinstance(body.get("platform"), str), "no platform")
    for tensor in [*body["inputs"], *body["outputs"]]:
        known = tensor["datatype"] in CODES or tensor["datatype"] in ("BYTES", "BF16")
        _expect(known and all(isinstance(size, int) for size in tensor["shape"]), f"tensor {tensor}")
    return f"{len(body['inputs'])} inputs, {len(body['outputs'])} outputs"


def _unknown_metadata(peer: Peer) -> str:
    return _is_error(peer.call("GET", "/v2/models/no-such-model"), 404)


def _version(peer: Peer) -> str:
    versions = peer.metadata.get("versions") or []
    _expect(bool(versions), "the metadata lists no versions")
    body = _ok(peer.call("GET", f"/v2/models/{peer.model}/versions/{versions[0]}"))
    _expect(body.get("name") == peer.model, f"body {body}")
    _ok(peer.call("POST", f"/v2/models/{peer.model}/versions/{versions[0]}/infer", peer.json_request()))
    return f"version {versions[0]}"


def _unknown_version(peer: Peer) -> str:
    return _is_error(peer.call("GET", f"/v2/models/{peer.model}/versions/no-such-version"), 404)


def _infer(peer: Peer) -> str:
    body = _ok(peer.infer(peer.json_request()))
    _expect(body.get("model_name") == peer.model, f"model_name {body.get('model_name')!r}")
    names = {tensor["name"] for tensor in body["outputs"]}
    wanted = {tensor["name"] for tensor in peer.metadata["outputs"]}
    _expect(names == wanted, f"outputs {sorted(names)}, the metadata promise {sorted(wanted)}")
    return ""


def _shapes(peer: Peer) -> str:
    promised = {tensor["name"]: tensor for tensor in peer.metadata["outputs"]}
    for tensor in _ok(peer.infer(peer.json_request()))["outputs"]:
        said = promised[tensor["name"]]
        fits = len(said["shape"]) == len(tensor["shape"]) and all(
            a in (-1, b) for a, b in zip(said["shape"], tensor["shape"], strict=True)
        )
        _expect(fits and tensor["datatype"] == said["datatype"], f"{tensor['name']}: {tensor['shape']}")
        if "data" in tensor:
            _expect(_count(tensor["data"]) == math.prod(tensor["shape"]), f"{tensor['name']}: another count")
    return ""


def _count(data: Any) -> int:
    return sum(map(_count, data)) if isinstance(data, list) else 1


def _id(peer: Peer) -> str:
    _expect((found := _ok(peer.infer(peer.json_request(id="a-1"))).get("id")) == "a-1", f"id {found!r}")
    return ""


def _wanted(peer: Peer) -> str:
    last = peer.metadata["outputs"][-1]["name"]
    body = _ok(peer.infer(peer.json_request(outputs=[{"name": last}])))
    _expect([tensor["name"] for tensor in body["outputs"]] == [last], "other outputs")
    return ""


def _unknown_model(peer: Peer) -> str:
    return _is_error(peer.call("POST", "/v2/models/no-such-model/infer", peer.json_request()), 400, 404)


def _not_json(peer: Peer) -> str:
    return _is_error(peer.infer(b"no JSON"), 400)


def _wrong_input(peer: Peer) -> str:
    request = json.loads(peer.json_request())
    request["inputs"][0]["name"] = "no-such-input"
    return _is_error(peer.infer(json.dumps(request).encode()), 400)


def _wrong_count(peer: Peer) -> str:
    request = json.loads(peer.json_request())
    request["inputs"][0]["data"] = request["inputs"][0]["data"] * 2
    return _is_error(peer.infer(json.dumps(request).encode()), 400)


def _wrong_output(peer: Peer) -> str:
    return _is_error(peer.infer(peer.json_request(outputs=[{"name": "no-such-output"}])), 400)


def _raw_in(peer: Peer) -> str:
    body, headers = peer.raw_request()
    _ok(peer.infer(body, headers))
    return ""


def _raw_out(peer: Peer) -> str:
    body, headers = peer.raw_request(parameters={"binary_data_output": True})
    answer = peer.infer(body, headers)
    head = _ok(answer)
    length = answer.headers.get(HEADER_LENGTH.lower())
    _expect(length is not None, f"no {HEADER_LENGTH} in the answer")
    sizes = [tensor["parameters"]["binary_data_size"] for tensor in head["outputs"]]
    _expect(int(length or 0) + sum(sizes) == len(answer.body), f"sizes {sizes} of {len(answer.body)} bytes")
    return f"{sum(sizes)} bytes of tensors"


def _raw_one(peer: Peer) -> str:
    outputs = [tensor["name"] for tensor in peer.metadata["outputs"]]
    wanted = [{"name": name, "parameters": {"binary_data": name == outputs[0]}} for name in outputs]
    body, headers = peer.raw_request(outputs=wanted)
    forms = ["data" in tensor for tensor in _ok(peer.infer(body, headers))["outputs"]]
    _expect(forms == [False] + [True] * (len(outputs) - 1), "other forms than were asked for")
    return ""


def _raw_alone(peer: Peer) -> str:
    if len(peer.metadata["inputs"]) != 1:
        raise Broken("the model has several inputs")
    (head, raw) = peer.inputs()[0]
    _ok(peer.infer(IMAGE if head["datatype"] == "BYTES" else raw, {HEADER_LENGTH: "0"}))
    return ""


def _raw_short(peer: Peer) -> str:
    body, headers = peer.raw_request()
    return _is_error(peer.infer(body[:-1], headers), 400)


def _packed(peer: Peer) -> str:
    _ok(peer.infer(gzip.compress(peer.json_request()), {"Content-Encoding": "gzip"}))
    return ""


def _index(peer: Peer) -> str:
    entries = _ok(peer.call("POST", "/v2/repository/index", b"{}"))
    _expect(any(entry["name"] == peer.model for entry in entries), f"{len(entries)} entries without it")
    return f"{len(entries)} entries"


def _statistics(peer: Peer) -> str:
    path = f"/v2/models/{peer.model}"
    with peer.connection() as call:

        def count() -> int:
            (found, *_) = _ok(call("GET", f"{path}/stats"))["model_stats"]
            return int(found["inference_stats"]["success"]["count"])

        before = count()
        _ok(call("POST", f"{path}/infer", peer.json_request()))
        _expect(count() > before, "a request was not counted")
    return ""


# Section, the extension that it belongs to, the sentence, and what asks for it.
SENTENCES: tuple[tuple[str, str | None, str, Callable[[Peer], str]], ...] = (
    ("health", None, "a live server answers 200", _live),
    ("health", None, 'its body is {"live": true}', _live_body),
    ("health", None, "a ready server answers 200", _ready),
    ("health", None, "a ready model answers 200 with its name", _model_ready),
    ("health", None, "an unknown model is not ready: 404 with an error", _unknown_ready),
    ("metadata", None, "the server tells name, version and extensions", _server_metadata),
    ("metadata", None, "a model tells name, platform, inputs and outputs", _metadata),
    ("metadata", None, "an unknown model is 404 with an error", _unknown_metadata),
    ("versions", None, "a version has metadata and answers", _version),
    ("versions", None, "an unknown version is 404 with an error", _unknown_version),
    ("inference", None, "a JSON request is answered with all outputs", _infer),
    ("inference", None, "outputs have the datatypes and shapes of the metadata", _shapes),
    ("inference", None, "the id of a request comes back", _id),
    ("inference", None, "only the outputs that are named come", _wanted),
    ("errors", None, "an unknown model is an error with a line of text", _unknown_model),
    ("errors", None, "what is no JSON is 400 with an error", _not_json),
    ("errors", None, "an unknown input is 400 with an error", _wrong_input),
    ("errors", None, "data that do not fit the shape are 400 with an error", _wrong_count),
    ("errors", None, "an unknown output is 400 with an error", _wrong_output),
    ("binary", "binary_tensor_data", "raw tensors are taken behind the JSON", _raw_in),
    ("binary", "binary_tensor_data", "binary_data_output makes all outputs raw, their sizes told", _raw_out),
    ("binary", "binary_tensor_data", "binary_data decides for each output", _raw_one),
    ("binary", "binary_tensor_data", f"{HEADER_LENGTH}: 0 makes the body the input", _raw_alone),
    ("binary", "binary_tensor_data", "too few bytes are 400 with an error", _raw_short),
    ("binary", "binary_tensor_data", "a body may be packed with gzip", _packed),
    ("repository", "model_repository", "the index lists the model", _index),
    ("statistics", "statistics", "the statistics count a request", _statistics),
)
