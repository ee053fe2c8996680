"""Tests of drift: quiet while nothing changes, at the stated rate, and loud soon after it does."""

import io
import json
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from encas.bundle import Bundle, BundleFile
from encas.files import read_model, sha256_of, write_model
from encas.reference import reference_of
from encas.runtime import CascadeExecutor
from encas.serve.alarms import Alarms
from encas.serve.drift import WINDOW, DriftTest, RiskTest
from encas.serve.logs import RequestLog
from encas.serve.service import Event

if TYPE_CHECKING:
    from tests.conftest import Digits, Served

FLAT = np.full(40, 1 / 40)


def tilted(by: float) -> NDArray[np.float64]:
    weights = np.exp(by * np.linspace(-1, 1, 40))
    return np.asarray(weights / weights.sum())


def stream(seed: int, n_reference: int) -> tuple[DriftTest, np.random.Generator]:
    rng = np.random.default_rng(seed)
    counts = np.bincount(rng.choice(40, n_reference, p=FLAT), minlength=40)
    return DriftTest(counts, rng), rng


class TestDriftTest:
    @pytest.mark.slow
    @pytest.mark.parametrize("n_reference", [50, 1000, 20_000])
    def test_without_a_change_it_is_quiet_for_a_hundred_windows(self, n_reference: int) -> None:
        test, rng = stream(1, n_reference)
        for _ in range(100):
            assert not test.add(rng.choice(40, WINDOW, p=FLAT))
        assert not test.alarm and test.n_alarms == 0

    @pytest.mark.parametrize("before", [0, 900, 1990, 10_000])
    def test_a_change_is_found_whenever_it_comes(self, before: int) -> None:
        test, rng = stream(2, 5000)
        test.add(rng.choice(40, before, p=FLAT))
        assert test.n_alarms == 0
        found = [test.add(rng.choice(40, 10, p=tilted(0.8))) for _ in range(90)]
        assert any(found) and test.alarm

    def test_an_easier_world_is_a_change_too(self) -> None:
        test, rng = stream(3, 5000)
        assert test.add(rng.choice(40, 600, p=tilted(-1.0)))

    def test_the_alarm_ends_with_a_window_without_one(self) -> None:
        test, rng = stream(4, 5000)
        while not test.add(rng.choice(40, 50, p=tilted(2.0))):
            pass
        test.add(rng.choice(40, WINDOW - 50, p=FLAT))
        assert test.alarm
        test.add(rng.choice(40, 50, p=FLAT))
        assert not test.alarm and test.n_alarms == 1

    def test_how_samples_are_handed_in_does_not_matter(self) -> None:
        found = []
        for size in (1, 7, 500):
            test, rng = stream(5, 300)
            places = rng.choice(40, 500, p=FLAT)
            for start in range(0, 500, size):
                test.add(places[start : start + size])
            found.append(test.evidence)
        assert found[0] == found[1] == found[2]

    def test_ranks_are_uniform_and_ties_are_broken(self) -> None:
        test, rng = stream(6, 30)
        ranks = np.concatenate([test._ranks(rng.choice(40, 50, p=FLAT)) for _ in range(200)])
        counts = np.bincount((10 * ranks).astype(int), minlength=10)
        assert ((counts - 1000) ** 2 / 1000).sum() < 27.9  # chi-squared, 9 degrees of freedom, 1 in 1,000
        test, _ = stream(7, 0)
        assert ((test._ranks(np.zeros(3, np.intp)) * [1, 2, 3]) <= [1, 2, 3]).all()


class TestRiskTest:
    def test_a_kept_certificate_raises_nothing(self) -> None:
        rng = np.random.default_rng(0)
        test = RiskTest(risk=0.02)
        assert not any(test.add(lost) for lost in (rng.random(4 * WINDOW) < 0.02).tolist())

    def test_twice_the_risk_is_found(self) -> None:
        rng = np.random.default_rng(1)
        test = RiskTest(risk=0.02)
        assert any(test.add(lost) for lost in (rng.random(WINDOW) < 0.06).tolist())

    def test_the_first_losses_of_many_alone_are_enough(self) -> None:
        test = RiskTest(risk=0.01)
        assert [test.add(True) for _ in range(4)].index(True) <= 2


def test_events_are_kept_logged_and_written(caplog: pytest.LogCaptureFixture) -> None:
    alarms, file = Alarms(0.001), io.StringIO()
    event = Event("drift", "digits", "1", "not as it was", at_s=100.0)
    with caplog.at_level(logging.WARNING, "encas.serve"):
        alarms.noticed(event)
    assert list(alarms.events) == [event]
    assert caplog.messages == ["drift of model 'digits', version 1: not as it was"]
    RequestLog(file).noticed(event)
    assert json.loads(file.getvalue()) == {
        "time": "1970-01-01T00:01:40.000+00:00",
        "event": "drift",
        "model": "digits",
        "version": "1",
        "text": "not as it was",
    }


@pytest.fixture
def referenced(bundle: Bundle, digits: "Digits") -> Bundle:
    """The digits bundle with what it did on the split val."""
    with CascadeExecutor(bundle, "cpu") as executor:
        answers = executor.run(digits.images[digits.val])
    write_model(bundle.path / "reference.json", reference_of("val", [answers], [3]))
    file = read_model(bundle.path / "bundle.json", BundleFile)
    files = {**file.files, "reference.json": sha256_of(bundle.path / "reference.json")}
    write_model(bundle.path / "bundle.json", file.model_copy(update={"files": files}).sealed())
    return Bundle.open(bundle.path)


@pytest.mark.slow
def test_a_server_is_quiet_on_the_test_split_and_tells_of_dark_images_everywhere(
    referenced: Bundle,
    digits: "Digits",
    start_server: "Callable[..., AbstractContextManager[Served]]",
) -> None:
    images = digits.images[digits.test]
    options = ("--provider", "cpu", "--recheck-share", "1", "--log-requests")
    with (
        start_server(referenced.path, *options, complaints=True) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):

        def ask(pixels: Any) -> None:
            for start in range(0, len(pixels), 20):
                part = pixels[start : start + 20]
                tensor = {"name": "image", "datatype": "UINT8", "shape": list(part.shape)}
                body = {"inputs": [{**tensor, "data": part.tolist()}], "outputs": [{"name": "class"}]}
                assert client.post("/v2/models/digits/infer", json=body).status_code == 200

        ask(images)
        (model,) = client.get("/page/state").json()["models"]
        assert model["drift"]["tested"] and not model["drift"]["alarm"]
        assert 'encas_drift_alarm{model="digits"} 0.0' in client.get("/metrics").text
        dark = images.copy()
        dark[::2] = dark[::2] // 3
        ask(dark)
        ask(dark)
        state = client.get("/page/state").json()
        assert state["models"][0]["drift"]["alarm"]
        assert state["events"][-1]["kind"] == "drift" and "not as on 'val'" in state["events"][-1]["text"]
        for _ in range(100):  # rechecks come when there is nothing else to do
            if client.get("/page/state").json()["models"][0]["drift"]["rechecked"]:
                break
            time.sleep(0.05)
        metrics = client.get("/metrics").text
        assert 'encas_drift_alarm{model="digits"} 1.0' in metrics
        assert 'encas_drift_alarms_total{kind="drift",model="digits"}' in metrics
        assert 'encas_rechecked_total{gear="0",model="digits"}' in metrics


def test_rechecks_find_who_is_answered_otherwise_than_by_all_stages(bundle: Bundle, digits: "Digits") -> None:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from encas.serve.engine import Engine, Recheck
    from encas.serve.scheduler import StageLimits

    images = digits.images[digits.test][:120]
    soon = [stage.model_copy(update={"threshold": 0.4}) for stage in bundle.cascade.stages[:-1]]
    stages = (*soon, bundle.cascade.stages[-1])
    bundle = replace(bundle, cascade=bundle.cascade.model_copy(update={"stages": stages}))
    never = [stage.model_copy(update={"threshold": 1.0}) for stage in bundle.cascade.stages[:-1]]
    whole = bundle.cascade.model_copy(update={"stages": (*never, bundle.cascade.stages[-1])})
    with CascadeExecutor(bundle, "cpu") as executor:
        expected = executor.run(images).label == executor.geared(whole).run(images).label
    assert 0 < (~expected).sum() < 30
    found: list[bool] = []
    with ThreadPoolExecutor(2) as pool:
        recheck = Recheck(0.5, lambda _gear, agrees: found.append(agrees), lambda: 0.25)
        engine = Engine(CascadeExecutor(bundle, "cpu"), [StageLimits()] * 3, pool, recheck=recheck)

        async def ask() -> None:
            for row in range(120):
                await engine.infer(images[row : row + 1], 30)
                while len(found) <= row:
                    await asyncio.sleep(0.001)

        asyncio.run(ask())
        engine.close()
    assert found == expected.tolist()


def test_a_reference_of_other_gears_is_refused(referenced: Bundle) -> None:
    from encas.errors import InvalidInput

    assert referenced.reference is not None
    gears = (replace_stages(referenced),)
    write_model(referenced.path / "reference.json", referenced.reference.model_copy(update={"gears": gears}))
    file = referenced.file
    files = {**file.files, "reference.json": sha256_of(referenced.path / "reference.json")}
    write_model(referenced.path / "bundle.json", file.model_copy(update={"files": files}).sealed())
    with pytest.raises(InvalidInput, match=r"reference.json: is about gears of \[2\] stages"):
        Bundle.open(referenced.path)


def replace_stages(bundle: Bundle) -> Any:
    assert bundle.reference is not None
    gear = bundle.reference.gears[0]
    return gear.model_copy(update={"stages": gear.stages[:2]})
