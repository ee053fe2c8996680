"""What is refused, and how the client hears of it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray

from encas.bundle import Bundle
from encas.runtime.executor import CascadeExecutor
from encas.serve import Limits, create_app
from encas.serve.scheduler import StageLimits
from encas.serve.server import listening
from encas.serve.service import Observer, Record

if TYPE_CHECKING:
    from tests.conftest import Served

WAIT_S = 30.0
INFER = "/v2/models/digits/infer"
BODY = {"inputs": [{"name": "image", "shape": [1, 2, 2], "datatype": "UINT8", "data": [0, 9, 9, 0]}]}


class Held(CascadeExecutor):
    """Runs when it is let."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, "cpu")
        self.started, self.gate = threading.Event(), threading.Event()

    def run_stage(self, stage: int, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        self.started.set()
        assert self.gate.wait(WAIT_S)
        return super().run_stage(stage, tensor)


class Records(Observer):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.seen: list[Record] = []
        self.heard = threading.Condition()

    def finished(self, record: Record) -> None:
        with self.heard:
            self.seen.append(record)
            self.heard.notify_all()

    def wait_for(self, reason: str) -> Record:
        with self.heard:
            found = self.heard.wait_for(
                lambda: next((r for r in self.seen if r.kind.reason == reason), None), WAIT_S
            )
        assert found is not None
        return found


Start = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def held(bundle: Bundle) -> Held:
    return Held(bundle)


@pytest.fixture
def start(bundle: Bundle, held: Held) -> Start:
    """Start an application whose first batch is held."""

    @contextmanager
    def started(**options: Any) -> Iterator[httpx.Client]:
        ready = threading.Event()
        app = create_app([bundle], load=lambda _bundle: held, loaded=lambda _failure: ready.set(), **options)
        with listening("127.0.0.1", 0) as listener:
            server = uvicorn.Server(uvicorn.Config(app, lifespan="on", ws="none", log_level=100))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            try:
                assert ready.wait(WAIT_S)
                with httpx.Client(base_url=url, timeout=WAIT_S) as client:
                    yield client
            finally:
                held.gate.set()
                server.should_exit = True
                thread.join(WAIT_S)

    return started


@pytest.mark.slow
@pytest.mark.parametrize("status", [503, 429])
def test_a_full_queue_refuses_at_once_with_a_reason_and_a_time(status: int, held: Held, start: Start) -> None:
    limits = Limits((StageLimits(1, max_queue_size=1),))
    with start(limits=limits, overload_status=status) as client, ThreadPoolExecutor() as threads:
        accepted = [threads.submit(client.post, INFER, json=BODY)]
        assert held.started.wait(WAIT_S)
        # One of these two finds room in the queue.
        pair = [threads.submit(client.post, INFER, json=BODY) for _ in range(2)]
        done, _ = wait(pair, WAIT_S, FIRST_COMPLETED)
        (refused,) = done
        answer = refused.result()
        accepted += [one for one in pair if one is not refused]
        assert answer.status_code == status
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["encas-reason"] == "queue_full"
        assert "more requests than it can answer" in answer.json()["error"]
        assert client.post("/predict", content=b"x").status_code == status
        held.gate.set()
        assert [one.result(WAIT_S).status_code for one in accepted] == [200, 200]


@pytest.mark.slow
def test_an_answer_that_would_come_too_late_is_a_504(start: Start) -> None:
    with start(limits=Limits(request_timeout_s=0.2)) as client:
        answer = client.post(INFER, json=BODY)
        assert answer.status_code == 504
        assert answer.headers["encas-reason"] == "deadline"
        assert answer.json() == {"error": "model 'digits' did not answer within 0.2 s"}


@pytest.mark.slow
def test_a_body_that_does_not_come_is_a_408(start: Start) -> None:
    with (
        start(limits=Limits(request_timeout_s=0.2)) as client,
        socket.create_connection((client.base_url.host, client.base_url.port or 0)) as slow,
    ):
        slow.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode())
        slow.settimeout(WAIT_S)
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


@pytest.mark.slow
@pytest.mark.parametrize("drop", [b"x", b"\r\n"])
def test_a_head_that_comes_drop_by_drop_is_a_408_and_others_are_served_meanwhile(
    served: "Served", drop: bytes
) -> None:
    url = httpx.URL(served.url)
    with socket.create_connection((url.host, url.port)) as connection:
        connection.settimeout(0.5)
        if drop == b"x":
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\na: ")
        said, deadline_s = b"", time.monotonic() + 30
        while not said:
            assert time.monotonic() < deadline_s
            connection.sendall(drop)
            with suppress(TimeoutError):
                said = connection.recv(1000)
        assert said.startswith(b"HTTP/1.1 408 ") and b"encas-reason: slow_client" in said
    assert httpx.get(f"{served.url}/v2/health/live").status_code == 200


@pytest.mark.slow
def test_a_connection_whose_head_comes_in_pieces_is_answered_and_kept(served: "Served") -> None:
    url = httpx.URL(served.url)
    with socket.create_connection((url.host, url.port)) as connection:
        for _ in range(3):
            for piece in (b"GET /v2/health", b"/live HTTP/1.1\r\nhost", b": x\r\n", b"\r\n"):
                connection.sendall(piece)
                time.sleep(0.05)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [False, True])
def test_a_connection_may_be_idle_after_a_body_that_was_answered_before_it_came(
    served: "Served", chunked: bool
) -> None:
    url = httpx.URL(served.url)
    length, body = (
        (b"Transfer-Encoding: chunked", b"2\r\nxx\r\n0\r\n\r\n") if chunked else (b"Content-Length: 2", b"xx")
    )
    with socket.create_connection((url.host, url.port)) as connection:
        connection.settimeout(WAIT_S)
        connection.sendall(b"POST /v2/models/none/infer HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 404 ")
        connection.sendall(body)
        time.sleep(11)  # longer than a head may take
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
def test_a_head_that_does_not_end_is_a_431(served: "Served") -> None:
    url, said = httpx.URL(served.url), b""
    with socket.create_connection((url.host, url.port or 0)) as endless:
        endless.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nX-Long: ")
        endless.settimeout(WAIT_S)
        with suppress(ConnectionError):  # what still comes when a connection is closed resets it
            for _ in range(1000):
                endless.sendall(b"a" * 2**16)
            pytest.fail("64 MB of a head were taken")
        with suppress(ConnectionError):
            said = endless.recv(100)
    assert said == b"" or said.startswith(b"HTTP/1.1 431 ")
    short = httpx.get(served.url + "/v2/health/ready", headers={"X-Short": "a" * 60_000})
    assert short.status_code == 200


@pytest.mark.slow
def test_a_client_that_goes_away_is_not_computed_for(held: Held, start: Start) -> None:
    records = Records()
    with start(observers=[records]) as client, ThreadPoolExecutor() as threads:
        first = threads.submit(client.post, INFER, json=BODY)
        assert held.started.wait(WAIT_S)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(client.base_url.join(INFER), json=BODY, timeout=0.2)
        assert records.wait_for("cancelled").version == ""
        held.gate.set()
        assert first.result(WAIT_S).status_code == 200
        stats = client.get("/v2/models/digits/stats").json()["model_stats"][0]
        assert (stats["inference_count"], stats["stage_stats"][0]["reached"]) == (1, 1)


@pytest.mark.slow
def test_too_large_an_image_and_too_large_a_batch_are_413(held: Held, start: Start) -> None:
    held.gate.set()
    many = {"name": "image", "shape": [9, 2, 2], "datatype": "UINT8", "data": [0, 9, 9, 0] * 9}
    with start(limits=Limits((StageLimits(max_queue_size=8),))) as client:
        answer = client.post(INFER, json={"inputs": [many]})
        assert (answer.status_code, answer.headers["encas-reason"]) == (413, "too_large")
        assert "the request has 9 samples; the queue of 'digits' takes 8" in answer.json()["error"]
