"""From start to stop, under load: nothing that was accepted is lost, and every answer is right."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from encas.bundle import Bundle, BundleFile
from encas.files import read_model, write_model
from encas.runtime.executor import CascadeExecutor

if TYPE_CHECKING:
    from tests.conftest import Digits, Served

StartServer = Callable[..., AbstractContextManager["Served"]]
WAIT_S = 120.0  # a busy machine takes its time to start processes


@dataclass
class Load:
    """Clients that ask one after the other, each on a connection that it keeps, until they are stopped."""

    url: str
    images: NDArray[np.uint8]
    expected: NDArray[np.intp]
    n_clients: int = 4
    n_answers: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)
    tolerant: bool = False  # of connections that break: the process at the other end is killed

    def _ask(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        client = httpx.Client(base_url=self.url, timeout=WAIT_S)
        n_on_connection = 0
        while not self.stop.is_set():
            rows = rng.integers(len(self.images), size=rng.integers(1, 4))
            body = self.images[rows]
            tensor = {
                "name": "image",
                "shape": body.shape,
                "datatype": "UINT8",
                "data": body.ravel().tolist(),
            }
            outputs = [{"name": "class"}]
            try:
                answer = client.post("/v2/models/digits/infer", json={"inputs": [tensor], "outputs": outputs})
            except httpx.ConnectError as error:
                self.refused.append(repr(error))
                time.sleep(0.01)
                continue
            except httpx.TransportError as error:
                # A connection that was never accepted may be reset when the listener closes.
                (self.refused if self.tolerant or n_on_connection == 0 else self.wrong).append(repr(error))
                n_on_connection = 0
                client.close()
                client = httpx.Client(base_url=self.url, timeout=WAIT_S)
                continue
            n_on_connection = 0 if answer.headers.get("connection") == "close" else n_on_connection + 1
            if answer.status_code != 200:
                self.wrong.append(answer.text)
                continue
            self.n_answers += 1
            self.versions.add(answer.json()["model_version"])
            if answer.json()["outputs"][0]["data"] != self.expected[rows].tolist():
                self.wrong.append("another answer than the executor's")
        client.close()

    def __enter__(self) -> "Load":
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(self.n_clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def wait_for(self, n_more: int) -> None:
        """Wait until so many more answers have come."""
        until, deadline_s = self.n_answers + n_more, time.monotonic() + WAIT_S
        while self.n_answers < until:
            assert time.monotonic() < deadline_s, (self.n_answers, self.wrong, self.refused[-3:])
            time.sleep(0.01)


@pytest.fixture
def load(bundle: Bundle, digits: "Digits") -> Callable[..., Load]:
    images = digits.images[digits.test][:100]
    with CascadeExecutor(bundle, "cpu") as executor:
        expected = executor.run(images).label

    def make(url: str, **options: Any) -> Load:
        return Load(url, images, expected, **options)

    return make


@pytest.fixture
def repository(bundle_path: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    shutil.copytree(bundle_path, folder / "first")
    return folder


def add_version(repository: Path, version: str) -> Path:
    """Put another version of the digits beside the first, in one step."""
    path, hidden = repository / f"v{version}", repository / f".v{version}"
    shutil.copytree(repository / "first", hidden)
    file = read_model(hidden / "bundle.json", BundleFile)
    write_model(hidden / "bundle.json", file.model_copy(update={"version": version}).sealed())
    hidden.rename(path)
    return path


class TestRepository:
    @pytest.mark.slow
    def test_a_newer_version_takes_the_place_of_the_older_one(
        self, repository: Path, start_server: StartServer
    ) -> None:
        with (
            start_server("--repository", repository, "--provider", "cpu") as server,
            httpx.Client(base_url=server.url, timeout=WAIT_S) as http,
        ):

            def index(**body: Any) -> list[tuple[str, str, str]]:
                entries = http.post("/v2/repository/index", json=body).json()
                return [(entry["name"], entry["version"], entry["state"]) for entry in entries]

            assert index() == [("digits", "1", "READY")]
            add_version(repository, "2")
            assert index() == [("digits", "1", "READY"), ("digits", "2", "UNAVAILABLE")]
            assert http.post("/v2/repository/models/digits/load").status_code == 200
            assert index(ready=True) == [("digits", "2", "READY")]
            assert http.get("/v2/models/digits").json()["versions"] == ["2"]
            assert http.get("/v2/models/digits/versions/1").status_code == 404
            broken = add_version(repository, "10")  # newer than 2
            (broken / "labels.json").write_text("{}")
            answer = http.post("/v2/repository/models/digits/load")
            assert answer.status_code == 400
            assert "labels.json: changed since it was exported" in answer.json()["error"]
            assert http.get("/v2/models/digits").json()["versions"] == ["2"]
            assert http.post("/v2/repository/models/letters/load").status_code == 404
            answer = http.post("/v2/repository/models/digits/load", json={"parameters": {"config": "{}"}})
            assert answer.status_code == 400
            assert http.post("/v2/repository/models/digits/unload").status_code == 200
            assert http.get("/v2/models/digits/ready").status_code == 404
            assert http.get("/v2/models").json() == {"models": []}
            shutil.rmtree(broken)
            assert http.post("/v2/repository/models/digits/load").status_code == 200
            assert http.get("/v2/models/digits/ready").status_code == 200

    @pytest.mark.slow
    def test_fifty_versions_are_loaded_under_load_and_every_answer_names_its_own(
        self, repository: Path, start_server: StartServer, load: Callable[..., Load]
    ) -> None:
        with (
            start_server("--repository", repository, "--provider", "cpu") as server,
            load(server.url) as asked,
        ):
            for version in range(2, 52):
                path = add_version(repository, str(version))
                answer = httpx.post(f"{server.url}/v2/repository/models/digits/load", timeout=WAIT_S)
                assert answer.status_code == 200, answer.text
                asked.wait_for(1)
                if version > 2:
                    shutil.rmtree(path.with_name(f"v{version - 1}"))
        assert (asked.wrong, asked.refused) == ([], [])
        assert len(asked.versions) >= 40
        assert asked.versions <= {str(version) for version in range(1, 52)}


def heard(event: threading.Event, failure: Exception | None) -> None:
    assert failure is None
    event.set()


class TestStopping:
    @pytest.mark.slow
    def test_twenty_signals_under_load_lose_nothing_that_was_accepted(
        self, bundle_path: Path, start_server: StartServer, load: Callable[..., Load]
    ) -> None:
        for i in range(20):
            with start_server(bundle_path, "--provider", "cpu") as server, load(server.url) as asked:
                asked.wait_for(5 + 3 * i)
                server.process.terminate()
                assert server.process.wait(WAIT_S) == 0
            assert asked.wrong == []
            assert asked.refused  # it did listen no more

    @pytest.mark.slow
    def test_it_is_not_ready_before_it_stops_listening_and_sends_clients_away(
        self, bundle_path: Path, start_server: StartServer
    ) -> None:
        with (
            start_server(bundle_path, "--provider", "cpu") as server,
            httpx.Client(base_url=server.url) as http,
        ):
            assert http.get("/v2/health/ready").status_code == 200
            server.process.terminate()
            deadline_s = time.monotonic() + WAIT_S
            while (answer := httpx.get(f"{server.url}/v2/health/ready")).status_code == 200:
                assert time.monotonic() < deadline_s
            assert answer.status_code == 503
            assert answer.headers["encas-reason"] == "shutting_down"
            assert answer.headers["connection"] == "close"
            body = {
                "inputs": [{"name": "image", "shape": [1, 2, 2], "datatype": "UINT8", "data": [0, 9, 9, 0]}]
            }
            answer = http.post("/v2/models/digits/infer", json=body)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def wait_until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Processes that a supervisor has started and that serve."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (folder / "cmdline").read_bytes()
        except (OSError, IndexError):  # it is gone
            continue
        if parent == process.pid and b"spawn_main" in command:
            found.append(int(folder.name))
    return found


class TestWorkers:
    @pytest.fixture
    def server(self, repository: Path, start_server: StartServer) -> Iterator["Served"]:
        options = ("--repository", repository, "--provider", "cpu", "--workers", "2", "--grpc-port", "0")
        with start_server(*options, complaints=True) as served:
            yield served

    @pytest.mark.slow
    def test_a_worker_that_dies_is_replaced_and_nothing_wrong_is_answered(
        self, server: "Served", load: Callable[..., Load]
    ) -> None:
        with load(server.url, tolerant=True) as asked:
            asked.wait_for(20)
            before = workers_of(server.process)
            assert len(before) == 2
            killed_s = time.monotonic()
            os.kill(before[0], signal.SIGKILL)
            while not (after := workers_of(server.process)) or len(after) < 2 or before[0] in after:
                assert time.monotonic() - killed_s < 5
                time.sleep(0.02)
            asked.wait_for(200)
        assert asked.wrong == []
        assert len(asked.refused) <= asked.n_clients  # at most the one that each of them had under way

    @pytest.mark.slow
    def test_all_workers_load_what_one_of_them_is_asked_to(self, server: "Served", repository: Path) -> None:
        add_version(repository, "2")
        answer = httpx.post(f"{server.url}/v2/repository/models/digits/load", timeout=WAIT_S)
        assert answer.status_code == 200
        versions = [httpx.get(f"{server.url}/v2/models/digits").json()["versions"] for _ in range(20)]
        assert versions == [["2"]] * 20
        missing = httpx.post(f"{server.url}/v2/repository/models/letters/load", timeout=WAIT_S)
        assert missing.status_code == 404
        os.kill(workers_of(server.process)[0], signal.SIGKILL)
        deadline_s = time.monotonic() + WAIT_S
        while httpx.get(f"{server.url}/metrics").text.count("encas_ready 2.0") == 0:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        versions = [httpx.get(f"{server.url}/v2/models/digits").json()["versions"] for _ in range(20)]
        assert versions == [["2"]] * 20

    @pytest.mark.slow
    def test_a_served_bundle_whose_folder_is_gone_ends_nothing(
        self, server: "Served", repository: Path
    ) -> None:
        shutil.move(repository / "first", repository.parent / "elsewhere")
        answer = httpx.post(f"{server.url}/v2/repository/models/digits/load")
        assert answer.status_code == 404 and "digits" in answer.text
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
        assert server.process.poll() is None
        shutil.move(repository.parent / "elsewhere", repository / "first")

    @pytest.mark.slow
    def test_a_worker_that_takes_a_place_serves_what_is_left_and_waits_where_nothing_is(
        self, repository: Path, start_server: StartServer
    ) -> None:
        letters = add_version(repository, "2")
        file = read_model(letters / "bundle.json", BundleFile)
        write_model(letters / "bundle.json", file.model_copy(update={"name": "letters"}).sealed())
        options = ("--repository", repository, "--provider", "cpu", "--workers", "2")
        with start_server(*options, complaints=True) as server:

            def replace_all() -> None:
                before = workers_of(server.process)
                for pid in before:
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda: not set(before) & set(workers_of(server.process)))

            def status(model: str) -> int:
                return httpx.get(f"{server.url}/v2/models/{model}/ready", timeout=WAIT_S).status_code

            def ready() -> bool:
                return "encas_ready 2.0" in httpx.get(f"{server.url}/metrics", timeout=WAIT_S).text

            wait_until(ready)
            letters.rename(repository.parent / "letters")
            replace_all()
            wait_until(ready)
            assert [status("digits"), status("letters"), status("words")] == [200, 503, 404]
            answer = httpx.get(f"{server.url}/v2/models/letters", timeout=WAIT_S)
            assert "could not be loaded" in answer.json()["error"]
            (repository.parent / "letters").rename(letters)
            assert httpx.post(f"{server.url}/v2/repository/models/letters/load").status_code == 200
            assert {status("letters") for _ in range(10)} == {200}
            repository.rename(repository.parent / "away")
            replace_all()
            for _ in range(2):  # those that have just been killed, and those that find nothing
                wait_until(lambda: not workers_of(server.process))
                time.sleep(0.5)
            assert server.process.poll() is None
            (repository.parent / "away").rename(repository)
            wait_until(ready)
            assert [status("digits"), status("letters")] == [200, 200]

    @pytest.mark.slow
    def test_they_count_together_and_stop_together(self, server: "Served", load: Callable[..., Load]) -> None:
        with load(server.url) as asked:
            asked.wait_for(50)
        text = httpx.get(f"{server.url}/metrics").text
        line = next(
            line
            for line in text.splitlines()
            if line.startswith("encas_requests_total") and 'reason="ok"' in line
        )
        assert float(line.split()[-1]) == asked.n_answers
        pids = workers_of(server.process)
        server.process.terminate()
        assert server.process.wait(WAIT_S) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
