"""A real `encas serve`, asked by clients that others wrote."""

import base64
import json
import socket
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from open_inference.openapi import client as open_inference
from open_inference.openapi import types as open_types
from open_inference.openapi.errors import BadRequestError, NotFoundError
from PIL import Image
from tritonclient import http as triton  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from encas.bundle import Bundle
from encas.runtime.executor import CascadeExecutor

if TYPE_CHECKING:
    from tests.conftest import Digits, Served

INFER = "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def http(served: "Served") -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url) as client:
        yield client


@pytest.fixture(scope="module")
def client(served: "Served") -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def images(digits: "Digits") -> NDArray[np.uint8]:
    return digits.images[digits.test][:5]


@pytest.fixture
def png(images: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(images[0]).save(file, "PNG")
    return file.getvalue()


def triton_input(tensor: NDArray[Any], datatype: str, *, binary: bool = True) -> triton.InferInput:
    image = triton.InferInput("image", list(tensor.shape), datatype)
    image.set_data_from_numpy(tensor, binary_data=binary)
    return image


def image_in_json(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "shape": [1, 2, 2], "datatype": "UINT8", "data": [0, 9, 9, 0], **changes}


OUTPUTS = {"class", "label", "confidence", "exit_stage", "macs", "probs"}


@pytest.mark.slow
class TestTriton:
    def test_health_and_metadata(self, client: triton.InferenceServerClient) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        assert client.is_model_ready("digits", "1")
        assert not client.is_model_ready("digits", "2")
        assert not client.is_model_ready("letters")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        metadata = client.get_model_metadata("digits", "1")
        assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert {output["name"] for output in metadata["outputs"]} == OUTPUTS

    def test_json_and_binary_answers_are_the_same(
        self, client: triton.InferenceServerClient, images: NDArray[np.uint8]
    ) -> None:
        found = []
        for binary in (True, False):
            outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in sorted(OUTPUTS)]
            image = triton_input(images, "UINT8", binary=binary)
            result = client.infer("digits", [image], outputs=outputs, request_id="7", model_version="1")
            assert result.get_response()["id"] == "7"
            # Text comes as bytes from raw tensors and as str from JSON.
            label = [x.decode() if binary else x for x in result.as_numpy("label")]
            numbers = {name: result.as_numpy(name) for name in OUTPUTS - {"label"}}
            found.append({"label": label, **{name: array.tolist() for name, array in numbers.items()}})
        assert found[0] == found[1]
        assert found[0]["label"] == [f"digit {i}" for i in found[0]["class"]]

    @pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
    def test_packed_requests(
        self, algorithm: str, client: triton.InferenceServerClient, images: NDArray[np.uint8], bundle: Bundle
    ) -> None:
        image = triton_input(images, "UINT8")
        result = client.infer("digits", [image], request_compression_algorithm=algorithm)
        expected = CascadeExecutor(bundle, "cpu").run(images)
        assert result.as_numpy("class").tolist() == expected.label.tolist()

    def test_errors_reach_the_client(
        self, client: triton.InferenceServerClient, images: NDArray[np.uint8]
    ) -> None:
        with pytest.raises(
            InferenceServerException, match=r"no model 'letters'; this server has digits"
        ) as e:
            client.infer("letters", [triton_input(images, "UINT8")])
        assert e.value.status() == "404"
        with pytest.raises(InferenceServerException, match=r"must have shape \[n, 1, 8, 8\]") as e:
            client.infer("digits", [triton_input(images.astype(np.float32), "FP32")])
        assert e.value.status() == "400"


class TestOpenInference:
    @pytest.fixture
    def client(self, served: "Served", http: httpx.Client) -> open_inference.OpenInferenceClient:
        return open_inference.OpenInferenceClient(base_url=served.url, httpx_client=http)

    def test_every_call(
        self,
        client: open_inference.OpenInferenceClient,
        images: NDArray[np.uint8],
        bundle: Bundle,
    ) -> None:
        client.check_server_liveness()
        client.check_server_readiness()
        client.check_model_version_readiness("digits", "1")
        assert client.read_server_metadata().name == "encas"
        assert client.read_model_metadata("digits").versions == ["1"]
        data = images.ravel().tolist()  # it sends 7 as 7.0
        request = open_types.InferenceRequest.parse_obj(
            {"id": "x", "inputs": [image_in_json(shape=[5, 8, 8], data=data)], "outputs": [{"name": "class"}]}
        )
        answer = client.model_version_infer("digits", "1", request=request)
        assert answer.id == "x"
        expected = CascadeExecutor(bundle, "cpu").run(images)
        assert answer.outputs[0].data.__root__ == expected.label.tolist()

    def test_errors_are_those_of_the_protocol(self, client: open_inference.OpenInferenceClient) -> None:
        with pytest.raises(NotFoundError):
            client.check_model_readiness("letters")
        with pytest.raises(BadRequestError) as error:
            client.model_infer("digits", request=open_types.InferenceRequest.parse_obj({"inputs": []}))
        assert error.value.body == {"error": "inputs: exactly one, named 'image', is needed; found none"}


class TestCurl:
    def curl(self, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def test_an_image_file_is_a_body(
        self, served: "Served", png: bytes, tmp_path: Path, bundle: Bundle
    ) -> None:
        (tmp_path / "image.png").write_bytes(png)
        answer = self.curl(
            f"{served.url}{INFER}",
            *("-H", "Inference-Header-Content-Length: 0"),
            *("--data-binary", f"@{tmp_path / 'image.png'}"),
        )
        found = {output["name"]: output["data"] for output in answer["outputs"]}
        expected = CascadeExecutor(bundle, "cpu").run([png])
        assert found["class"] == expected.label.tolist()
        assert found["exit_stage"] == expected.exit_stage.tolist()
        assert found["probs"] == expected.probs.ravel().tolist()

    def test_chunks_without_a_length(self, served: "Served", png: bytes) -> None:
        text = base64.b64encode(png).decode()
        body = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}]}
        answer = self.curl(f"{served.url}{INFER}", "-H", "Transfer-Encoding: chunked", "-d", json.dumps(body))
        assert {output["name"] for output in answer["outputs"]} == OUTPUTS


def test_images_of_different_sizes_and_formats_travel_together(
    http: httpx.Client, images: NDArray[np.uint8], bundle: Bundle
) -> None:
    big = np.kron(images[1], np.ones((5, 5), np.uint8))
    files = []
    for pixels, kind in ((images[0], "PNG"), (big, "JPEG"), (np.stack([big] * 3, axis=2), "WEBP")):
        file = BytesIO()
        Image.fromarray(pixels).save(file, kind)
        files.append(file.getvalue())
    data = [base64.b64encode(file).decode() for file in files]
    answer = http.post(INFER, json={"inputs": [image_in_json(shape=[3], datatype="BYTES", data=data)]})
    assert answer.status_code == 200
    expected = CascadeExecutor(bundle, "cpu").run(files)
    assert answer.json()["outputs"][0]["data"] == expected.label.tolist()


def bomb() -> str:
    """A PNG of few bytes that says it has 2^60 pixels."""
    file = BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    head = bytearray(file.getvalue())
    head[16:24] = b"\x40\0\0\0" * 2
    return base64.b64encode(bytes(head)).decode()


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "no JSON": ({"content": b"\x89PNG"}, 400, "not JSON"),
    "a form": ({"data": {"image": "x"}}, 400, "not JSON"),
    "nothing": ({}, 400, "not JSON"),
    "no image": (
        {"json": {"inputs": [image_in_json(shape=[1], datatype="BYTES", data=["YQ=="])]}},
        400,
        "image 0: is no image",
    ),
    "too many pixels": (
        {"json": {"inputs": [image_in_json(shape=[1], datatype="BYTES", data=[bomb()])]}},
        400,
        "image 0: ",
    ),
    "no number": (
        {"content": b'{"inputs": [{"name": "image", "shape": [1], "datatype": "FP32", "data": [NaN]}]}'},
        400,
        "NaN",
    ),
    "unknown output": (
        {"json": {"inputs": [image_in_json()], "outputs": [{"name": "logits"}]}},
        400,
        "output 'logits': unknown; this model has class, label,",
    ),
    "wrong shape": (
        {"json": {"inputs": [image_in_json(shape=[2, 2], data=[0, 1, 2, 3])]}},
        400,
        "has [2, 2]",
    ),
    "wrong header": (
        {"content": b"{}", "headers": {"Inference-Header-Content-Length": "x"}},
        400,
        "must be the number of bytes",
    ),
    "not gzip": ({"content": b"{}", "headers": {"Content-Encoding": "gzip"}}, 400, "is not gzip"),
    "brotli": (
        {"content": b"{}", "headers": {"Content-Encoding": "br"}},
        415,
        "must be gzip, deflate or identity",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_told_in_one_line(case: str, http: httpx.Client) -> None:
    request, status, says = WRONG[case]
    answer = http.post(INFER, **request)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    (message,) = answer.json().values()
    assert list(answer.json()) == ["error"]
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v2/", 404),
        ("GET", "/v2/models/letters", 404),
        ("GET", "/v2/models/digits/versions/2", 404),
        ("GET", "/v2/models/digits/versions/2/ready", 404),
        ("GET", "/v2/models/letters/ready", 404),
        ("GET", "/v2/models/%F0%9F%90%88%0A/ready", 404),
        ("POST", "/v2/models/letters/infer", 404),
        ("POST", "/v2/models/digits/versions/2/infer", 404),
        ("POST", "/v2/repository/models/digits/load", 400),
        ("POST", "/v2/repository/models/digits/unload", 400),
        ("GET", INFER, 405),
        ("DELETE", "/v2", 405),
    ],
)
def test_every_other_error_has_the_protocols_form_too(
    method: str, path: str, status: int, http: httpx.Client
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert "\n" not in answer.json()["error"]
    if status == 405:
        assert answer.headers["allow"]


def test_a_client_that_goes_away_in_the_middle_harms_nobody(served: "Served", http: httpx.Client) -> None:
    """Whether the server complained, its fixture looks up at the end."""
    address = (served.url.split("/")[2].split(":")[0], int(served.url.split(":")[2]))
    for sent in (b"", b'{"inputs": ['):
        with socket.create_connection(address) as client:
            head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
            client.sendall(head.encode() + sent)
    assert http.post(INFER, json={"inputs": [image_in_json()]}).status_code == 200


def test_paths_with_and_without_the_version_answer_alike(http: httpx.Client) -> None:
    for path in ("", "/ready"):
        plain, versioned = (
            http.get(f"/v2/models/digits{path}"),
            http.get(f"/v2/models/digits/versions/1{path}"),
        )
        assert plain.status_code == 200
        assert plain.json() == versioned.json()
    body = {"id": "a", "inputs": [image_in_json()]}
    plain, versioned = (http.post(p, json=body) for p in (INFER, "/v2/models/digits/versions/1/infer"))
    assert plain.status_code == 200
    assert plain.json() == versioned.json()


def test_the_list_of_models_and_the_health_calls(http: httpx.Client) -> None:
    assert http.get("/v2/models").json() == {"models": ["digits"]}
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}
    assert http.get("/v2/models/digits/ready").json() == {"name": "digits", "ready": True}
