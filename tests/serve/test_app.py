"""The application in this process, where a test can hold its loading and its work."""

import gzip
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from encas.bundle import Bundle
from encas.errors import InvalidInput
from encas.runtime.executor import CascadeExecutor
from encas.runtime.preprocess import Tensor
from encas.serve import create_app
from encas.serve.limits import Limits
from encas.serve.openapi import EXAMPLE_PNG
from encas.serve.server import listening

WAIT_S = 30
BODY = {"inputs": [{"name": "image", "shape": [1, 2, 2], "datatype": "UINT8", "data": [0, 9, 9, 0]}]}
INFER = "/v2/models/digits/infer"


@contextmanager
def running(app: FastAPI) -> Iterator[httpx.Client]:
    with listening("127.0.0.1", 0) as listener:
        config = uvicorn.Config(app, lifespan="on", ws="none", log_level=100)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.start()
        try:
            with httpx.Client(base_url=url, timeout=WAIT_S) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(WAIT_S)


class Loaded:
    """Waits until an application says that it has loaded."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self._event = threading.Event()

    def __call__(self, failure: Exception | None) -> None:
        self.failure = failure
        self._event.set()

    def wait(self) -> None:
        assert self._event.wait(WAIT_S)


@pytest.fixture
def start(bundle: Bundle) -> Callable[..., AbstractContextManager[httpx.Client]]:
    """Start an application of the digits bundle that is ready."""

    @contextmanager
    def started(**options: Any) -> Iterator[httpx.Client]:
        loaded = Loaded()
        with running(create_app([bundle], loaded=loaded, **options)) as client:
            loaded.wait()
            yield client

    return started


@pytest.mark.slow
def test_while_it_loads_the_server_is_live_and_not_ready(bundle: Bundle) -> None:
    gate, loaded = threading.Event(), Loaded()

    def load(bundle: Bundle) -> CascadeExecutor:
        assert gate.wait(WAIT_S)
        return CascadeExecutor(bundle, "cpu")

    with running(create_app([bundle], load=load, loaded=loaded)) as client:
        try:
            assert client.get("/v2/health/live").json() == {"live": True}
            assert client.get("/v2/models/digits").json()["versions"] == ["1"]
            for call in ("/v2/health/ready", "/v2/models/digits/ready"):
                answer = client.get(call)
                assert answer.status_code == 503
                assert answer.headers["retry-after"] == "1"
                assert "still loading" in answer.json()["error"]
            assert client.post(INFER, json=BODY).status_code == 503
            assert client.get("/v2/models/letters/ready").status_code == 404
        finally:
            gate.set()
        loaded.wait()
        assert loaded.failure is None
        assert client.get("/v2/health/ready").status_code == 200
        assert client.post(INFER, json=BODY).status_code == 200


@pytest.mark.slow
def test_a_bundle_that_cannot_be_loaded_is_told_and_never_ready(bundle: Bundle) -> None:
    loaded = Loaded()
    (bundle.path / "members/hidden064.onnx").write_bytes(b"no graph")
    with running(create_app([bundle], loaded=loaded)) as client:
        loaded.wait()
        assert isinstance(loaded.failure, InvalidInput)
        answer = client.get("/v2/health/ready")
        assert answer.status_code == 503
        assert "could not be loaded" in answer.json()["error"]
        assert "hidden064.onnx" in answer.json()["error"]
        assert client.get("/v2/health/live").status_code == 200


class Held(CascadeExecutor):
    """Runs when it is let."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, "cpu")
        self.started, self.gate = threading.Event(), threading.Event()

    def run_stage(self, stage: int, tensor: Tensor) -> Any:
        self.started.set()
        assert self.gate.wait(WAIT_S)
        return super().run_stage(stage, tensor)


@pytest.mark.slow
def test_a_request_in_work_does_not_hold_up_the_others(
    bundle: Bundle, start: Callable[..., AbstractContextManager[httpx.Client]]
) -> None:
    executor = Held(bundle)
    with start(load=lambda _bundle: executor) as client, ThreadPoolExecutor() as threads:
        slow = threads.submit(client.post, INFER, json=BODY)
        try:
            assert executor.started.wait(WAIT_S)
            assert client.get("/v2/health/live").status_code == 200
            assert client.post(INFER, json={}).status_code == 400
            assert not slow.done()
        finally:
            executor.gate.set()
        assert slow.result(WAIT_S).status_code == 200


@pytest.mark.slow
def test_what_was_accepted_is_finished_before_the_server_stops(
    bundle: Bundle, start: Callable[..., AbstractContextManager[httpx.Client]]
) -> None:
    executor = Held(bundle)
    with ThreadPoolExecutor() as threads:
        with start(load=lambda _bundle: executor) as client:
            slow = threads.submit(httpx.post, client.base_url.join(INFER), json=BODY, timeout=WAIT_S)
            assert executor.started.wait(WAIT_S)
            threading.Timer(0.3, executor.gate.set).start()
        assert slow.result(WAIT_S).status_code == 200


def test_a_failure_of_the_server_is_a_500_in_the_protocols_form(
    start: Callable[..., AbstractContextManager[httpx.Client]],
) -> None:
    def load(bundle: Bundle) -> CascadeExecutor:
        executor = CascadeExecutor(bundle, "cpu")
        executor.close()
        return executor

    with start(load=load) as client:
        answer = client.post(INFER, json=BODY)
        assert answer.status_code == 500
        assert answer.json() == {"error": "the server failed on this request; its log says why"}
        assert client.get("/v2/health/live").status_code == 200


@pytest.mark.slow
def test_requests_of_many_threads_get_their_own_answers(
    bundle: Bundle, digits: Any, start: Callable[..., AbstractContextManager[httpx.Client]]
) -> None:
    images = digits.images[digits.test][:48]
    expected = CascadeExecutor(bundle, "cpu").run(images)

    def ask(image: Any) -> tuple[int, int]:
        tensor = {"name": "image", "shape": [1, 8, 8], "datatype": "UINT8", "data": image.tolist()}
        answer = client.post(INFER, json={"inputs": [{**tensor, "data": [image.tolist()]}]}).json()
        found = {output["name"]: output["data"] for output in answer["outputs"]}
        return found["class"][0], found["exit_stage"][0]

    with start() as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, images))
    assert answers == list(zip(expected.label.tolist(), expected.exit_stage.tolist(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"x" * 1001, b"x" * 5_000_000])
def test_a_body_beyond_the_limit_is_a_413(
    content: bytes, start: Callable[..., AbstractContextManager[httpx.Client]]
) -> None:
    def in_chunks() -> Iterator[bytes]:
        for i in range(0, len(content), 500):
            yield content[i : i + 500]

    with start(limits=Limits(max_body_bytes=1000)) as client:
        for body in (content, in_chunks()):  # with its length told, and without
            answer = client.post(INFER, content=body)
            assert answer.status_code == 413
            assert "at most 1000 are taken" in answer.json()["error"]
        bomb = client.post(INFER, content=gzip.compress(content), headers={"Content-Encoding": "gzip"})
        assert bomb.status_code == 413
        assert client.post(INFER, json=BODY).status_code == 200


def test_two_bundles_of_one_name_are_refused(bundle: Bundle) -> None:
    with pytest.raises(InvalidInput, match="models of one server need different names"):
        create_app([bundle, bundle])
    with pytest.raises(InvalidInput, match="name at least one"):
        create_app([])


@pytest.mark.slow
def test_two_bundles_answer_each_for_itself(bundle: Bundle) -> None:
    other = replace(bundle, file=bundle.file.model_copy(update={"name": "other", "version": "2.1"}))
    loaded = Loaded()
    with running(create_app([bundle, other], loaded=loaded)) as client:
        loaded.wait()
        assert client.get("/v2/models").json() == {"models": ["digits", "other"]}
        answer = client.post("/v2/models/other/versions/2.1/infer", json=BODY).json()
        assert (answer["model_name"], answer["model_version"]) == ("other", "2.1")


class TestDocument:
    """What /docs shows is true."""

    @pytest.fixture
    def client(self, start: Callable[..., AbstractContextManager[httpx.Client]]) -> Iterator[httpx.Client]:
        with start() as client:
            yield client

    @pytest.mark.slow
    def test_it_is_there(self, client: httpx.Client) -> None:
        page = client.get("/docs").text
        assert "swagger" in page
        assert "://" not in page and '"//' not in page
        for file in re.findall(r'(?:src|href)="([^"]+)"', page):
            assert file.startswith("/docs-files/")
            assert client.get(file).status_code == 200
        assert "422" not in client.get("/openapi.json").text

    @pytest.mark.slow
    def test_a_browser_that_shows_it_asks_nobody_else(self, client: httpx.Client) -> None:
        sync_api = pytest.importorskip("playwright.sync_api")
        chromium = next(
            filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
        )
        if chromium is None:
            pytest.skip("no Chromium is installed")
        asked: list[str] = []
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium)
            page = browser.new_page()
            page.on("request", lambda request: asked.append(request.url))
            page.goto(f"{client.base_url}/docs")
            page.get_by_text("/v2/health/live", exact=True).first.click()
            page.get_by_text("Try it out").first.wait_for()
            browser.close()
        assert f"{client.base_url}/openapi.json" in asked
        assert [url for url in asked if not url.startswith((str(client.base_url), "data:"))] == []

    @pytest.mark.slow
    def test_every_reference_in_it_leads_somewhere(self, client: httpx.Client) -> None:
        document = client.get("/openapi.json").json()

        def references(part: Any) -> Iterator[str]:
            if isinstance(part, dict):
                if "$ref" in part:
                    yield part["$ref"]
                part = list(part.values())
            for inner in part if isinstance(part, list) else ():
                yield from references(inner)

        found = set(references(document))
        assert "#/components/schemas/RequestBody" in found
        for reference in found:
            place = document
            for step in reference.removeprefix("#/").split("/"):
                place = place[step]

    @pytest.mark.slow
    def test_every_call_in_it_answers_as_it_says(self, client: httpx.Client) -> None:
        """Its own example for the right call, and an unknown model or an empty body for the wrong one."""
        document = client.get("/openapi.json").json()
        n_calls = 0
        paths = {path: calls for path, calls in document["paths"].items() if path.startswith("/v2")}
        for path, methods in paths.items():
            if "repository" in path:  # there is none here
                continue
            for method, operation in methods.items():
                json_body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                for model, status in (("digits", 200), ("letters", 404)):
                    if model == "letters" and "{model}" not in path:
                        continue
                    url = path.format(model=model, version="1")
                    answer = client.request(method, url, json=json_body.get("example"))
                    assert answer.status_code == status, (method, url, answer.text)
                    schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]
                    check(answer.json(), schema, document)
                    n_calls += 1
                if json_body:
                    answer = client.request(method, path.format(model="digits", version="1"))
                    assert answer.status_code == 400
                    schema = operation["responses"]["400"]["content"]["application/json"]["schema"]
                    check(answer.json(), schema, document)
        assert n_calls == 21  # 13 calls, 8 of them with a model

    @pytest.mark.slow
    def test_its_example_is_a_zero(self, client: httpx.Client) -> None:
        body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE_PNG]}]}
        outputs = client.post(INFER, json=body).json()["outputs"]
        assert next(o for o in outputs if o["name"] == "label")["data"] == ["digit 0"]


def check(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    """Check a value against the part of JSON Schema that the document uses."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].split("/")[-1]]
    if "anyOf" in schema:
        kinds: dict[str, type] = {"null": type(None), "string": str, "object": dict, "array": list}
        (schema,) = [s for s in schema["anyOf"] if isinstance(value, kinds[s["type"]])]
    match schema.get("type"):
        case "object":
            assert set(schema.get("required", [])) <= set(value)
            properties = schema.get("properties", {})
            if schema.get("additionalProperties") is False:
                assert set(value) <= set(properties)
            for name, inner in value.items():
                more = schema.get("additionalProperties")
                check(inner, properties.get(name, more if isinstance(more, dict) else {}), document)
        case "array":
            assert isinstance(value, list)
            for inner in value:
                check(inner, schema.get("items", {}), document)
        case "string":
            assert isinstance(value, str)
        case "integer":
            assert isinstance(value, int)
        case "boolean":
            assert isinstance(value, bool)
        case kind:
            assert kind is None
