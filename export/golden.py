"""Golden samples: real inputs that go into a bundle together with the answers that it must give."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as pillow

from encas.bundle import Bundle, GoldenSample
from encas.cascade import Answers, Cascade
from encas.data import Image
from encas.runtime import CascadeExecutor

N_GOLDEN = 8
_SAFE = 0.01  # so far from a threshold no engine decides otherwise


def choose(cascade: Cascade, answers: Answers, n: int = N_GOLDEN) -> list[int]:
    """Choose samples that cover the exit stages, far from the thresholds where there are such.

    Returns:
        Rising rows, at most n, or one for each stage if there are more stages.
    """
    stages = np.unique(answers.exit_stage)
    chosen: list[int] = []
    for j, stage in enumerate(stages):
        share = max(1, n // len(stages) + (j < n % len(stages)))
        rows = np.flatnonzero(answers.exit_stage == stage)
        threshold = cascade.stages[stage].threshold
        if threshold is not None:
            safe = rows[answers.confidence[rows] - threshold > _SAFE]
            rows = safe if len(safe) else rows
        spread = np.unique(np.linspace(0, len(rows) - 1, share).round().astype(np.intp))
        chosen += rows[spread].tolist()
    return sorted(chosen)


def write(images: Sequence[Image], folder: Path) -> list[Path]:
    """Write images into a folder: files as they are, pixels as PNG."""
    folder.mkdir()
    files = []
    for j, image in enumerate(images):
        if isinstance(image, Path):
            files.append(folder / f"{j}{image.suffix.lower()}")
            shutil.copyfile(image, files[-1])
        else:
            files.append(folder / f"{j}.png")
            pillow.fromarray(image).save(files[-1])
    return files


def answered(bundle: Bundle, files: Sequence[Path]) -> tuple[GoldenSample, ...]:
    """Return what the bundle says of files inside it."""
    with CascadeExecutor(bundle, "cpu") as executor:
        answers = executor.run(files)
    return tuple(
        GoldenSample(
            file=str(file.relative_to(bundle.path)),
            label=int(answers.label[row]),
            exit_stage=int(answers.exit_stage[row]),
            confidence=float(answers.confidence[row]),
        )
        for row, file in enumerate(files)
    )
