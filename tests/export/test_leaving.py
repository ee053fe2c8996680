"""Each way to leave answers the golden samples, as far as its runtime is here."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from encas.bundle import Bundle
from encas.errors import InvalidInput
from encas.export import write_kserve, write_ray_serve, write_triton
from encas.export.leaving import kubernetes_name

pytestmark = pytest.mark.slow

ASK_RAY = """
import json, sys, urllib.error, urllib.request
import ray
from ray import serve
from app import app

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"port": 0 if len(sys.argv) < 2 else int(sys.argv[1])})
serve.run(app)
found = []
for path in json.loads(sys.stdin.read()):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/", open(path, "rb").read()) as reply:
            found.append(json.loads(reply.read()))
    except urllib.error.HTTPError as error:
        found.append([error.code, json.loads(error.read())])
serve.shutdown()
ray.shutdown()
print("answers", json.dumps(found))
"""


def golden_files(bundle: Bundle) -> list[Path]:
    return [bundle.path / sample.file for sample in bundle.file.golden]


def free_port() -> int:
    import socket

    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@pytest.mark.slow
def test_ray_serve_answers_the_golden_samples(golden_bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("ray.serve")
    out = write_ray_serve(golden_bundle, tmp_path / "ray").parent
    (tmp_path / "broken.png").write_text("no image")
    files = [str(file) for file in (*golden_files(golden_bundle), tmp_path / "broken.png")]
    done = subprocess.run(
        [sys.executable, "-c", ASK_RAY, str(free_port())],
        input=json.dumps(files),
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("answers "))
    *found, broken = json.loads(line.removeprefix("answers "))
    for answer, sample in zip(found, golden_bundle.file.golden, strict=True):
        assert (answer["class"], answer["exit_stage"]) == (sample.label, sample.exit_stage)
        assert answer["confidence"] == pytest.approx(sample.confidence, abs=1e-5)
        assert answer["label"] == golden_bundle.labels[sample.label]
    assert broken[0] == 400 and "is no image" in broken[1]["error"]


def test_the_manifest_is_what_kserve_documents(golden_bundle: Bundle, tmp_path: Path) -> None:
    manifest = yaml.safe_load(write_kserve(golden_bundle, tmp_path / "kserve").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert manifest["metadata"] == {"name": "digits"}
    (container,) = manifest["spec"]["predictor"]["containers"]
    assert (container["name"], container["image"]) == ("kserve-container", "digits:1")
    assert container["ports"] == [{"containerPort": 8080, "protocol": "TCP"}]
    Bundle.open(tmp_path / "kserve/bundle")


@pytest.mark.slow
def test_what_the_container_of_kserve_runs_answers_the_golden_samples(
    golden_bundle: Bundle, start_server: Callable[..., AbstractContextManager[Any]], tmp_path: Path
) -> None:
    httpx = pytest.importorskip("httpx")
    out = write_kserve(golden_bundle, tmp_path / "kserve").parent
    (probe,) = {
        yaml.safe_load((out / "inferenceservice.yaml").read_text())["spec"]["predictor"]["containers"][0][
            "readinessProbe"
        ]["httpGet"]["path"]
    }
    entry = next(
        line for line in (out / "Dockerfile").read_text().splitlines() if line.startswith("ENTRYPOINT")
    )
    encas, serve, folder, *options = json.loads(entry.removeprefix("ENTRYPOINT "))
    assert (encas, serve, folder) == ("encas", "serve", "/bundle")
    with start_server(
        out / "bundle", *options, "--provider", "cpu", complaints=True
    ) as server:  # a free port is taken instead
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}{probe}").status_code == 200
        for sample, file in zip(golden_bundle.file.golden, golden_files(golden_bundle), strict=True):
            reply = httpx.post(f"{url}/predict", content=file.read_bytes()).json()
            assert json.dumps(reply).count(golden_bundle.labels[sample.label])
            infer = httpx.post(
                f"{url}/v2/models/digits/infer",
                content=file.read_bytes(),
                headers={"Inference-Header-Content-Length": "0"},
            ).json()
            outputs = {output["name"]: output["data"] for output in infer["outputs"]}
            assert (outputs["class"], outputs["exit_stage"]) == ([sample.label], [sample.exit_stage])


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("digits", "digits"),
        ("My_Model.v2", "my-model-v2"),
        ("3rd", "m-3rd"),
        ("___", "cascade"),
        ("a" * 80, "a" * 38),
    ],
)
def test_names_become_those_that_kubernetes_takes(name: str, plain: str) -> None:
    assert kubernetes_name(name) == plain


def test_the_configuration_is_one_of_tritons(golden_bundle: Bundle, tmp_path: Path) -> None:
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    path = write_triton(golden_bundle, tmp_path / "models")
    config = text_format.Parse(path.read_text(), model_config.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("digits", "python", 32)
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("image", model_config.TYPE_STRING, [1])
    ]
    outputs = {output.name: (output.data_type, list(output.dims)) for output in config.output}
    assert outputs["probs"] == (model_config.TYPE_FP32, [10])
    assert outputs["exit_stage"] == (model_config.TYPE_INT64, [1])


# What Triton hands to a model of its Python backend, as it documents it; the server itself is no package.
@dataclass(frozen=True)
class Tensor:
    tensor_name: str
    array: NDArray[Any]

    def name(self) -> str:
        return self.tensor_name

    def as_numpy(self) -> NDArray[Any]:
        return self.array


@dataclass(frozen=True)
class TritonError:
    text: str

    def message(self) -> str:
        return self.text


@dataclass(frozen=True)
class InferenceResponse:
    output_tensors: list[Tensor]
    error: TritonError | None = None


def get_input_tensor_by_name(request: dict[str, Tensor], name: str) -> Tensor | None:
    return request.get(name)


@pytest.fixture
def triton_model(golden_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    handed = ModuleType("triton_python_backend_utils")
    for what in (Tensor, TritonError, InferenceResponse, get_input_tensor_by_name):
        setattr(handed, what.__name__, what)
    monkeypatch.setitem(sys.modules, handed.__name__, handed)
    path = write_triton(golden_bundle, tmp_path / "models").parent / "1/model.py"
    spec = importlib.util.spec_from_file_location("model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_instance_kind": "CPU"})
    return model


def request_of(images: list[bytes]) -> dict[str, Tensor]:
    return {"image": Tensor("image", np.array(images, np.object_).reshape(-1, 1))}


def test_the_model_for_triton_answers_the_golden_samples(triton_model: Any, golden_bundle: Bundle) -> None:
    images = [file.read_bytes() for file in golden_files(golden_bundle)]
    responses = triton_model.execute(
        [request_of(images[:1]), request_of(images[1:6]), request_of(images[6:])]
    )
    outputs = [{tensor.name(): tensor.as_numpy() for tensor in r.output_tensors} for r in responses]
    assert [output["probs"].shape for output in outputs] == [(1, 10), (5, 10), (2, 10)]
    joined = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
    golden = golden_bundle.file.golden
    assert joined["class"].ravel().tolist() == [sample.label for sample in golden]
    assert joined["exit_stage"].ravel().tolist() == [sample.exit_stage for sample in golden]
    assert joined["confidence"].ravel() == pytest.approx([sample.confidence for sample in golden], abs=1e-5)
    kinds = {name: (array.dtype.name, array.shape) for name, array in joined.items()}
    assert kinds == {
        "probs": ("float32", (8, 10)),
        "class": ("int64", (8, 1)),
        "confidence": ("float32", (8, 1)),
        "exit_stage": ("int64", (8, 1)),
        "macs": ("int64", (8, 1)),
    }


def test_a_broken_image_fails_its_own_request_alone(triton_model: Any, golden_bundle: Bundle) -> None:
    whole = golden_files(golden_bundle)[0].read_bytes()
    good, bad = triton_model.execute([request_of([whole]), request_of([whole, b"no image"])])
    assert good.error is None and len(good.output_tensors) == 5
    assert "is no image" in bad.error.message() and bad.output_tensors == []
    triton_model.finalize()


def test_what_was_written_is_replaced_and_anything_else_stays(golden_bundle: Bundle, tmp_path: Path) -> None:
    for write in (write_ray_serve, write_kserve):
        out = tmp_path / write.__name__
        assert write(golden_bundle, out) == write(golden_bundle, out)
        assert Bundle.open(out / "bundle").file == golden_bundle.file
        (out / "notes.txt").write_text("mine")
        with pytest.raises(InvalidInput, match="exists and is nothing that encas wrote; name another folder"):
            write(golden_bundle, out)
    (tmp_path / "models/other/1").mkdir(parents=True)
    for _ in range(2):
        write_triton(golden_bundle, tmp_path / "models")
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == ["digits", "other"]
    (tmp_path / "theirs/digits/1").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="digits: is there, and no model that encas wrote"):
        write_triton(golden_bundle, tmp_path / "theirs")
