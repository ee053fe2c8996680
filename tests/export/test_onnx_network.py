from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encas.errors import InvalidInput
from encas.preprocess import Preprocess
from encas.runtime import open_session

onnx = pytest.importorskip("onnx")
from encas.export.graph import load, opset_of, save  # noqa: E402
from encas.export.onnx_network import open_onnx, random_samples  # noqa: E402

helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
TWO = Preprocess(size=(2, 2), channels=1, mean=(0.0,), std=(1.0,))
W = np.array([[1, -1, 0], [2, 0, 0], [0, 0, 3], [0, 1, 0]], np.float32)


def write(
    path: Path,
    nodes: list[Any],
    shape: tuple[Any, ...] = ("n", 1, 2, 2),
    *,
    opset: int = 18,
    outputs: tuple[str, ...] = ("y",),
    elem_type: int = FLOAT,
    **weights: Any,
) -> Path:
    inputs = [helper.make_tensor_value_info("x", elem_type, shape)]
    made = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
    constants = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, made, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def linear(
    path: Path, shape: tuple[Any, ...] = ("n", 1, 2, 2), *, softmax: bool = False, **more: Any
) -> Path:
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["z"])]
    nodes.append(helper.make_node("Softmax" if softmax else "Identity", ["z"], ["y"]))
    return write(path, nodes, shape, w=W, **more)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.reshape(len(x), 4) @ W)
    return np.asarray(e / e.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("ends_in_softmax", [True, False])
def test_logits_get_a_softmax_and_probabilities_none(tmp_path: Path, *, ends_in_softmax: bool) -> None:
    network = open_onnx(linear(tmp_path / "a.onnx", softmax=ends_in_softmax), TWO, "cpu")
    x = random_samples(5, TWO)
    assert np.allclose(network.probs(x), softmax(x), atol=1e-6)
    assert [node.op_type for node in network.model.graph.node].count("Softmax") == 1
    assert (network.n_classes, network.macs, network.params) == (3, 12, 12)


def test_what_is_written_answers_any_number_of_samples(tmp_path: Path) -> None:
    network = open_onnx(linear(tmp_path / "a.onnx", (1, 1, 2, 2)), TWO, "cpu")
    network.write_onnx(tmp_path / "out.onnx")
    session = open_session(tmp_path / "out.onnx", "cpu")
    x = random_samples(5, TWO)
    assert (session.batch, session.output, session.n_outputs) == (None, "probs", 3)
    assert np.allclose(session.run(x), softmax(x), atol=1e-6)
    assert opset_of(load(tmp_path / "out.onnx")) == 18


@pytest.mark.parametrize("shape", [[1, 4], [1, -1]])
def test_a_reshape_to_one_sample_is_freed(tmp_path: Path, shape: list[int]) -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    path = write(tmp_path / "a.onnx", nodes, (1, 1, 2, 2), s=np.array(shape, np.int64), w=W)
    x = random_samples(5, TWO)
    assert np.allclose(open_onnx(path, TWO, "cpu").probs(x), softmax(x), atol=1e-6)


def test_a_graph_that_mixes_samples_is_refused(tmp_path: Path) -> None:
    """It subtracts the mean over the batch, which is nothing as long as there is one sample."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["z"]),
        helper.make_node("ReduceMean", ["z", "first"], ["m"]),
        helper.make_node("Sub", ["z", "m"], ["y"]),
    ]
    path = write(tmp_path / "a.onnx", nodes, (1, 1, 2, 2), w=W, first=np.array([0], np.int64))
    with pytest.raises(InvalidInput, match="mixes samples when given several"):
        open_onnx(path, TWO, "cpu")


def test_an_old_graph_is_converted(tmp_path: Path) -> None:
    network = open_onnx(linear(tmp_path / "a.onnx", opset=11), TWO, "cpu")
    x = random_samples(3, TWO)
    assert opset_of(network.model) == 18
    assert np.allclose(network.probs(x), softmax(x), atol=1e-6)


def test_sides_that_the_graph_leaves_open_come_from_the_preprocessing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    path = write(tmp_path / "a.onnx", nodes, ("n", 1, "h", "w"), k=np.ones((3, 1, 1, 1), np.float32))
    assert open_onnx(path, TWO, "cpu").macs == 3 * 4
    assert open_onnx(path, TWO.model_copy(update={"size": (5, 4)}), "cpu").macs == 3 * 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (4, 1, 2, 2)}, "takes 4 samples at a time; export it with a free batch axis"),
        (
            {"shape": ("n", 3, 2, 2)},
            r"takes samples of shape \(3, 2, 2\), the preprocessing makes \(1, 2, 2\)",
        ),
        ({"shape": ("n", 4)}, r"one input float32 \(n, channels, height, width\) is needed, found x float"),
        ({"elem_type": onnx.TensorProto.UINT8}, "is needed, found x uint8"),
        ({"outputs": ("y", "z")}, r"one output float32 \(n, classes\) is needed, found y float .*, z float"),
    ],
)
def test_a_graph_that_does_not_fit_says_how(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        open_onnx(linear(tmp_path / "a.onnx", **options), TWO, "cpu")


def test_a_graph_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    with pytest.raises(InvalidInput, match=r"must answer 2 samples with \(2, classes\)"):
        open_onnx(path, TWO, "cpu")


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([("Softmax", "z", "p"), ("Identity", "p", "i"), ("Softmax", "i", "y")], "ends in two softmaxes"),
        ([("Sigmoid", "z", "y")], "numbers from 0 to 1 that do not sum to 1, as a sigmoid does; export it"),
        ([("Neg", "z", "a"), ("Abs", "a", "b"), ("Neg", "b", "c"), ("Sqrt", "c", "y")], "NaN or infinity"),
        ([("Magic", "z", "y")], r"a\.onnx: ONNX Runtime cannot run it on cpu: it knows no operator 'Magic'"),
    ],
    ids=["softmax of softmax", "sigmoid", "NaN", "unknown operator"],
)
def test_answers_that_no_softmax_mends_are_refused(
    tmp_path: Path, ends: list[tuple[str, str, str]], message: str
) -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["z"])]
    nodes += [helper.make_node(op, [given], [made]) for op, given, made in ends]
    with pytest.raises(InvalidInput, match=message) as error:
        open_onnx(write(tmp_path / "a.onnx", nodes, w=W), TWO, "cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("location", ["../a.data", "{folder}/a.data", "link.data"])
def test_weights_outside_the_folder_are_not_read(tmp_path: Path, location: str) -> None:
    model = onnx.load(linear(tmp_path / "a.onnx"))
    (tmp_path / "a.data").write_bytes(W.tobytes())
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/link.data").symlink_to(tmp_path / "a.data")
    (weights,) = model.graph.initializer
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location.format(folder=tmp_path)
    path = tmp_path / "inside/a.onnx"
    path.write_bytes(model.SerializeToString())
    for opens in (lambda: open_session(path, "cpu"), lambda: open_onnx(path, TWO, "cpu")):
        with pytest.raises(InvalidInput, match=r"inside/a\.onnx: ") as error:
            opens()
        assert "\n" not in str(error.value)


def test_a_damaged_file_is_no_graph(tmp_path: Path) -> None:
    path = linear(tmp_path / "a.onnx")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InvalidInput, match=r"a\.onnx: is no whole ONNX graph"):
        open_onnx(path, TWO, "cpu")


def test_weights_beside_the_file_come_along(tmp_path: Path) -> None:
    path = linear(tmp_path / "a.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="a.data", size_threshold=0)
    network = open_onnx(path, TWO, "cpu")
    (tmp_path / "a.data").unlink()
    network.write_onnx(tmp_path / "out.onnx")
    x = random_samples(2, TWO)
    assert np.allclose(open_session(tmp_path / "out.onnx", "cpu").run(x), softmax(x), atol=1e-6)
    with pytest.raises(InvalidInput, match=r"a\.onnx: is no whole ONNX graph: .*a\.data"):
        open_onnx(path, TWO, "cpu")


def test_lines_about_the_author_s_machine_are_left_out(tmp_path: Path) -> None:
    path = linear(tmp_path / "a.onnx")
    model = onnx.load(path)
    model.graph.node[0].doc_string = "/home/me/secret.py:3"
    model.graph.node[1].metadata_props.add(key="stack", value="/home/me/secret.py:4")
    onnx.save(model, path)
    open_onnx(path, TWO, "cpu").write_onnx(tmp_path / "out.onnx")
    assert b"secret" not in (tmp_path / "out.onnx").read_bytes()


def test_a_member_of_more_weights_than_a_file_holds_is_one_line(networks: Any, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(networks[0].onnx_bytes())
    with pytest.raises(
        InvalidInput, match=r"big: its weights take .* GiB, and a member's file holds .*, as ONNX"
    ):
        save(model, tmp_path / "big.onnx", most_bytes=1000)
    assert not list(tmp_path.iterdir())
