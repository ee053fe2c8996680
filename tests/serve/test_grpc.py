"""A real `encas serve --grpc-port`, asked by clients that others wrote."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray
from PIL import Image
from tritonclient import grpc as triton  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from encas.bundle import Bundle
from encas.runtime.executor import CascadeExecutor
from encas.serve.grpc_messages import SERVICE, message

if TYPE_CHECKING:
    from tests.conftest import Digits, Served

StartServer = Callable[..., AbstractContextManager["Served"]]
OUTPUTS = {"class", "label", "confidence", "exit_stage", "macs", "probs"}


@pytest.fixture(scope="module")
def address(_bundle_once: Path, start_server: StartServer) -> Iterator[str]:
    options = ("--provider", "cpu", "--grpc-port", "0", "--max-body-mb", "1")
    with start_server(_bundle_once, *options) as server:
        assert server.grpc is not None
        yield server.grpc


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as client:
        yield client


@pytest.fixture
def images(digits: "Digits") -> NDArray[np.uint8]:
    return digits.images[digits.test][:5]


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def as_input(tensor: NDArray[Any], datatype: str) -> triton.InferInput:
    image = triton.InferInput("image", list(tensor.shape), datatype)
    image.set_data_from_numpy(tensor)
    return image


@pytest.mark.slow
class TestTriton:
    def test_health_metadata_and_statistics(self, client: triton.InferenceServerClient) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        assert client.is_model_ready("digits", "1")
        assert not client.is_model_ready("digits", "2")
        assert not client.is_model_ready("letters")
        assert "statistics" in client.get_server_metadata().extensions
        metadata = client.get_model_metadata("digits", "1", as_json=True)
        assert {output["name"] for output in metadata["outputs"]} == OUTPUTS
        stats = client.get_inference_statistics("digits")
        assert [(found.name, found.version) for found in stats.model_stats] == [("digits", "1")]

    @pytest.mark.parametrize("form", ["UINT8", "BYTES", "FP32"])
    def test_every_form_of_the_input_gets_the_executors_answers(
        self, form: str, client: triton.InferenceServerClient, images: NDArray[np.uint8], bundle: Bundle
    ) -> None:
        forms: dict[str, NDArray[Any]] = {
            "UINT8": images,
            "BYTES": np.array([png(image) for image in images], np.object_),
            "FP32": (images[:, None] / np.float32(255)).astype(np.float32),
        }
        result = client.infer("digits", [as_input(forms[form], form)], request_id="7", model_version="1")
        expected = CascadeExecutor(bundle, "cpu").run(images)
        response = result.get_response()
        assert (response.id, response.model_name, response.model_version) == ("7", "digits", "1")
        assert {output.name for output in response.outputs} == OUTPUTS
        assert result.as_numpy("class").tolist() == expected.label.tolist()
        assert result.as_numpy("exit_stage").tolist() == expected.exit_stage.tolist()
        assert result.as_numpy("macs").tolist() == expected.macs.tolist()
        assert result.as_numpy("label").tolist() == [f"digit {i}".encode() for i in expected.label]
        np.testing.assert_allclose(result.as_numpy("probs"), expected.probs, atol=1e-3)

    def test_the_top_classes(
        self, client: triton.InferenceServerClient, images: NDArray[np.uint8], bundle: Bundle
    ) -> None:
        wanted = triton.InferRequestedOutput("probs", class_count=2)
        result = client.infer("digits", [as_input(images, "UINT8")], outputs=[wanted])
        expected = CascadeExecutor(bundle, "cpu").run(images)
        found = [[text.decode().split(":") for text in row] for row in result.as_numpy("probs")]
        assert [int(row[0][1]) for row in found] == expected.label.tolist()
        assert all(float(row[0][0]) >= float(row[1][0]) for row in found)
        assert found[0][0][2] == f"digit {expected.label[0]}"

    def test_packed_messages(
        self, client: triton.InferenceServerClient, images: NDArray[np.uint8], bundle: Bundle
    ) -> None:
        result = client.infer("digits", [as_input(images, "UINT8")], compression_algorithm="gzip")
        assert result.as_numpy("class").tolist() == CascadeExecutor(bundle, "cpu").run(images).label.tolist()

    @pytest.mark.parametrize(
        ("model", "version", "tensor", "datatype", "status", "says"),
        [
            ("letters", "", np.zeros((1, 8, 8), np.uint8), "UINT8", "NOT_FOUND", "no model 'letters'"),
            ("digits", "2", np.zeros((1, 8, 8), np.uint8), "UINT8", "NOT_FOUND", "no version '2'"),
            (
                "digits",
                "",
                np.zeros((1, 8, 8), np.float32),
                "FP32",
                "INVALID_ARGUMENT",
                "must have shape [n, 1, 8, 8]",
            ),
            (
                "digits",
                "",
                np.array([b"x"], np.object_),
                "BYTES",
                "INVALID_ARGUMENT",
                "image 0: is no image",
            ),
            ("digits", "", np.zeros((600, 8, 8), np.uint8), "UINT8", "RESOURCE_EXHAUSTED", "600 samples"),
        ],
    )
    def test_errors_have_their_status_and_one_line(
        self,
        model: str,
        version: str,
        tensor: NDArray[Any],
        datatype: str,
        status: str,
        says: str,
        client: triton.InferenceServerClient,
    ) -> None:
        with pytest.raises(InferenceServerException) as error:
            client.infer(model, [as_input(tensor, datatype)], model_version=version)
        assert error.value.status() == f"StatusCode.{status}"
        assert says in error.value.message()

    def test_a_message_beyond_the_limit_is_refused(self, client: triton.InferenceServerClient) -> None:
        with pytest.raises(InferenceServerException) as error:
            client.infer("digits", [as_input(np.zeros((1, 1000, 1300), np.uint8), "UINT8")])
        assert error.value.status() == "StatusCode.RESOURCE_EXHAUSTED"

    def test_without_a_repository_nothing_is_loaded(self, client: triton.InferenceServerClient) -> None:
        (entry,) = client.get_model_repository_index().models
        assert (entry.name, entry.version, entry.state) == ("digits", "1", "READY")
        with pytest.raises(InferenceServerException, match="this server has no repository"):
            client.load_model("digits")
        with pytest.raises(InferenceServerException, match="this server has no repository"):
            client.unload_model("digits")


def test_a_deadline_that_has_passed_is_told(address: str, images: NDArray[np.uint8]) -> None:
    many = np.tile(images, (200 // len(images), 1, 1))  # gRPC looks at deadlines every few milliseconds
    with triton.InferenceServerClient(address) as client, pytest.raises(InferenceServerException) as error:
        client.infer("digits", [as_input(many, "UINT8")], client_timeout=1e-6)
    assert error.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_numbers_one_by_one_are_taken_too(address: str, images: NDArray[np.uint8], bundle: Bundle) -> None:
    request = message("ModelInferRequest")(model_name="digits")
    image = request.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    image.contents.uint_contents.extend(images.ravel().tolist())
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=message("ModelInferRequest").SerializeToString,
            response_deserializer=message("ModelInferResponse").FromString,
        )
        metadata = (("x-request-id", "a"),)
        response = call(request, metadata=metadata)
        found = np.frombuffer(response.raw_output_contents[0], np.int64)
        assert found.tolist() == CascadeExecutor(bundle, "cpu").run(images).label.tolist()
        image.contents.uint_contents[0] = 256
        with pytest.raises(grpc.RpcError) as error:
            call(request)
        assert "must be from 0 to 255" in str(error.value)
        failed: Any = error.value
        assert dict(failed.trailing_metadata())["encas-reason"] == "invalid"


# In a process of its own: two libraries that register the same package do not get along.
OPEN_INFERENCE = """
import json, sys
import grpc
from open_inference.grpc import protocol as messages, service
stub = service.GRPCInferenceServiceStub(grpc.insecure_channel(sys.argv[1]))
metadata = stub.ModelMetadata(messages.ModelMetadataRequest(name="digits"))
request = messages.ModelInferRequest(model_name="digits", id="3")
request.raw_input_contents.append(sys.stdin.buffer.read())
request.inputs.add(name="image", datatype="UINT8", shape=[5, 8, 8])
request.outputs.add(name="label")
answer = stub.ModelInfer(request)
try:
    stub.ModelMetadata(messages.ModelMetadataRequest(name="letters"))
except grpc.RpcError as error:
    missing = error.code().name
print(json.dumps({
    "live": stub.ServerLive(messages.ServerLiveRequest()).live,
    "ready": stub.ModelReady(messages.ModelReadyRequest(name="digits", version="1")).ready,
    "cascade": metadata.properties["cascade"],
    "id": answer.id,
    "labels": answer.raw_output_contents[0].decode("latin-1"),
    "missing": missing,
}))
"""


def test_the_protocols_own_client(address: str, images: NDArray[np.uint8], bundle: Bundle) -> None:
    command = [sys.executable, "-c", OPEN_INFERENCE, address]
    done = subprocess.run(command, input=images.tobytes(), capture_output=True, check=True)
    found = json.loads(done.stdout)
    expected = CascadeExecutor(bundle, "cpu").run(images).label
    assert (found["live"], found["ready"], found["id"], found["missing"]) == (True, True, "3", "NOT_FOUND")
    assert found["cascade"] == str(bundle.cascade)
    assert found["labels"] == "".join(f"\7\0\0\0digit {label}" for label in expected)


@pytest.mark.slow
def test_the_health_service_says_that_it_serves(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
