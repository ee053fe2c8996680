"""The server decides as the executor and the offline evaluation do, in whatever form it is asked."""

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tritonclient import http as triton  # type: ignore[import-untyped]

from encas.bundle import Bundle
from encas.cascade import Answers, Cascade, as_recorded
from encas.evaluation import recorded_answers
from encas.pool import Pool
from encas.runtime.executor import CascadeExecutor

if TYPE_CHECKING:
    from tests.conftest import Digits, Served

FIELDS = {
    "class": "label",
    "exit_stage": "exit_stage",
    "macs": "macs",
    "confidence": "confidence",
    "probs": "probs",
}


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def as_prepared(pixels: NDArray[np.uint8]) -> tuple[str, NDArray[Any]]:
    return "FP32", (pixels / np.float32(255))[:, None]


def as_pixels(pixels: NDArray[np.uint8]) -> tuple[str, NDArray[Any]]:
    return "UINT8", pixels


def as_files(pixels: NDArray[np.uint8]) -> tuple[str, NDArray[Any]]:
    return "BYTES", np.array([png(image) for image in pixels], np.object_)


@pytest.fixture(scope="module")
def client(served: "Served") -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.url.removeprefix("http://")) as client:
        yield client


def ask(
    client: triton.InferenceServerClient, datatype: str, tensor: NDArray[Any], batch: int
) -> dict[str, NDArray[Any]]:
    """Ask for all outputs of n samples, a batch at a time."""
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in FIELDS}
    for start in range(0, len(tensor), batch):
        rows = tensor[start : start + batch]
        image = triton.InferInput("image", list(rows.shape), datatype)
        image.set_data_from_numpy(rows)
        result = client.infer("digits", [image])
        for name, parts in found.items():
            parts.append(result.as_numpy(name))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def near_a_threshold(cascade: Cascade, pool: Pool) -> NDArray[np.bool_]:
    """Samples of the test split so close to a threshold that the last bits of an engine decide."""
    probs = [as_recorded(pool.probs(name, "test")) for name in cascade.member_names]
    near = np.zeros(len(probs[0]), np.bool_)
    for j, stage in enumerate(cascade.stages[:-1]):
        confidence = np.mean(probs[: j + 1], axis=0).max(axis=1)
        near |= np.abs(confidence - stage.threshold) < 1e-4
    return near


@pytest.fixture
def expected(bundle: Bundle, pool_path: Any, digits: "Digits") -> tuple[Answers, NDArray[np.bool_]]:
    """The executor's answers, which are those recorded in the pool, and the rows on which all must agree."""
    pool = Pool.open(pool_path)
    sure = ~near_a_threshold(bundle.cascade, pool)
    with CascadeExecutor(bundle, "cpu") as executor:
        answers = executor.run(digits.images[digits.test])
    recorded = recorded_answers(bundle.cascade, pool, "test")
    assert len(sure) == 600
    assert sure.sum() >= 595
    assert (answers.label == recorded.label)[sure].all()
    assert (answers.exit_stage == recorded.exit_stage)[sure].all()
    assert set(answers.exit_stage.tolist()) == {0, 1, 2}
    return answers, sure


@pytest.mark.parametrize(
    ("form", "batch"),
    [
        pytest.param(as_prepared, 1, marks=pytest.mark.slow),
        (as_prepared, 7),
        (as_prepared, 64),
        pytest.param(as_pixels, 1, marks=pytest.mark.slow),
        (as_pixels, 7),
        (as_pixels, 64),
        pytest.param(as_files, 1, marks=pytest.mark.slow),
        (as_files, 7),
        (as_files, 64),
    ],
)
def test_every_sample_gets_the_answer_of_the_executor(
    form: Callable[[NDArray[np.uint8]], tuple[str, NDArray[Any]]],
    batch: int,
    client: triton.InferenceServerClient,
    digits: "Digits",
    expected: tuple[Answers, NDArray[np.bool_]],
) -> None:
    answers, sure = expected
    order = np.random.default_rng(batch).permutation(len(sure))
    datatype, tensor = form(digits.images[digits.test][order])
    found = ask(client, datatype, tensor, batch)
    agree = sure[order]
    for name in ("class", "exit_stage", "macs"):
        wanted = getattr(answers, FIELDS[name])[order]
        assert found[name].dtype == np.int64
        assert np.array_equal(found[name][agree], wanted[agree])
    for name in ("confidence", "probs"):
        wanted = getattr(answers, FIELDS[name])[order]
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name][agree], wanted[agree], atol=1e-3)
