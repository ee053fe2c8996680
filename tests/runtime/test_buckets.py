from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from encas.runtime.buckets import Buckets, bucket_sizes, open_buckets
from encas.runtime.session import open_session, provider_failure

CUDA_FAILURE = provider_failure("cuda")
ON_CUDA = [pytest.mark.gpu, pytest.mark.skipif(CUDA_FAILURE is not None, reason=f"no CUDA: {CUDA_FAILURE}")]
DEVICES = [
    pytest.param(("cpu", False), id="cpu"),
    pytest.param(("cpu", True), id="cpu, a session for each size"),
    pytest.param(("cuda", False), id="cuda", marks=ON_CUDA),
    pytest.param(("cuda", True), id="cuda graphs", marks=ON_CUDA),
]
LIMIT = 6  # no power of two


@pytest.fixture(params=DEVICES)
def buckets(request: pytest.FixtureRequest, networks: Any, tmp_path: Path) -> Buckets:
    (provider, each), model = request.param, networks[3].onnx_bytes()
    session, path = open_session(model, provider), tmp_path / "network.onnx"
    path.write_bytes(model)
    if provider == "cpu" and each:
        return Buckets(session, (1, 8, 8), 10, LIMIT, lambda _size: open_session(model, "cpu"))
    return open_buckets(session, path, (1, 8, 8), 10, LIMIT, graphs=each)


@pytest.fixture
def samples(digits: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    scaled: np.ndarray[Any, np.dtype[np.float32]] = (digits.images[:40] / np.float32(255)).astype(np.float32)
    return scaled[:, None]


def test_buckets_are_powers_of_two_and_the_limit() -> None:
    assert [bucket_sizes(n) for n in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


def test_any_rows_in_any_order_are_answered_as_by_the_plain_session(
    buckets: Buckets, samples: Any, networks: Any
) -> None:
    plain = open_session(networks[3].onnx_bytes(), "cpu").run(samples)
    source = buckets.upload(samples)
    rng = np.random.default_rng(1)
    for n in rng.permutation(18):  # large before small and the other way; none, and more than the largest
        rows = rng.permutation(len(samples))[:n]
        assert buckets.run_rows(source, rows) == pytest.approx(plain[rows], abs=1e-5)
        assert buckets.run(samples[rows]) == pytest.approx(plain[rows], abs=1e-5)


def test_what_pads_a_bucket_does_not_reach_an_answer(buckets: Buckets, samples: Any) -> None:
    spoilt = samples.copy()
    spoilt[1:] = np.nan
    buckets.run_rows(buckets.upload(spoilt), np.arange(1, 5))  # leaves NaN behind in a bucket of 4
    found = buckets.run_rows(buckets.upload(spoilt), np.array([0, 0, 0]))
    assert found.shape == (3, 10)
    assert np.isfinite(found).all()


def test_a_batch_that_was_uploaded_is_not_kept(buckets: Buckets, samples: Any) -> None:
    buckets.run_rows(buckets.upload(samples), np.arange(3))
    for bucket in buckets._buckets:
        with pytest.raises(Exception, match=r"(?i)missing input"):  # nothing is bound any more
            buckets._gather.run_with_iobinding(bucket.gather)


def test_every_bucket_runs_in_the_warm_up(buckets: Buckets) -> None:
    assert buckets.sizes == (1, 2, 4, 6)
    for bucket in buckets._buckets:
        bucket.probs.update_inplace(np.full((bucket.size, 10), -1, np.float32))
    buckets.warm_up()
    for bucket in buckets._buckets:
        assert bucket.probs.numpy().sum(axis=1) == pytest.approx(np.ones(bucket.size), abs=1e-5)


def test_every_node_runs_on_the_provider_that_was_asked_for(buckets: Buckets) -> None:
    names = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    assert set(buckets.session.assigned) == {names[buckets.provider]}
    assert sum(buckets.session.assigned.values()) >= 4
