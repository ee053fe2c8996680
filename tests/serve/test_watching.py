"""What people and monitors ask: /predict, the top classes, statistics, metrics, traces, logs."""

import base64
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from encas.serve.engine import Times
from encas.serve.logs import RequestLog
from encas.serve.openapi import EXAMPLE_PNG
from encas.serve.refusals import OK, Overloaded, kind_of
from encas.serve.service import Record
from encas.serve.traces import Spans

if TYPE_CHECKING:
    from tests.conftest import Served

PNG = base64.b64decode(EXAMPLE_PNG)
INFER = "/v2/models/digits/infer"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def http(served: "Served") -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url) as client:
        yield client


class TestPredict:
    def test_with_curl_a_file_is_a_form_or_the_body(self, served: "Served", tmp_path: Path) -> None:
        image = tmp_path / "zero.png"
        image.write_bytes(PNG)
        answers = []
        for arguments in (["-F", f"image=@{image}"], ["--data-binary", f"@{image}"]):
            done = subprocess.run(
                ["curl", "-sS", f"{served.url}/predict", *arguments], capture_output=True, check=True
            )
            answers.append(json.loads(done.stdout))
        form, raw = answers
        (found,) = form["predictions"]
        assert (form["model_name"], form["model_version"]) == ("digits", "1")
        assert (found["file"], found["class_index"], found["label"]) == ("zero.png", 0, "digit 0")
        assert 0 < found["confidence"] <= 1
        assert found["macs"] > 0
        assert raw["predictions"] == [{**found, "file": None}]

    def test_several_files_are_answered_in_order(self, http: httpx.Client) -> None:
        files = [("image", (f"{i}.png", PNG, "image/png")) for i in range(3)]
        answer = http.post("/predict?model=digits", files=files)
        assert [one["file"] for one in answer.json()["predictions"]] == ["0.png", "1.png", "2.png"]

    @pytest.mark.parametrize(
        ("request_of", "status", "says"),
        [
            ({"content": b""}, 400, "the body is empty"),
            ({"content": b"no image"}, 400, "image 0: is no image"),
            ({"files": {}, "data": {"a": "b"}}, 400, "image 0: is no image"),  # no form: the text is the body
            ({"files": {"a": (None, "b")}}, 400, "the form holds no file"),
            ({"content": PNG, "params": {"model": "letters"}}, 404, "no model 'letters'"),
        ],
    )
    def test_what_is_wrong_is_told(
        self, request_of: dict[str, Any], status: int, says: str, http: httpx.Client
    ) -> None:
        answer = http.post("/predict", **request_of)
        assert answer.status_code == status
        assert says in answer.json()["error"]


def test_the_top_classes_come_with_their_names(http: httpx.Client) -> None:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE_PNG]}
    wanted = [{"name": "probs", "parameters": {"classification": 3}}, {"name": "confidence"}]
    probs, confidence = http.post(INFER, json={"inputs": [image], "outputs": wanted}).json()["outputs"]
    assert (probs["datatype"], probs["shape"]) == ("BYTES", [1, 3])
    found = [text.split(":") for text in probs["data"]]
    assert found[0][1:] == ["0", "digit 0"]
    assert float(found[0][0]) == pytest.approx(confidence["data"][0], abs=1e-5)
    assert sorted((float(one[0]) for one in found), reverse=True) == [float(one[0]) for one in found]
    wrong = [{"name": "label", "parameters": {"classification": 3}}]
    answer = http.post(INFER, json={"inputs": [image], "outputs": wanted + wrong})
    assert answer.status_code == 400
    assert "works on 'probs' only" in answer.json()["error"]


def counted(http: httpx.Client) -> dict[str, float]:
    """Every sample of /metrics by its name and labels."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in families
        for sample in family.samples
    }


def test_metrics_and_statistics_count_what_was_asked(http: httpx.Client) -> None:
    image = {"name": "image", "datatype": "BYTES", "shape": [2], "data": [EXAMPLE_PNG, EXAMPLE_PNG]}
    before, old = counted(http), http.get("/v2/models/digits/stats").json()["model_stats"][0]
    answer = http.post(INFER, json={"inputs": [image]}, headers={"x-request-id": "r-1"})
    assert answer.headers["x-request-id"] == "r-1"
    assert http.post(INFER, json={}).headers["encas-reason"] == "invalid"
    assert http.post("/v2/models/anything/infer", json={}).status_code == 404
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    after, new = counted(http), http.get("/v2/models/digits/versions/1/stats").json()["model_stats"][0]

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    of_model = "[('model', 'digits')]"
    first = "[('gear', '0'), ('model', 'digits'), ('stage', '0')]"
    assert more("encas_requests_total[('model', 'digits'), ('protocol', 'rest'), ('reason', 'ok')]") == 1
    assert more("encas_requests_total[('model', 'digits'), ('protocol', 'rest'), ('reason', 'invalid')]") == 1
    assert more("encas_requests_total[('model', ''), ('protocol', 'rest'), ('reason', 'unknown_model')]") == 1
    assert not any("anything" in name for name in after)  # clients cannot make labels
    assert more(f"encas_samples_total{of_model}") == 2
    assert more(f"encas_macs_total{of_model}") == sum(outputs["macs"])
    assert more(f"encas_stage_samples_total{first}") == 2
    assert more(f"encas_stage_exits_total{first}") == outputs["exit_stage"].count(0)
    assert more(f"encas_confidence_count{first}") == 2
    for name in ("request", "queue", "preprocess", "inference"):
        assert more(f"encas_{name}_seconds_count{of_model}") == 1
        assert more(f"encas_{name}_seconds_sum{of_model}") >= 0
    assert after["encas_ready[]"] == 1
    assert after["encas_pending_requests[]"] == 0
    assert new["inference_count"] - old["inference_count"] == 2
    counts = [one["inference_stats"]["success"]["count"] for one in (new, old)]
    assert counts[0] - counts[1] == 1
    assert new["stage_stats"][0]["reached"] - old["stage_stats"][0]["reached"] == 2
    assert new in http.get("/v2/models/stats").json()["model_stats"]


def record(**changes: Any) -> Record:
    fields = {
        "protocol": "rest",
        "model": "digits",
        "version": "1",
        "kind": OK,
        "start_s": 100.0,
        "total_s": 0.5,
        "n": 2,
        "times": Times(0.1, 0.05, 0.2),
        "exit_stages": (0, 2),
        "macs": 7,
        "request_id": "r",
        "headers": {"traceparent": TRACE},
    }
    return Record(**{**fields, **changes})


def test_a_request_is_a_span_below_the_callers_with_one_for_each_part() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = Spans(provider)
    spans.finished(record())
    *parts, whole = exporter.get_finished_spans()
    assert whole.name == "encas.infer"
    assert f"{whole.context.trace_id:032x}" == TRACE.split("-")[1]
    assert whole.parent is not None and f"{whole.parent.span_id:016x}" == TRACE.split("-")[2]
    assert (whole.start_time, whole.end_time) == (100_000_000_000, 100_500_000_000)
    assert dict(whole.attributes or {})["encas.exit_stages"] == (0, 2)
    assert [part.name for part in parts] == ["encas.preprocess", "encas.queue", "encas.inference"]
    assert all(part.parent == whole.context for part in parts)
    exporter.clear()
    spans.finished(record(kind=kind_of(Overloaded("x")), times=None))
    (refused,) = exporter.get_finished_spans()
    assert refused.status.description == "queue_full"


def test_a_request_is_a_line_of_json() -> None:
    file = io.StringIO()
    log = RequestLog(file)
    log.finished(record())
    log.finished(record(kind=kind_of(Overloaded("x")), times=None))
    first, second = map(json.loads, file.getvalue().splitlines())
    assert first["time"] == "1970-01-01T00:01:40.000+00:00"
    assert (first["request_id"], first["traceparent"], first["outcome"]) == ("r", TRACE, "ok")
    assert (first["exit_stages"], first["macs"], first["inference_s"]) == ([0, 2], 7, 0.2)
    assert second["outcome"] == "queue_full"
    assert "samples" not in second
