"""The page at `/`, in a real browser, on a bundle with gears and golden samples."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from encas.bundle import Bundle, BundleFile
from encas.files import read_model, sha256_of, write_model
from encas.gears import GearsFile, Point
from encas.runtime import CascadeExecutor

if TYPE_CHECKING:
    from tests.conftest import Digits, Served

pillow = pytest.importorskip("PIL.Image")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
SMALL_QUEUE = ("--provider", "cpu", "--max-queue-size", "64", "--threads", "1")


@pytest.fixture(scope="module")
def shown_bundle(geared_bundle: Bundle, digits: "Digits", tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The geared bundle with golden samples of every exit, and a front of which its gears are three."""
    from encas.export import golden

    path = Path(shutil.copytree(geared_bundle.path, tmp_path_factory.mktemp("page") / "bundle"))
    images = digits.images[digits.test]
    with CascadeExecutor(geared_bundle, "cpu") as executor:
        rows = golden.choose(geared_bundle.cascade, executor.run(images))
    files = golden.write([images[row] for row in rows], path / "golden")
    points = [gear.evaluated["test"] for gear in geared_bundle.gears]
    front = [Point(accuracy=one.accuracy - 0.01, macs=one.macs * 1.4) for one in points[1:]]
    front += [Point(accuracy=one.accuracy, macs=one.macs) for one in points]
    gears = GearsFile(cheaper=geared_bundle.cheaper, front=tuple(sorted(front, key=lambda point: point.macs)))
    write_model(path / "gears.json", gears)
    file = read_model(path / "bundle.json", BundleFile)
    digests = {**file.files, "gears.json": sha256_of(path / "gears.json")}
    digests |= {f"golden/{one.name}": sha256_of(one) for one in files}
    bundle = Bundle(path, file, geared_bundle.cascade, geared_bundle.labels)
    file = file.model_copy(update={"files": digests, "golden": golden.answered(bundle, files)})
    write_model(path / "bundle.json", file.sealed())
    return Bundle.open(path)


@pytest.fixture(scope="module")
def shown(
    shown_bundle: Bundle, start_server: "Callable[..., AbstractContextManager[Served]]"
) -> "Iterator[Served]":
    with start_server(shown_bundle.path, *SMALL_QUEUE) as server:
        yield server


class TestWhatThePageAsksFor:
    def test_the_page_and_its_files_come_from_here_and_may_ask_nobody_else(self, served: "Served") -> None:
        with httpx.Client(base_url=served.url) as client:
            page = client.get("/")
            assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
            assert "default-src 'self'" in page.headers["content-security-policy"]
            assert "//" not in page.text.replace("<!doctype html>", "")
            for name, kind in (("page.mjs", "text/javascript"), ("page.css", "text/css")):
                found = client.get(f"/page/{name}")
                assert found.status_code == 200 and found.headers["content-type"].startswith(kind)
            for wrong in ("/page/web.py", "/page/..%2Fweb.py", "/page/samples/digits/0", "/page/samples/x/0"):
                answer = client.get(wrong)
                assert answer.status_code == 404 and "error" in answer.json()

    def test_the_state_says_what_the_model_is_and_does(self, served: "Served", bundle: Bundle) -> None:
        with httpx.Client(base_url=served.url) as client:
            before = client.get("/page/state").json()["models"][0]["recent"]
            tensor = {"name": "image", "datatype": "UINT8", "shape": [3, 8, 8], "data": [9] * 192}
            assert client.post("/v2/models/digits/infer", json={"inputs": [tensor]}).status_code == 200
            (model,) = client.get("/page/state").json()["models"]
        assert (model["name"], model["ready"], model["gear"], model["front"]) == ("digits", True, 0, [])
        (gear,) = model["gears"]
        assert [stage["member"] for stage in gear["stages"]] == list(bundle.cascade.member_names)
        assert gear["accuracy"] is None
        assert model["recent"]["samples"] - before["samples"] == 3
        assert model["recent"]["p50_s"] > 0


def test_a_minute_is_kept_and_no_more() -> None:
    from encas.serve.engine import Times
    from encas.serve.live import Live
    from encas.serve.refusals import OK, Overloaded, kind_of
    from encas.serve.service import Record

    now = [0.0]
    live = Live(lambda: now[0])

    def ask(total_s: float, gear: int = 0, exits: tuple[int, ...] = (0,)) -> None:
        times = Times(0.0, 0.0, total_s)
        live.finished(
            Record(
                "rest", "a", "1", OK, 0, total_s, len(exits), times, exits, gear=gear, macs=10 * len(exits)
            )
        )

    assert live.of("a").p50_s is None and live.of("a").macs is None
    ask(9.0, exits=(2, 2))
    now[0] = 30.0
    for _ in range(99):
        ask(0.010)
    ask(1.0, gear=1, exits=(0, 1))
    live.finished(Record("rest", "a", "", kind_of(Overloaded("a")), 0, 0.001))
    found = live.of("a")
    assert (found.answered, found.refused, found.samples, found.macs) == (101, 1, 103, 10)
    now[0] = 61.0
    found = live.of("a")
    assert (found.answered, found.samples, found.seconds) == (100, 101, 60)
    assert found.p50_s == pytest.approx(0.010, rel=0.06) and found.p99_s == pytest.approx(0.010, rel=0.06)
    assert [(one.gear, one.stage, one.n) for one in found.exits] == [(0, 0, 99), (1, 0, 1), (1, 1, 1)]
    now[0] = 200.0
    assert live.of("a").answered == 0


def test_predict_gives_the_classes_and_the_confidence_after_each_stage(
    served: "Served", bundle: Bundle, digits: "Digits", tmp_path: Path
) -> None:
    images = digits.images[digits.test][:60]
    with CascadeExecutor(bundle, "cpu") as executor:
        expected = executor.run(images)
    row = int(np.flatnonzero(expected.exit_stage == 2)[0])
    pillow.fromarray(images[row]).save(tmp_path / "digit.png")
    content = (tmp_path / "digit.png").read_bytes()
    (found,) = httpx.post(f"{served.url}/predict?top=3", content=content).json()["predictions"]
    assert len(found["confidences"]) == 3
    assert found["confidences"][2] == pytest.approx(found["confidence"])
    assert max(found["confidences"][:2]) <= 0.8
    best = np.argsort(-expected.probs[row])[:3]
    assert [one["label"] for one in found["classes"]] == [f"digit {i}" for i in best]
    assert found["classes"][0]["probability"] == pytest.approx(expected.probs[row].max(), abs=1e-3)


@pytest.fixture
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any, shown: "Served") -> Iterator[Callable[..., Any]]:
    """Open the page; complaints and questions to other hosts fail the test."""
    complaints: list[str] = []

    def opened(**options: Any) -> Any:
        page = browser.new_page(**options)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on(
            "request",
            lambda request: (
                complaints.append(request.url)
                if not request.url.startswith((shown.url, "blob:", "data:"))
                else None
            ),
        )
        page.goto(shown.url)
        says(page, "#said", "Ready")
        return page

    yield opened
    assert [text for text in complaints if "400 (Bad Request)" not in text] == []


def says(page: Any, selector: str, text: str) -> None:
    """Wait until some text is there; the page's policy lets nobody evaluate strings in it."""
    page.locator(selector).filter(has_text=text).first.wait_for(timeout=30_000)


def answered(page: Any) -> dict[str, Any]:
    page.wait_for_selector("#said[data-answer]")
    found: dict[str, Any] = json.loads(page.get_attribute("#said", "data-answer"))
    return found


@pytest.mark.slow
def test_golden_samples_are_answered_with_each_stages_confidence_and_cost(
    open_page: Callable[..., Any], shown_bundle: Bundle
) -> None:
    page = open_page(viewport=DESKTOP)
    spent = np.cumsum([member.macs for member in shown_bundle.stage_members])
    for number, sample in enumerate(shown_bundle.file.golden):
        page.evaluate("delete document.getElementById('said').dataset.answer")
        page.locator("#samples button").nth(number).click()
        found = answered(page)
        assert (found["class_index"], found["exit_stage"]) == (sample.label, sample.exit_stage)
        assert found["macs"] == spent[sample.exit_stage]
        assert page.locator("#stages li.ran").count() == sample.exit_stage + 1
        for stage, confidence in enumerate(found["confidences"]):
            text = page.locator("#stages li").nth(stage).text_content()
            assert f"{100 * confidence:.1f} % sure after it" in text
            assert ("answered here" in text) == (stage == sample.exit_stage)
        said = page.text_content("#said")
        assert shown_bundle.labels[sample.label] in said and "in gear 0" in said
        saved = 1 - spent[sample.exit_stage] / spent[-1]
        assert (f"{100 * saved:.1f} % saved" if saved else "nothing saved") in said
        assert page.locator("#samples button[aria-pressed=true]").count() == 1
    says(page, "#exits", "stage 3: hidden512")
    assert "gear0 of 0 to 2" in page.text_content("#figures")


@pytest.mark.slow
def test_a_dropped_image_is_answered_and_what_is_none_is_said(
    open_page: Callable[..., Any], shown_bundle: Bundle, tmp_path: Path
) -> None:
    page = open_page(viewport=DESKTOP)
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "mine.png", {type: "image/png"}));
            return transfer;
        }""",
        list((shown_bundle.path / shown_bundle.file.golden[0].file).read_bytes()),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    assert answered(page)["class_index"] == shown_bundle.file.golden[0].label
    assert page.get_attribute("#drop img", "alt") == "mine.png"
    (tmp_path / "<b>notes.png").write_text("no image")
    page.set_input_files("#file", tmp_path / "<b>notes.png")
    says(page, "#said", "cannot be answered")
    assert "<b>notes.png cannot be answered: image 0: is no image" in page.text_content("#said")
    assert page.locator("#said b").count() == 0


@pytest.mark.slow
def test_everything_works_by_keyboard_and_has_a_name(open_page: Callable[..., Any]) -> None:
    page = open_page(viewport=PHONE, has_touch=True)
    order = []
    for _ in range(7):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        if order[-1] == "file":
            break
    assert order[0] == "Skip to the answer" and order[-1] == "file"
    page.keyboard.press("Tab")  # the first sample
    page.keyboard.press("Enter")
    answered(page)
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    tree = page.locator("body").aria_snapshot()
    for named in (
        'heading "Answer"',
        'heading "Front"',
        'group "Golden samples"',
        'button "sample 1" [pressed]',
        "status:",
        'img "Accuracy by cost of 5 cascades; gear 0 is in use',
        'rowheader "0, in use"',
        'list "Stages"',
    ):
        assert named in tree, named
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, img")].filter(one => !one.alt
            && !one.textContent.trim() && !one.querySelector("img[alt]") && !one.labels?.length).length"""
    )
    assert unnamed == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.slow
def test_the_gear_in_use_is_shown_while_there_is_too_much_to_do(
    open_page: Callable[..., Any], shown: "Served", digits: "Digits"
) -> None:
    page = open_page(viewport=DESKTOP)
    images = np.repeat(digits.images[digits.test][:20], 3, axis=0)
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(images.shape), "data": images.tolist()}
    body = json.dumps({"inputs": [tensor]})
    stop = False

    def load(_number: int) -> set[int]:
        statuses = set()
        with httpx.Client(timeout=30) as client:
            while not stop:
                statuses.add(client.post(f"{shown.url}/v2/models/digits/infer", content=body).status_code)
        return statuses

    with ThreadPoolExecutor(6) as threads:
        running = threads.map(load, range(6))
        try:
            page.wait_for_selector("#gears tr[aria-current=true] th:not(:text('0, in use'))", timeout=30_000)
            says(page, "#exits", "gear 2, stage 1")
        finally:
            stop = True
        assert set().union(*running) <= {200, 503}
    page.wait_for_selector("#gears tr[aria-current=true] th:text('0, in use')", timeout=30_000)
    assert "The server changed from gear" in page.text_content("#shifts")


@pytest.mark.slow
def test_where_a_token_is_needed_the_page_asks_for_it(
    browser: Any,
    shown_bundle: Bundle,
    tmp_path: Path,
    start_server: "Callable[..., AbstractContextManager[Served]]",
) -> None:
    (tmp_path / "tokens").write_text(token := "a-token-of-more-than-thirty-two-characters")
    with start_server(shown_bundle.path, *SMALL_QUEUE, "--token-file", tmp_path / "tokens") as server:
        assert httpx.get(f"{server.url}/page/state").status_code == 401
        page = browser.new_page(viewport=PHONE)
        page.goto(server.url)
        says(page, "#said", "a token is needed")
        for wrong_or_right, answer in ((f"{token}!", "does not open the server"), (token, "Ready")):
            page.fill("#token", wrong_or_right)
            page.keyboard.press("Enter")
            says(page, "#said", answer)
        assert not page.is_visible("#door")
        page.locator("#samples button").first.click()
        assert answered(page)["class_index"] == shown_bundle.file.golden[0].label
