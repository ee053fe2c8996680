import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pillow = pytest.importorskip("PIL.Image")

from encas.bundle import Bundle  # noqa: E402
from encas.cascade import Answers, Cascade, Rows, Stage, as_recorded, run_cascade  # noqa: E402
from encas.errors import InvalidInput  # noqa: E402
from encas.export import add_single_file, single_file, write_single_file  # noqa: E402
from encas.export.parity import NotTheSame  # noqa: E402
from encas.export.single_file import SingleFile, check_same, tensors_of  # noqa: E402
from encas.files import sha256_of  # noqa: E402
from encas.runtime import CascadeExecutor, create_session  # noqa: E402

quick = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def images(digits: Any) -> NDArray[np.uint8]:
    chosen: NDArray[np.uint8] = digits.images[digits.test]
    return chosen


def ask(single: SingleFile, tensors: Any) -> dict[str, NDArray[Any]]:
    session = create_session(single.path, "cpu")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, tensors), strict=True))


def prepared(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (images.astype(np.float32) / np.float32(255))[:, None]


def assert_equal(found: dict[str, NDArray[Any]], expected: Answers) -> None:
    assert np.array_equal(found["probs"], expected.probs)
    assert np.array_equal(found["exit_stage"], expected.exit_stage)
    assert np.array_equal(found["macs"], expected.macs)
    kinds = {name: (array.dtype.name, array.ndim) for name, array in found.items()}
    assert kinds == {"probs": ("float32", 2), "exit_stage": ("int64", 1), "macs": ("int64", 1)}


@st.composite
def cascades(draw: st.DrawFn, names: tuple[str, ...]) -> Cascade:
    members = draw(st.lists(st.sampled_from(names), min_size=1, max_size=5))
    confidence: Any = draw(st.sampled_from(["max-probability", "logit-gap"]))
    top = 1.0 if confidence == "max-probability" else 8.0
    thresholds = [top * draw(st.integers(0, 50)) / 50 for _ in members[1:]]
    stages = [Stage(member=m, threshold=t) for m, t in zip(members, [*thresholds, None], strict=True)]
    combine: Any = draw(st.sampled_from(["mean", "last"]))
    return Cascade(stages=tuple(stages), combine=combine, confidence=confidence)


@pytest.mark.slow
@quick
@given(data=st.data(), n=st.integers(1, 300))
def test_any_cascade_answers_as_the_executor_does(
    data: st.DataObject, n: int, whole_bundle: Bundle, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    names = tuple(member.name for member in whole_bundle.file.members)
    cascade = data.draw(cascades(names))
    bundle = replace(whole_bundle, cascade=cascade)
    single = write_single_file(bundle, tmp_path / "cascade.onnx")
    with CascadeExecutor(bundle, "cpu") as executor:
        expected = executor.run(images[:n])
    found = ask(single, {"image": prepared(images[:n])})
    if cascade.confidence == "max-probability":
        assert_equal(found, expected)
    else:  # logarithms of two libraries differ in the last bits
        same = found["exit_stage"] == expected.exit_stage
        assert same.mean() > 0.99
        assert np.array_equal(found["probs"][same], expected.probs[same])


@pytest.mark.slow
@quick
@given(
    numbers=st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=9),
    threshold=st.floats(0, 1),
)
def test_probabilities_are_rounded_and_compared_bit_for_bit(
    numbers: list[list[float]], threshold: float, bundle: Bundle, tmp_path: Path
) -> None:
    """Members that answer what they are given show the arithmetic between them."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    given = np.array(numbers, np.float32).reshape(-1, 3, 1, 1)
    for name in ("hidden016", "hidden064"):
        graph = helper.make_graph(
            [helper.make_node("Flatten", ["image"], ["probs"])],
            name,
            [helper.make_tensor_value_info("image", floats, ["batch", 3, 1, 1])],
            [helper.make_tensor_value_info("probs", floats, ["batch", 3])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, bundle.path / bundle.member(name).file)
    stages = (Stage(member="hidden016", threshold=threshold), Stage(member="hidden064"))
    changed = replace(bundle, cascade=Cascade(stages=stages), labels=("a", "b", "c"))
    single = write_single_file(with_members(changed, size=(1, 1), channels=3), tmp_path / "cascade.onnx")

    def member_probs(_stage: int, rows: Rows) -> NDArray[np.float32]:
        return given[rows, :, 0, 0]

    macs = [member.macs for member in changed.stage_members]
    assert_equal(ask(single, {"image": given}), run_cascade(changed.cascade, member_probs, len(given), macs))


def with_members(bundle: Bundle, only: str | None = None, **changes: Any) -> Bundle:
    members = tuple(
        member.model_copy(update={"preprocess": member.preprocess.model_copy(update=changes)})
        if only in (None, member.name)
        else member
        for member in bundle.file.members
    )
    return replace(bundle, file=bundle.file.model_copy(update={"members": members}))


def test_every_float16_is_reached_as_pools_round() -> None:
    halves = np.arange(0, 0x3C01, dtype=np.uint16).view(np.float16).astype(np.float32)
    numbers = np.concatenate(
        [halves, (halves[1:] + halves[:-1]) / 2, np.nextafter(halves, 1), np.nextafter(halves, 0)]
    )
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["y"], to=floats),
    ]
    infos = [[helper.make_tensor_value_info(name, floats, ["n"])] for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "round", *infos), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    found = create_session(model.SerializeToString(), "cpu").run(None, {"x": numbers})[0]
    assert np.array_equal(found, as_recorded(numbers))


def test_a_bundle_gets_its_single_file_and_says_so(bundle: Bundle, images: NDArray[np.uint8]) -> None:
    written = add_single_file(bundle)
    assert written == Bundle.open(bundle.path)
    path = bundle.path / "cascade.onnx"
    assert written.file.files["cascade.onnx"] == sha256_of(path)
    onnx.checker.check_model(str(path), full_check=True)
    with CascadeExecutor(written, "cpu") as executor:
        expected = executor.run(images)
    # What a user does, who has neither this package nor its threads.
    session = create_session(path, "cpu")
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("image", "tensor(float)", ["batch", 1, 8, 8])
    ]
    outputs = ("probs", "exit_stage", "macs")
    found = session.run(list(outputs), {"image": prepared(images)})
    assert_equal(dict(zip(outputs, found, strict=True)), expected)
    assert len(set(expected.exit_stage)) == 3
    props = session.get_modelmeta().custom_metadata_map
    assert json.loads(props["labels"]) == list(bundle.labels)
    stages = json.loads(props["stages"])
    assert [(s["member"], s["threshold"]) for s in stages] == [
        ("hidden016", 0.8),
        ("hidden064", 0.8),
        ("hidden512", None),
    ]
    assert (props["combine"], props["format"]) == ("mean", "encas-single-file/1")


@pytest.mark.slow
def test_a_process_that_knows_nothing_of_this_package_runs_it(
    bundle: Bundle, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    write_single_file(bundle, tmp_path / "cascade.onnx")
    np.save(tmp_path / "image.npy", prepared(images))
    code = (
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession('cascade.onnx')\n"
        "found = session.run(['probs', 'exit_stage', 'macs'], {'image': numpy.load('image.npy')})\n"
        "numpy.savez('found.npz', probs=found[0], exit_stage=found[1], macs=found[2])\n"
        "assert not any(name.startswith('encas') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with np.load(tmp_path / "found.npz") as found, CascadeExecutor(bundle, "cpu") as executor:
        expected = executor.run(images)
        assert np.array_equal(found["exit_stage"], expected.exit_stage)
        assert np.array_equal(found["probs"].argmax(axis=1), expected.label)
        assert found["probs"] == pytest.approx(expected.probs, abs=1e-5)


def test_nobody_gets_an_answer_where_nobody_asks(bundle: Bundle, tmp_path: Path) -> None:
    single = write_single_file(bundle, tmp_path / "cascade.onnx")
    found = ask(single, {"image": np.empty((0, 1, 8, 8), np.float32)})
    assert [found[name].shape for name in ("probs", "exit_stage", "macs")] == [(0, 10), (0,), (0,)]


def test_networks_behind_an_exit_that_all_take_do_not_run(
    bundle: Bundle, images: Any, tmp_path: Path
) -> None:
    stages = (Stage(member="hidden016", threshold=0.0), Stage(member="hidden512"))
    single = write_single_file(replace(bundle, cascade=Cascade(stages=stages)), tmp_path / "cascade.onnx")
    model = onnx.load(single.path)
    (branch,) = (node for node in model.graph.node if node.op_type == "If")
    inner = {node.op_type for attribute in branch.attribute for node in attribute.g.node}
    assert "Gemm" in inner and sum(node.op_type == "Gemm" for node in model.graph.node) == 2
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(single.path, options, providers=["CPUExecutionProvider"])
    session.run(None, {"image": prepared(images[:5])})
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]
    assert "If" in ran and sum("Gemm" in name for name in ran) == 2


def test_members_that_prepare_otherwise_have_inputs_of_their_own(
    bundle: Bundle, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    changed = with_members(bundle, "hidden064", mean=(0.1,))
    single = write_single_file(changed, tmp_path / "cascade.onnx")
    assert list(single.inputs) == ["image_0", "image_1"]
    shown = [pillow.fromarray(image) for image in images]
    with CascadeExecutor(changed, "cpu") as executor:
        assert_equal(ask(single, tensors_of(single, shown)), executor.run(shown))


@pytest.mark.parametrize("crops", [{}, {"crop_pct": 0.8}])
def test_images_of_one_size_are_prepared_inside(
    crops: dict[str, float], bundle: Bundle, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    changed = with_members(with_members(bundle, "hidden064", mean=(0.1,)), "hidden512", **crops)
    single = write_single_file(changed, tmp_path / "cascade.onnx", image_size=(8, 8))
    assert single.inputs == {}
    with CascadeExecutor(changed, "cpu") as executor:
        expected = executor.run(images)
    assert_equal(ask(single, {"image": images[..., None]}), expected)
    assert len(set(expected.exit_stage)) == 3


def test_too_many_weights_for_one_file_lie_beside_it(
    bundle: Bundle, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    whole = write_single_file(bundle, tmp_path / "whole.onnx")
    parted = write_single_file(bundle, tmp_path / "parted/cascade.onnx", most_bytes=100_000)
    assert whole.data is None and parted.data == tmp_path / "parted/cascade.onnx.data"
    assert parted.path.stat().st_size + parted.data.stat().st_size > whole.path.stat().st_size > 100_000
    assert parted.path.stat().st_size < 30_000
    tensors = {"image": prepared(images)}
    for name, array in ask(whole, tensors).items():
        assert np.array_equal(ask(parted, tensors)[name], array)
    assert [p.name for p in sorted((tmp_path / "parted").iterdir())] == ["cascade.onnx", "cascade.onnx.data"]
    again = write_single_file(bundle, tmp_path / "parted/cascade.onnx")  # fits now
    assert again.data is None and [p.name for p in (tmp_path / "parted").iterdir()] == ["cascade.onnx"]
    written = add_single_file(bundle, most_bytes=100_000)
    assert "cascade.onnx.data" in written.file.files


def test_the_same_bundle_gives_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    digests = {sha256_of(write_single_file(bundle, tmp_path / name).path) for name in ("a.onnx", "b.onnx")}
    assert len(digests) == 1


def rewritten(bundle: Bundle, name: str, change: Callable[[Any], Any]) -> Bundle:
    path = bundle.path / bundle.member(name).file
    onnx.save(change(onnx.load(path)), path)
    return bundle


def said_to_have(opset: int) -> Callable[[Any], Any]:
    def change(model: Any) -> Any:
        model.opset_import[0].version = opset
        return model

    return change


def test_members_of_several_opsets_are_brought_to_the_newest(
    bundle: Bundle, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    with CascadeExecutor(bundle, "cpu") as executor:
        expected = executor.run(images)
    rewritten(bundle, "hidden016", said_to_have(13))  # its operators have not changed since
    rewritten(bundle, "hidden512", said_to_have(21))
    single = write_single_file(bundle, tmp_path / "cascade.onnx")
    assert [entry.version for entry in onnx.load(single.path).opset_import] == [21]
    assert_equal(ask(single, {"image": prepared(images)}), expected)


def test_an_opset_that_cannot_be_reached_is_named(bundle: Bundle, tmp_path: Path) -> None:
    def with_later_operator(model: Any) -> Any:
        model.graph.node.insert(0, onnx.helper.make_node("GroupNormalization", ["image"], ["unused"]))
        return said_to_have(17)(model)

    rewritten(bundle, "hidden064", with_later_operator)
    message = (
        r"hidden064\.onnx: has opset 17 and cannot be converted to 18 \(No Adapter From Version \$17 for "
        r"GroupNormalization\); export it with opset 18"
    )
    with pytest.raises(InvalidInput, match=message):
        write_single_file(bundle, tmp_path / "cascade.onnx")
    assert not list(tmp_path.glob("*cascade*"))


def test_members_with_other_classes_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    def with_nine(model: Any) -> Any:
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9
        return model

    rewritten(bundle, "hidden064", with_nine)
    with pytest.raises(
        InvalidInput,
        match=r"hidden064\.onnx: answers 9 classes, labels\.json names 10; all members .* same classes",
    ):
        write_single_file(bundle, tmp_path / "cascade.onnx")


def test_operators_of_others_must_be_of_one_version(bundle: Bundle, tmp_path: Path) -> None:
    for name, version in (("hidden016", 1), ("hidden064", 2)):
        path = bundle.path / bundle.member(name).file
        model = onnx.load(path)
        model.opset_import.append(onnx.helper.make_opsetid("com.example", version))
        onnx.save(model, path)
    with pytest.raises(
        InvalidInput, match=r"version 2 of the operators of com\.example, another member version 1"
    ):
        write_single_file(bundle, tmp_path / "cascade.onnx")


def test_a_file_that_answers_otherwise_is_found() -> None:
    probs = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    expected = Answers(
        probs=probs,
        label=np.array([0, 1]),
        confidence=probs.max(axis=1),
        exit_stage=np.array([0, 1]),
        macs=np.array([5, 9]),
    )
    found: dict[str, Any] = {"probs": probs, "exit_stage": np.array([0, 1]), "macs": np.array([5, 9])}
    check_same(expected, found, "here")
    for name, other in (
        ("probs", probs[::-1]),
        ("probs", probs - np.float32(0.01)),
        ("probs", probs * np.float32(np.nan)),
        ("exit_stage", np.array([0, 0])),
        ("macs", np.array([5, 8])),
    ):
        with pytest.raises(NotTheSame, match="here: the single file decides"):
            check_same(expected, found | {name: other}, "here")


def test_nothing_is_left_of_a_file_that_fails_its_check(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cascade.onnx").write_text("older")

    def fail(*_: Any) -> None:
        raise NotTheSame("no")

    monkeypatch.setattr(single_file, "_replay", fail)
    with pytest.raises(NotTheSame):
        write_single_file(bundle, tmp_path / "cascade.onnx")
    assert (tmp_path / "cascade.onnx").read_text() == "older"
    assert [p.name for p in tmp_path.glob("*cascade*")] + [p.name for p in tmp_path.glob(".cascade*")] == [
        "cascade.onnx"
    ]


KILLED = """
import os, signal, sys
import onnx
from encas.bundle import Bundle
from encas.export import add_single_file
onnx.checker.check_model = lambda _path: os.kill(os.getpid(), signal.SIGKILL)
add_single_file(Bundle.open(sys.argv[1]))
"""


@pytest.mark.slow
def test_what_a_killed_process_left_in_a_bundle_goes_at_the_next_time(bundle: Bundle) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(bundle.path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.is_dir() for path in bundle.path.glob(".*")] == [True]
    assert Bundle.open(bundle.path).file == bundle.file
    add_single_file(bundle)
    assert list(bundle.path.glob(".*")) == []
    assert (bundle.path / "cascade.onnx").is_file()
