"""What a transfer looks like."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from encas.search.nat.iteration import Candidates, Evaluated, Evaluation
from encas.search.nat.picture import Round, draw


def a_round(guessed: bool, seed: int) -> Round:
    rng = np.random.default_rng(seed)
    errors = rng.uniform(0.1, 0.9, 8).tolist()
    found = tuple(Evaluation(genes=str(i), error=e, macs=10**6 * (1 + i)) for i, e in enumerate(errors))
    chosen = Candidates(genes=tuple("01234567"), guessed_errors=tuple(errors) if guessed else None)
    return chosen, Evaluated(evaluations=found, train_s=0, evaluate_s=0)


@pytest.mark.slow
def test_only_the_last_iteration_has_its_colour_when_the_archive_grows(tmp_path: Path) -> None:
    rounds = [a_round(i > 0, i) for i in range(5)]
    orange = []
    for archive in (rounds[-1][1].evaluations[:1], [one for _, found in rounds for one in found.evaluations]):
        draw(rounds, [*archive], tmp_path / "a.png")
        picture = np.asarray(pillow.open(tmp_path / "a.png").convert("RGB"))[:, :600]
        orange.append(int((picture == (0xD5, 0x5E, 0x00)).all(axis=2).sum()))
    alone, grown = orange
    assert grown < alone + 1600  # a longer line of the front, but not 32 more dots of about 200 pixels


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 31])
def test_it_has_two_panels_and_the_same_bytes_each_time(tmp_path: Path, n: int) -> None:
    rounds = [a_round(i > 0, i) for i in range(n)]
    for name in ("a.png", "b.png"):
        draw(rounds, rounds[-1][1].evaluations, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    picture = pillow.open(tmp_path / "a.png").convert("RGB")
    assert picture.size == (1600, 800)
    orange = (np.asarray(picture) == (0xD5, 0x5E, 0x00)).all(axis=2)
    columns = np.flatnonzero(orange.any(axis=0))
    assert (
        columns.min() < 600
    )  # the networks of the last iteration, and where they were guessed, on the right
    assert (columns.max() > 900) == (n > 1)
