from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pillow

from encas.bundle import Bundle
from encas.cascade import Answers, Cascade, Stage
from encas.export.golden import answered, choose, write

CASCADE = Cascade(
    stages=(Stage(member="a", threshold=0.7), Stage(member="b", threshold=0.8), Stage(member="c"))
)


def answers(exit_stage: list[int], confidence: list[float]) -> Answers:
    n = len(exit_stage)
    zeros = np.zeros(n, np.int64)
    return Answers(
        np.zeros((n, 2), np.float32), zeros, np.array(confidence, np.float32), np.array(exit_stage), zeros
    )


def test_every_exit_stage_has_samples() -> None:
    found = answers([0] * 50 + [2] + [1] * 9, [0.9] * 60)
    rows = choose(CASCADE, found)
    stages = found.exit_stage[rows].tolist()
    assert (stages.count(0), stages.count(1), stages.count(2)) == (3, 3, 1)
    assert rows == sorted(set(rows))


def test_samples_on_a_threshold_are_left_out_where_there_are_others() -> None:
    found = answers([0, 0, 0, 1], [0.7001, 0.95, 0.7001, 0.8001])
    assert choose(CASCADE, found) == [1, 3]


def test_more_stages_than_samples_are_still_covered() -> None:
    stages = tuple(Stage(member="a", threshold=0.5) for _ in range(11))
    found = answers(list(range(12)), [0.9] * 12)
    assert len(choose(Cascade(stages=(*stages, Stage(member="b"))), found)) == 12


def test_files_are_copied_as_they_are_and_pixels_become_png(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    pillow.fromarray(pixels).save(tmp_path / "a.JPG")
    first, second = write([tmp_path / "a.JPG", pixels], tmp_path / "golden")
    assert first.name == "0.jpg"
    assert first.read_bytes() == (tmp_path / "a.JPG").read_bytes()
    assert np.array_equal(np.asarray(pillow.open(second)), pixels)


def test_the_expected_answer_is_the_bundle_s_own(bundle: Bundle, digits: Any) -> None:
    files = write(list(digits.images[:5]), bundle.path / "golden")
    found = answered(bundle, files)
    assert [sample.file for sample in found] == [f"golden/{j}.png" for j in range(5)]
    assert [sample.label for sample in found] == digits.labels[:5].tolist()
