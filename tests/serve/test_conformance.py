"""The protocol's sentences, asked of our server and of one that breaks some of them."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from encas.errors import InvalidInput
from encas.serve.conformance import SENTENCES, check
from encas.serve.peer import Peer

if TYPE_CHECKING:
    from tests.conftest import Served


def test_our_server_keeps_every_sentence(served: "Served") -> None:
    verdicts = list(check(Peer(served.url)))
    assert [verdict for verdict in verdicts if not verdict.kept] == []
    assert len(verdicts) == len(SENTENCES)


@pytest.mark.slow
def test_several_processes_behind_one_port_keep_every_sentence_again_and_again(
    bundle_path: Path, start_server: "Callable[..., AbstractContextManager[Served]]"
) -> None:
    with start_server(bundle_path, "--provider", "cpu", "--workers", "2") as server:
        for _ in range(10):
            assert [verdict for verdict in check(Peer(server.url)) if not verdict.kept] == []


METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "p",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
}
OUTPUT = {"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}
ANSWERS: dict[tuple[str, str], tuple[int, object]] = {
    ("GET", "/v2"): (200, {"name": "other", "version": "1", "extensions": []}),
    ("GET", "/v2/models"): (200, {"models": ["m"]}),
    ("GET", "/v2/models/m"): (200, METADATA),
    ("GET", "/v2/models/m/ready"): (200, {"name": "m", "ready": True}),
    ("GET", "/v2/health/live"): (200, {"alive": True}),
    ("GET", "/v2/health/ready"): (200, {"ready": True}),
    ("POST", "/v2/models/m/infer"): (200, {"model_name": "m", "model_version": "1", "outputs": [OUTPUT]}),
}


class Careless(BaseHTTPRequestHandler):
    """Answers everything alike: it forgets ids, and wrong requests do not trouble it."""

    def _reply(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, body = ANSWERS.get((self.command, self.path), (404, {"detail": "Not Found"}))
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _reply

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def careless() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Careless) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_a_careless_server_is_found_out(careless: str) -> None:
    verdicts = {verdict.sentence: verdict for verdict in check(Peer(careless))}
    assert verdicts["a JSON request is answered with all outputs"].kept
    assert verdicts["outputs have the datatypes and shapes of the metadata"].kept
    for sentence in (
        'its body is {"live": true}',
        "an unknown model is 404 with an error",
        "the id of a request comes back",
        "what is no JSON is 400 with an error",
        "a version has metadata and answers",
    ):
        assert verdicts[sentence].kept is False, sentence
    assert verdicts["raw tensors are taken behind the JSON"].kept is None
    assert verdicts["the id of a request comes back"].found == "id None"


def test_where_nobody_answers_one_line_says_so() -> None:
    with pytest.raises(InvalidInput, match=r"http://127\.0\.0\.1:9: does not answer"):
        Peer("http://127.0.0.1:9")
