import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("onnxruntime")
pillow = pytest.importorskip("PIL.Image")

from encas.bundle import Bundle  # noqa: E402
from encas.cascade import Answers, Cascade, Stage  # noqa: E402
from encas.errors import InvalidInput  # noqa: E402
from encas.evaluation import recorded_answers  # noqa: E402
from encas.pool import Pool  # noqa: E402
from encas.runtime.executor import CascadeExecutor  # noqa: E402
from encas.runtime.session import provider_failure  # noqa: E402

HALF_A_STEP = 2**-12  # of float16 below 1
CUDA_FAILURE = provider_failure("cuda")
ON_CUDA = [pytest.mark.gpu, pytest.mark.skipif(CUDA_FAILURE is not None, reason=f"no CUDA: {CUDA_FAILURE}")]
EVERYWHERE = [
    pytest.param(("cpu", None, False), id="cpu"),
    pytest.param(("cpu", 24, False), id="buckets"),
    pytest.param(("cuda", None, False), id="cuda", marks=ON_CUDA),
    pytest.param(("cuda", None, True), id="cuda graphs", marks=ON_CUDA),
]
quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=EVERYWHERE)
def executor(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[CascadeExecutor]:
    """Run as it does on a CPU; as it does on a GPU, but on a CPU; and on a GPU, where there is one."""
    provider, max_bucket, graphs = request.param
    with CascadeExecutor(bundle, provider, max_bucket=max_bucket, cuda_graphs=graphs) as opened:
        yield opened


@pytest.fixture
def images(digits: Any) -> NDArray[np.uint8]:
    chosen: NDArray[np.uint8] = digits.images[digits.test]
    return chosen


def prepared(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (images.astype(np.float32) / np.float32(255))[:, None]


def decided(cascade: Cascade, pool: Pool, split: str = "test") -> NDArray[np.bool_]:
    """Samples whose confidence is nowhere so close to a threshold that rounding decides."""
    clear = np.ones(pool.split(split).n, np.bool_)
    total = np.zeros((pool.split(split).n, pool.n_classes), np.float32)
    for j, stage in enumerate(cascade.stages[:-1]):
        probs = pool.probs(stage.member, split).astype(np.float32)
        total = probs if cascade.combine == "last" else total + probs
        confidence = (total / (1 if cascade.combine == "last" else j + 1)).max(axis=1)
        assert stage.threshold is not None
        clear &= np.abs(confidence - stage.threshold) > 1e-4 + HALF_A_STEP
    return clear


def assert_agree(found: Answers, recorded: Answers, where: NDArray[np.bool_]) -> None:
    assert where.mean() > 0.9
    assert np.array_equal(found.exit_stage[where], recorded.exit_stage[where])
    assert np.array_equal(found.label[where], recorded.label[where])
    assert np.array_equal(found.macs[where], recorded.macs[where])
    assert found.probs[where] == pytest.approx(recorded.probs[where], abs=2 * HALF_A_STEP)
    assert found.confidence[where] == pytest.approx(recorded.confidence[where], abs=2 * HALF_A_STEP)


def in_batches(executor: CascadeExecutor, images: NDArray[np.uint8], size: int) -> Answers:
    parts = [executor.run(images[start : start + size]) for start in range(0, len(images), size)]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    return Answers(**joined)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_executor_decides_as_the_recorded_outputs_do(
    size: int, executor: CascadeExecutor, images: NDArray[np.uint8], pool_path: Path
) -> None:
    cascade, pool = executor.bundle.cascade, Pool.open(pool_path)
    recorded = recorded_answers(cascade, pool, "test")
    assert_agree(in_batches(executor, images, size), recorded, decided(cascade, pool))


@quick
@given(order=st.permutations(range(60)), size=st.integers(1, 60))
def test_a_sample_gets_the_same_answer_in_any_order_and_company(
    order: list[int], size: int, executor: CascadeExecutor, images: NDArray[np.uint8], pool_path: Path
) -> None:
    where = decided(executor.bundle.cascade, Pool.open(pool_path))[order]
    alone, mixed = executor.run(images[:60]), in_batches(executor, images[order], size)
    assert np.array_equal(mixed.exit_stage[where], alone.exit_stage[order][where])
    assert np.array_equal(mixed.label[where], alone.label[order][where])
    assert mixed.probs[where] == pytest.approx(alone.probs[order][where], abs=2 * HALF_A_STEP)


@quick
@given(data=st.data())
def test_any_cascade_decides_as_the_recorded_outputs_do(
    data: st.DataObject, whole_bundle: Bundle, images: NDArray[np.uint8], pool_path: Path
) -> None:
    names = st.sampled_from([member.name for member in whole_bundle.file.members])
    members = data.draw(st.lists(names, min_size=1, max_size=5))
    thresholds = [data.draw(st.integers(0, 50)) / 50 for _ in members[1:]]
    cascade = Cascade(
        stages=tuple(
            Stage(member=name, threshold=threshold)
            for name, threshold in zip(members, [*thresholds, None], strict=True)
        ),
        combine=data.draw(st.sampled_from(["mean", "last"])),
    )
    pool = Pool.open(pool_path)
    with CascadeExecutor(replace(whole_bundle, cascade=cascade), "cpu") as executor:
        assert_agree(executor.run(images), recorded_answers(cascade, pool, "test"), decided(cascade, pool))


def test_every_form_of_an_image_gets_the_same_answer(
    executor: CascadeExecutor, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    images = images[:20]
    expected = executor.run(images)
    files = []
    for row, image in enumerate(images):
        files.append(tmp_path / f"{row:02}.png")
        pillow.fromarray(image).save(files[-1])
    encoded = [file.read_bytes() for file in files]
    shown = [pillow.fromarray(image) for image in images]
    colour = np.repeat(images[..., None], 3, axis=3)
    mixed = [files[0], encoded[1], shown[2], images[3], *files[4:]]
    for same in (files, encoded, shown, list(images), colour, prepared(images), mixed):
        found = executor.run(same)
        assert np.array_equal(found.probs, expected.probs)
        assert np.array_equal(found.exit_stage, expected.exit_stage)


def test_only_survivors_run_and_their_macs_are_counted(
    executor: CascadeExecutor, images: NDArray[np.uint8], networks: Any
) -> None:
    answers, trace = executor.run_traced(images)
    assert trace.rows == tuple(int((answers.exit_stage >= j).sum()) for j in range(3))
    assert 600 == trace.rows[0] > trace.rows[1] > trace.rows[2] > 0
    macs = {network.name: network.macs for network in networks}
    names = executor.bundle.cascade.member_names
    assert trace.macs == sum(n * macs[name] for n, name in zip(trace.rows, names, strict=True))
    assert trace.macs == answers.macs.sum()


def test_a_stage_that_nobody_reaches_does_not_run(whole_bundle: Bundle, images: NDArray[np.uint8]) -> None:
    stages = (Stage(member="hidden004", threshold=0.0), Stage(member="hidden512"))
    with CascadeExecutor(replace(whole_bundle, cascade=Cascade(stages=stages)), "cpu") as executor:
        _, trace = executor.run_traced(images)
    assert trace.rows == (600, 0)
    assert trace.run_s[0] > 0 and trace.run_s[1] == 0


def test_a_member_at_two_stages_runs_from_one_session(
    whole_bundle: Bundle, images: NDArray[np.uint8]
) -> None:
    again = (Stage(member="hidden016", threshold=0.8), Stage(member="hidden016"))
    once = (Stage(member="hidden016"),)
    with (
        CascadeExecutor(replace(whole_bundle, cascade=Cascade(stages=again)), "cpu") as twice,
        CascadeExecutor(replace(whole_bundle, cascade=Cascade(stages=once)), "cpu") as single,
    ):
        assert list(twice.runners) == ["hidden016"]
        assert np.array_equal(twice.run(images).label, single.run(images).label)


def with_preprocess(bundle: Bundle, name: str, **changes: Any) -> Bundle:
    members = tuple(
        member.model_copy(update={"preprocess": member.preprocess.model_copy(update=changes)})
        if member.name == name
        else member
        for member in bundle.file.members
    )
    return replace(bundle, file=bundle.file.model_copy(update={"members": members}))


def test_each_distinct_preprocessing_is_done_once_and_for_survivors_only(
    bundle: Bundle, images: NDArray[np.uint8]
) -> None:
    with CascadeExecutor(with_preprocess(bundle, "hidden512", crop_pct=0.8), "cpu") as executor:
        _, trace = executor.run_traced(images)
        # The first two stages share their tensors; the third makes its own, for those that get there.
        assert trace.n_resized == 600 + trace.rows[2]
        with pytest.raises(InvalidInput, match="3 stages prepare images in 2 different ways"):
            executor.run(prepared(images))


def test_a_stage_with_its_own_preprocessing_sees_the_right_samples(
    bundle: Bundle, images: NDArray[np.uint8]
) -> None:
    # The same numbers by another description: 2 * (x - 0.5) + 1 = 2 x, against x: a different network input.
    changed = with_preprocess(bundle, "hidden064", mean=(0.1,))
    with CascadeExecutor(changed, "cpu") as whole:
        batch = whole.run(images[:100])
        one_by_one = in_batches(whole, images[:100], 1)
    assert np.array_equal(batch.exit_stage, one_by_one.exit_stage)
    assert batch.probs == pytest.approx(one_by_one.probs, abs=2 * HALF_A_STEP)
    assert len(set(batch.exit_stage)) == 3


def test_no_images_get_no_answers(executor: CascadeExecutor) -> None:
    kinds: list[Any] = [[], np.empty((0, 8, 8), np.uint8), np.empty((0, 1, 8, 8), np.float32)]
    for nothing in kinds:
        answers, trace = executor.run_traced(nothing)
        assert len(answers) == 0
        assert answers.probs.shape == (0, 10)
        assert trace.rows == (0, 0, 0)


def test_threads_get_their_own_answers(executor: CascadeExecutor, images: NDArray[np.uint8]) -> None:
    parts = [images[start : start + 12] for start in range(0, 600, 12)]
    alone = [executor.run(part) for part in parts]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(executor.run, parts))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.probs, other.probs)
        assert np.array_equal(one.exit_stage, other.exit_stage)


def test_nan_in_an_answer_is_an_error_that_names_member_and_image(
    executor: CascadeExecutor, images: NDArray[np.uint8]
) -> None:
    tensor = prepared(images[:5])
    tensor[3, 0, 2, 2] = np.nan
    with pytest.raises(InvalidInput, match="'hidden016' answered NaN or infinity for image 3"):
        executor.run(tensor)


def test_an_unreadable_image_is_named(executor: CascadeExecutor, images: NDArray[np.uint8]) -> None:
    with pytest.raises(InvalidInput, match="image 1: is no image"):
        executor.run([images[0], b"garbage"])
    with pytest.raises(InvalidInput, match=r"gone\.png: no such file"):
        executor.run([Path("gone.png")])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8)), "must be float32"),
        (np.zeros((2, 1, 8, 9), np.float32), r"\(n, 1, 8, 8\), is float32 of \(2, 1, 8, 9\)"),
        (np.zeros((8, 8), np.uint8), "put a single image into a list"),
        (np.zeros((8, 8, 3), np.uint8), "put a single image into a list"),
        (np.zeros((2, 8, 8, 4), np.uint8), "uint8 of shape"),
        (np.array(3, np.uint8), "uint8 of shape"),
        (b"one image", "put it into a list"),
        (Path("image.png"), "put it into a list"),
        ("image.png", "put it into a list"),
    ],
)
def test_what_are_no_images_is_refused(images: Any, message: str, executor: CascadeExecutor) -> None:
    with pytest.raises(InvalidInput, match=message):
        executor.run(images)


def test_a_closed_executor_does_not_run(bundle: Bundle, images: NDArray[np.uint8]) -> None:
    with CascadeExecutor(bundle, "cpu") as executor:
        executor.run(images[:2])
    with pytest.raises(ValueError, match="closed"):
        executor.run(images[:2])


def test_a_folder_is_opened_and_verified(bundle_path: Path) -> None:
    assert CascadeExecutor(str(bundle_path), "cpu").provider == "cpu"
    (bundle_path / "members" / "hidden016.onnx").write_bytes(b"changed")
    with pytest.raises(InvalidInput, match="changed since it was exported"):
        CascadeExecutor(bundle_path, "cpu")


def test_a_network_that_was_exchanged_after_its_bundle_was_verified_is_not_run(bundle: Bundle) -> None:
    (bundle.path / "members" / "hidden016.onnx").write_bytes(b"exchanged")
    with pytest.raises(InvalidInput, match=r"hidden016\.onnx: changed since it was exported"):
        CascadeExecutor(bundle, "cpu")


def test_a_graph_that_does_not_fit_its_description_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InvalidInput, match=r"takes samples of \(1, 8, 8\), bundle.json says \(1, 9, 8\)"):
        CascadeExecutor(with_preprocess(bundle, "hidden016", size=(9, 8)), "cpu")
    with pytest.raises(InvalidInput, match=r"answers 10 classes, labels\.json names 9"):
        CascadeExecutor(replace(bundle, labels=bundle.labels[:9]), "cpu")


def rewritten(bundle: Bundle, name: str, content: bytes) -> Bundle:
    """The bundle with another network for a member, as a hand-made one could have."""
    (bundle.path / bundle.member(name).file).write_bytes(content)
    member = bundle.member(name).model_copy(update={"output": None})
    others = tuple(member if m.name == name else m for m in bundle.file.members)
    digests = {**bundle.file.files, member.file: hashlib.sha256(content).hexdigest()}
    return replace(bundle, file=bundle.file.model_copy(update={"members": others, "files": digests}))


def test_a_member_without_a_softmax_is_found_by_its_sums(
    bundle: Bundle, networks: Any, images: NDArray[np.uint8]
) -> None:
    (network,) = (n for n in networks if n.name == "hidden016")
    broken = rewritten(bundle, "hidden016", network.onnx_bytes(softmax=False))
    with CascadeExecutor(broken, "cpu") as executor:
        for ask in (lambda: executor.run(images), lambda: executor.warm_up(2)):
            with pytest.raises(
                InvalidInput,
                match=r"'hidden016' answered numbers that sum to .*, not to 1; a member must end",
            ):
                ask()


def test_a_member_for_a_fixed_number_of_samples_is_refused(bundle: Bundle, networks: Any) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(networks[0].onnx_bytes())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    broken = rewritten(bundle, "hidden016", model.SerializeToString())
    with pytest.raises(InvalidInput, match=r"takes exactly 4 samples; a free batch axis is needed"):
        CascadeExecutor(broken, "cpu")


def test_warming_up_runs_every_stage_and_changes_no_answer(bundle: Bundle, images: NDArray[np.uint8]) -> None:
    with CascadeExecutor(bundle, "cpu") as cold, CascadeExecutor(bundle, "cpu") as warm:
        warm.warm_up(64)
        assert np.array_equal(warm.run(images).probs, cold.run(images).probs)


def test_jpeg_bytes_are_resized_to_the_network(executor: CascadeExecutor) -> None:
    file = io.BytesIO()
    pillow.new("RGB", (90, 70), (200, 100, 50)).save(file, "JPEG")
    assert len(executor.run([file.getvalue()])) == 1
