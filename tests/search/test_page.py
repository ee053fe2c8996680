"""The page of a front, in a real browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from encas.cascade import Cascade
from encas.front import Front
from encas.pool import Pool
from encas.search import search
from encas.search.picture import draw_html

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def fronts(pool_path: Path) -> tuple[Front, Front]:
    pool = Pool.open(pool_path)
    settings: Any = {"evaluations": 600, "report_fraction": 0.3}
    return search(pool, **settings), search(pool, **settings, algorithm="random", out=pool_path / "../random")


@pytest.fixture
def page(browser: Any, fronts: tuple[Front, Front], tmp_path: Path) -> Iterator[Any]:
    """Both fronts on a page, without a network, a candidate of the first chosen; complaints fail the test."""
    chosen = fronts[0].candidates[3].cascade
    draw_html(fronts, tmp_path / "front.html", chosen)
    context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on(
        "request", lambda request: complaints.append(request.url) if "front.html" not in request.url else None
    )
    page.goto((tmp_path / "front.html").as_uri())
    page.wait_for_selector("#said")
    yield page
    context.close()
    assert complaints == []


def said(page: Any) -> str:
    return str(page.text_content("#said"))


def first_lines(front: Front, number: int) -> list[str]:
    cascade: Cascade = front.candidates[number].cascade
    found = front.figures(cascade)
    assert found.interval is not None
    return [
        f"cascade {number + 1} of {len(front.candidates)}: {found.accuracy:.2%} at "
        f"{front.candidates[number].cost / 1e6:.4g} MMACs",
        f"expect {found.interval.low:.2%} to {found.interval.high:.2%} on 600 new samples",
        *(stage.member + ": " for stage in cascade.stages),
    ]


def assert_says(page: Any, front: Front, number: int) -> None:
    for line, expected in zip(said(page).splitlines(), first_lines(front, number), strict=True):
        assert line.startswith(expected)


def test_arrow_keys_go_along_the_fronts_and_a_live_region_tells_where(
    page: Any, fronts: tuple[Front, Front]
) -> None:
    first, other = fronts
    assert page.get_attribute("#said", "aria-live") == "polite"
    page.keyboard.press("ArrowRight")
    assert_says(page, first, 0)
    page.keyboard.press("ArrowLeft")  # stays at the end
    assert_says(page, first, 0)
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert_says(page, first, 2)
    page.keyboard.press("ArrowDown")
    assert_says(page, other, 2)
    page.keyboard.press("End")
    assert_says(page, other, len(other.candidates) - 1)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    assert_says(page, first, 0)


def test_a_mouse_over_a_point_shows_which_cascade_it_is(page: Any, fronts: tuple[Front, Front]) -> None:
    place = page.evaluate(
        """() => {
            const plot = document.getElementById("front");
            const trace = plot.data.findIndex(t => t.customdata);
            const box = plot.querySelector(".nsewdrag").getBoundingClientRect();
            const {xaxis, yaxis} = plot._fullLayout, {x, y} = plot.data[trace];
            return [box.x + xaxis.d2p(x[5]), box.y + yaxis.d2p(y[5])];
        }"""
    )
    page.mouse.move(*place)
    page.wait_for_selector(".hovertext")
    shown = page.text_content(".hoverlayer")
    for line in first_lines(fronts[0], 5):
        assert line in shown
    page.mouse.click(*place)
    assert_says(page, fronts[0], 5)


def test_the_page_says_what_its_lines_are_on_a_logarithmic_axis(
    page: Any, fronts: tuple[Front, Front]
) -> None:
    legend = page.text_content(".legend")
    for name in (
        "single members (8)",
        f"{len(fronts[0].candidates)} cascades (mo-gomea)",
        "chosen",
        "(random)",
    ):
        assert name in legend
    assert page.evaluate("document.getElementById('front')._fullLayout.xaxis.type") == "log"
    assert page.title().startswith("Cascades found")


def test_nothing_on_the_page_lies_outside_or_over_something_else(page: Any) -> None:
    boxes = page.evaluate(
        """() => [".gtitle", ".xtitle", ".ytitle", ".legend", ".nsewdrag", "#said"].map(name => {
            const box = document.querySelector(name).getBoundingClientRect();
            return [name, box.left, box.top, box.right, box.bottom];
        })"""
    )
    for name, left, top, right, bottom in boxes:
        assert 0 <= left < right <= 1200 and 0 <= top < bottom <= 900, name
    assert page.evaluate("document.documentElement.scrollHeight") <= 900
    for i, (name, left, top, right, bottom) in enumerate(boxes):
        for other, left2, top2, right2, bottom2 in boxes[i + 1 :]:
            apart = right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
            assert apart, f"{name} lies over {other}"
