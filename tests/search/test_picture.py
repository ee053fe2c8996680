import re
import struct
from pathlib import Path

import pytest

from encas.errors import InvalidInput
from encas.front import Front
from encas.pool import Latency, Pool
from encas.search import search
from encas.search.picture import draw_html, draw_png

pytestmark = pytest.mark.slow  # the libraries that draw take seconds to load


@pytest.fixture
def front(pool_path: Path) -> Front:
    return search(Pool.open(pool_path), evaluations=400, report_fraction=0)


def test_the_png_is_1200_pixels_wide(front: Front, tmp_path: Path) -> None:
    draw_png([front], tmp_path / "new" / "front.png")
    content = (tmp_path / "new" / "front.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert struct.unpack(">II", content[16:24]) == (1200, 750)


def test_the_same_front_gives_the_same_picture(front: Front, tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_png([front], tmp_path / f"{name}.png")
        draw_html([front], tmp_path / f"{name}.html")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_page_says_what_each_point_is_and_needs_nothing_else(front: Front, tmp_path: Path) -> None:
    draw_html([front], tmp_path / "front.html")
    page = (tmp_path / "front.html").read_text()
    cascade = front.candidates[-1].cascade
    first, leaving = cascade.stages[0], cascade.evaluated["val"].exit_fractions[0]
    assert first.threshold is not None
    # plotly writes < and > as escapes.
    assert f"{first.member}: above {first.threshold:g} ({leaving:.1%})\\u003cbr\\u003e" in page
    assert "mean cost per sample, MMACs" in page
    # Anything that a page loads is named in an attribute of one of its own tags; scripts are inside.
    tags = re.findall(
        r"<(?:script|link|img|iframe)\b[^>]*>", re.sub(r"(?s)(<script[^>]*>).*?</script>", r"\1", page)
    )
    assert tags
    assert not any("src=" in tag or "href=" in tag for tag in tags)


def test_fronts_of_different_costs_are_not_drawn_together(
    front: Front, pool_path: Path, tmp_path: Path
) -> None:
    pool = Pool.open(pool_path)
    timing = Latency(machine="desk", provider="cpu", batch=1, latency_s=0.5, p95_s=1, n=3)
    timed = search(
        pool.with_latency({name: [timing] for name in pool.names}), evaluations=200, objective="latency"
    )
    draw_png([timed], tmp_path / "ms.png")
    with pytest.raises(InvalidInput, match="was searched by macs, front by latency: fronts of one objective"):
        draw_png([front, timed], tmp_path / "both.png")
    assert not (tmp_path / "both.png").exists()
