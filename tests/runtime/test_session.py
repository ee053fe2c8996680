import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from encas.errors import InvalidInput
from encas.runtime.session import (
    PROBE,
    Session,
    choose_provider,
    clash,
    open_session,
    provider_failure,
)

CUDA_WORKS = provider_failure("cuda") is None


def graph(
    shape: tuple[int | str, ...] = ("n", 1, 8, 8), op: str = "Flatten", kind: str = "FLOAT", inputs: int = 1
) -> bytes:
    """One node from an image to an output."""
    onnx = pytest.importorskip("onnx")
    kind = getattr(onnx.TensorProto, kind)
    names = [f"x{j}" for j in range(inputs)]
    nodes = [
        onnx.helper.make_node(op, names[:1], ["y"]),
        onnx.helper.make_node("Identity", names[:1], ["same"]),
    ]
    taken = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in names]
    given = [onnx.helper.make_tensor_value_info(name, kind, None) for name in ("y", "same")]
    made = onnx.helper.make_graph(nodes, "g", taken, given)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def test_a_network_gives_its_probabilities(digits: Any, networks: Any, tmp_path: Path) -> None:
    network = networks[3]
    path = tmp_path / "network.onnx"
    path.write_bytes(network.onnx_bytes())
    x = (digits.images[:50] / np.float32(255)).astype(np.float32)[:, None]
    for model in (path, network.onnx_bytes()):
        session = open_session(model, "cpu")
        assert session.run(x) == pytest.approx(network.probs(digits.images[:50]), abs=1e-6)
        assert (session.input, session.output, session.provider) == ("image", "probs", "cpu")
        assert (session.batch, session.sample_shape, session.n_outputs) == (None, [1, 8, 8], 10)


def test_another_graph_gives_its_logits_as_they_are(networks: Any) -> None:
    session = open_session(networks[3].onnx_bytes(softmax=False), "cpu")
    logits = session.run(np.ones((2, 1, 8, 8), np.float32))
    assert logits.shape == (2, 10)
    assert not np.allclose(logits.sum(axis=1), 1)


def test_an_output_can_be_chosen_by_name() -> None:
    x = np.zeros((3, 1, 8, 8), np.float32)
    assert open_session(graph(), "cpu").run(x).shape == (3, 64)
    assert open_session(graph(), "cpu", output="same").run(x).shape == (3, 1, 8, 8)
    with pytest.raises(InvalidInput, match="no output 'logits'; it has: y, same"):
        open_session(graph(), "cpu", output="logits")


def test_a_fixed_batch_is_seen() -> None:
    assert open_session(graph((1, 1, 8, 8)), "cpu").batch == 1


@pytest.mark.parametrize(
    "model", [graph(("n", 64)), graph(kind="DOUBLE"), graph(inputs=2)], ids=["flat", "double", "two inputs"]
)
def test_a_graph_without_one_float_image_input_is_refused(model: bytes) -> None:
    with pytest.raises(InvalidInput, match="one input float32"):
        open_session(model, "cpu")


def test_what_is_no_graph_is_named_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], networks: Any
) -> None:
    path = tmp_path / "network.onnx"
    with pytest.raises(InvalidInput, match=r"network\.onnx: no such file"):
        open_session(path, "cpu")
    for content in (b"garbage", b"", networks[0].onnx_bytes()[:-20]):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"network\.onnx: .*ONNX") as error:
            open_session(path, "cpu")
        assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("domain", ["", "my.ops"])
def test_an_operator_that_is_not_known_is_named(domain: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(graph(op="Magic"))
    model.graph.node[0].domain = domain
    model.opset_import.append(onnx.helper.make_opsetid("my.ops", 1))
    with pytest.raises(
        InvalidInput, match=r"ONNX graph: .* it knows no operator '(my\.ops:)?Magic'"
    ) as error:
        open_session(model.SerializeToString(), "cpu")
    assert "\n" not in str(error.value)


def test_an_unknown_provider_is_refused() -> None:
    with pytest.raises(InvalidInput, match="provider 'tpu': must be cpu, cuda or tensorrt"):
        choose_provider("tpu")


@pytest.mark.skipif(CUDA_WORKS, reason="CUDA works here")
def test_cuda_where_it_does_not_work_is_one_line_and_never_the_cpu(networks: Any) -> None:
    assert choose_provider() == "cpu"
    with pytest.raises(InvalidInput, match=r"provider 'cuda' does not work here: .*pip install") as error:
        open_session(networks[0].onnx_bytes(), "cuda")
    assert "\n" not in str(error.value)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA_WORKS, reason="CUDA does not work here")
def test_cuda_answers_as_the_cpu_does(digits: Any, networks: Any) -> None:
    x = (digits.images[:50] / np.float32(255)).astype(np.float32)[:, None]
    assert choose_provider() == "cuda"
    model = networks[-1].onnx_bytes()
    assert open_session(model, "cuda").run(x) == pytest.approx(open_session(model, "cpu").run(x), abs=1e-4)


def test_the_probe_is_a_valid_network() -> None:
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(onnx.load_model_from_string(PROBE))
    output = open_session(PROBE, "cpu").run(np.array([[[[1, 2], [3, 4]]]], np.float32))
    assert output.item() == 1 + 2 * 4


def test_threads_share_a_session(digits: Any, networks: Any) -> None:
    session = open_session(networks[-1].onnx_bytes(), "cpu")
    x = (digits.images / np.float32(255)).astype(np.float32)[:, None]
    parts = [x[start : start + 50] for start in range(0, len(x), 50)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(session.run, parts))
    for part, found in zip(parts, together, strict=True):
        assert np.array_equal(found, session.run(part))


SHARED_THREADS = """
import sys
from pathlib import Path
from encas.runtime.session import open_session
def n_threads(): return len(list(Path("/proc/self/task").iterdir()))
model = Path(sys.argv[1])
sessions = [open_session(model, "cpu")]
before = n_threads()
sessions += [open_session(model, "cpu") for _ in range(20)]
print(n_threads() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_all_sessions_share_one_pool_of_threads(networks: Any, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(networks[0].onnx_bytes())
    done = subprocess.run(
        [sys.executable, "-c", SHARED_THREADS, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"


CHOSEN_THREADS = """
import sys
from pathlib import Path
from encas.runtime.session import PROBE, open_session, share_threads
def n_threads(): return len(list(Path("/proc/self/task").iterdir()))
before = n_threads()
share_threads(int(sys.argv[1]))
open_session(PROBE, "cpu")
print(n_threads() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_the_pool_has_the_threads_that_were_asked_for_first() -> None:
    def started(n: int) -> int:
        words = [sys.executable, "-c", CHOSEN_THREADS, str(n)]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    assert started(5) - started(1) == 4  # whoever calls is one of them


SLEEPING_THREADS = """
import sys
from pathlib import Path
from encas.runtime.session import PROBE, open_session, share_threads, sleeping_threads
def n_threads(): return len(list(Path("/proc/self/task").iterdir()))
if sys.argv[1] == "shared": share_threads(3)
sleeping_threads(4)
counts = []
sessions = []
for _ in range(3):
    sessions.append(open_session(PROBE, "cpu"))
    counts.append(n_threads())
print(counts[1] - counts[0], counts[2] - counts[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize(("before", "more"), [("nothing", "3 3"), ("shared", "0 0")])
def test_sessions_have_threads_of_their_own_where_the_shared_pool_is_not_there_yet(
    before: str, more: str
) -> None:
    words = [sys.executable, "-c", SLEEPING_THREADS, before]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == f"{more}\n"


def test_both_builds_of_onnx_runtime_side_by_side_clash() -> None:
    message = clash(lambda _name: "1.32.0")
    assert message is not None and "pip uninstall -y onnxruntime onnxruntime-gpu" in message
    assert clash(lambda name: "1.32.0" if name == "onnxruntime" else None) is None


def test_a_session_is_what_the_package_offers() -> None:
    import encas.runtime

    assert encas.runtime.Session is Session


def test_an_opset_that_the_runtime_does_not_know_yet_is_one_line(networks: Any) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(networks[0].onnx_bytes())
    model.opset_import[0].version = 99
    with pytest.raises(
        InvalidInput,
        match=r"its opset 99 is newer than \d+, the newest .* export it with opset \d+ or older$",
    ):
        open_session(model.SerializeToString(), "cpu")
