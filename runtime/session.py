"""ONNX Runtime sessions: on the provider that was asked for and no other, sharing one pool of threads."""

import io
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encas.errors import EncasError, InvalidInput, require
from encas.runtime.machine import usable_cores

PROVIDERS = ("cuda", "cpu")  # in the order in which they are tried when none is asked for
_ORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",  # only where it is asked for: it compiles for minutes
}
# What ONNX Runtime itself leaves on the host beside a GPU: whole numbers that become shapes, never pixels.
_SHAPE_OPERATORS = {
    *("Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Identity"),
    *("Mod", "Mul", "Range", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where"),
}
_SOURCE_PLACE = re.compile(r"^/\S+\.cc:\d+ .*?\) ")
_UNKNOWN_OPERATOR = re.compile(
    r"(?P<operator>[\w.:]+)\(-?\d+\) is not a registered function/op|No Op registered for (?P<named>\w+) with"
)
_NEW_OPSET = re.compile(r"Opset (?P<opset>\d+) is under development.* till opset (?P<newest>\d+)")
# A convolution of one 2 x 2 pixel: enough to see whether a provider's libraries load and compute.
PROBE = bytes.fromhex(
    "08081205656e6361733a6f0a0f0a01780a01771201792204436f6e761201672a1f080108010802080210014201774a10"
    "0000803f0000000000000000000000405a1b0a017812160a14080112100a0208010a0208010a0208020a020802621b0a"
    "017912160a14080112100a0208010a0208010a0208010a02080142040a00100d"
)

# How sessions get their threads: "shared" or "own", and how many. ONNX Runtime decides it once for a process.
_THREADS: dict[str, int] = {}


class Session:
    """One network on one provider. Calls of `run` from several threads are fine."""

    def __init__(self, session: Any, provider: str, place: str, output: str | None = None) -> None:
        """Wrap an open session of ONNX Runtime; use `open_session`."""
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            found = ", ".join(f"{node.name}: {node.type} {node.shape}" for node in inputs)
            raise InvalidInput(
                f"{place}: one input float32 (n, channels, height, width) is needed, found {found or 'none'}"
            )
        names = [node.name for node in outputs]
        if output is not None and output not in names:
            raise InvalidInput(f"{place}: has no output '{output}'; it has: {', '.join(names)}")
        chosen = outputs[names.index(output) if output is not None else 0]
        self.provider = provider
        self.input: str = inputs[0].name
        self.output: str = chosen.name
        self.batch = _fixed(inputs[0].shape)[0]  # None if any number of samples is taken
        self.sample_shape = _fixed(inputs[0].shape)[1:]  # channels, height, width; None where free
        self.n_outputs = _fixed(chosen.shape)[-1] if len(chosen.shape) == 2 else None
        self._session = session

    @property
    def handle(self) -> Any:
        """ONNX Runtime's own session, for those who bind memory to it."""
        return self._session

    @property
    def assigned(self) -> dict[str, int]:
        """How many nodes of the network each of ONNX Runtime's providers runs."""
        found: dict[str, int] = {}
        for part in self._session.get_provider_graph_assignment_info():
            found[part.ep_name] = found.get(part.ep_name, 0) + len(part.get_nodes())
        return found

    def run(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network on (n, channels, height, width) samples and return its output as it is.

        That is (n, c) probabilities for the members of a bundle; other graphs may give logits.
        """
        output: NDArray[np.float32] = self._session.run([self.output], {self.input: tensor})[0]
        return output


def open_session(
    model: Path | bytes,
    provider: str | None = None,
    output: str | None = None,
    place: str | None = None,
    *,
    graphs: bool = False,
) -> Session:
    """Open an ONNX graph with one image input.

    Args:
        model: A file, or its content.
        provider: "cpu", "cuda" or "tensorrt"; None takes the first of cuda and cpu that works.
        output: Name of the output to compute; the first one by default.
        place: What errors call it; the file by default.
        graphs: Capture a CUDA graph; it may then only be run with memory that was bound, always the same.

    Raises:
        MissingPackage: ONNX Runtime is not installed.
        InvalidInput: No such file, no ONNX graph, or the provider does not work here.
    """
    provider = choose_provider(provider)
    place = place or (str(model) if isinstance(model, Path) else "ONNX graph")
    if isinstance(model, Path) and not model.is_file():
        raise InvalidInput(f"{place}: no such file")
    try:
        return Session(create_session(model, provider, graphs=graphs), provider, place, output)
    except EncasError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise InvalidInput(f"{place}: ONNX Runtime cannot run it on {provider}: {_reason(error)}") from None


def choose_provider(wanted: str | None = None) -> str:
    """Return the provider to use: the one asked for, or else the first that works.

    Raises:
        InvalidInput: There is no such provider, or it does not work here; the line says what does.
    """
    if wanted is not None and wanted not in _ORT_NAMES:
        raise InvalidInput(f"provider '{wanted}': must be cpu, cuda or tensorrt")
    for provider in PROVIDERS if wanted is None else (wanted,):
        failure = provider_failure(provider)
        if failure is None:
            return provider
        if wanted is not None or provider == PROVIDERS[-1]:
            raise InvalidInput(f"provider '{provider}' does not work here: {failure}")
    raise AssertionError("the last provider either works or raises")


@cache
def provider_failure(provider: str) -> str | None:
    """Say why a provider does not work, None if it does: a tiny network is really run on it, once.

    Raises:
        MissingPackage: ONNX Runtime is not installed.
    """
    runtime = _runtime()
    if _ORT_NAMES[provider] not in runtime.get_available_providers():
        return (
            f"the installed onnxruntime {runtime.__version__} has no {_ORT_NAMES[provider]}; "
            "for a CUDA device: pip uninstall -y onnxruntime, then pip install 'encas[gpu]'"
        )
    complaint = None if provider == "cpu" else _preload_complaint()
    try:
        output = create_session(PROBE, provider).run(None, {"x": np.ones((1, 1, 2, 2), np.float32)})[0]
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        return complaint or _reason(error)
    return None if output.item() == 3.0 else f"1 + 2 is {output.item():g} on it"


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def clash(version_of: Callable[[str], str | None] = installed_version) -> str | None:
    """Say so if both builds of ONNX Runtime are installed: each overwrites files of the other."""
    if None in (version_of("onnxruntime"), version_of("onnxruntime-gpu")):
        return None
    return (
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: pip uninstall -y "
        "onnxruntime onnxruntime-gpu, then pip install 'encas[gpu]' or 'encas[cpu]'"
    )


def share_threads(n: int) -> None:
    """Make the one pool of threads that all sessions of this process share; only the first call matters.

    A pool of its own for every session would have them all spin beside each other. Where somebody else in
    this process has made the shared pool already, theirs serves.
    """
    runtime = _imported()
    _THREADS.setdefault("shared", n)
    with suppress(runtime.capi.onnxruntime_pybind11_state.Fail):
        runtime.set_global_thread_pool_sizes(n, 1)


def sleeping_threads(n: int) -> None:
    """Give each session of this process a pool of its own, whose threads sleep while there is nothing to run.

    For programs that wait for work: threads of the shared pool spin for some milliseconds after every run,
    which is time that others on the machine do not get, and only that pool cannot be told not to. It must
    come before the first session; where the shared pool is there already, it serves.
    """
    if "shared" not in _THREADS:
        _THREADS["own"] = n


@cache
def _runtime() -> ModuleType:
    """Return ONNX Runtime, ready for sessions."""
    if "own" not in _THREADS:
        share_threads(usable_cores())
    runtime = _imported()
    runtime.set_default_logger_severity(4)  # errors are raised, and printing them too would be a second line
    return runtime


@cache
def _imported() -> ModuleType:
    found = clash()
    if found:
        raise EncasError(found)
    return require("onnxruntime", "cpu")


@cache
def _preload_complaint() -> str | None:
    """Load the CUDA libraries that pip installed, and return what could not be loaded."""
    with redirect_stdout(io.StringIO()) as said:
        _imported().preload_dlls()
    return next((line for line in said.getvalue().splitlines() if "ail" in line), None)


def create_session(model: Path | bytes, provider: str, *, graphs: bool = False) -> Any:
    """Make ONNX Runtime's session, which holds every node on the provider or is an error."""
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.use_per_session_threads = "own" in _THREADS
    if "own" in _THREADS:
        options.intra_op_num_threads = _THREADS["own"]
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors are raised, and printing them too would be a second line
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = runtime.InferenceSession(
        str(model) if isinstance(model, Path) else model,
        options,
        providers=_providers(provider, graphs=graphs),
        enable_fallback=0,  # or it would try again on the CPU
    )
    strays = set() if provider == "cpu" else _operators_on_host(session) - _SHAPE_OPERATORS
    if strays:
        raise RuntimeError(f"it would run {', '.join(sorted(strays))} on the CPU; use --provider cpu")
    return session


def _operators_on_host(session: Any) -> set[str]:
    parts = session.get_provider_graph_assignment_info()
    return {node.op_type for part in parts if part.ep_name == _ORT_NAMES["cpu"] for node in part.get_nodes()}


def device_memory(shape: Sequence[int], kind: type[np.generic], provider: str) -> Any:
    """Set aside memory of a provider's device, as an OrtValue."""
    device = "cpu" if provider == "cpu" else "cuda"
    return _runtime().OrtValue.ortvalue_from_shape_and_type(list(shape), kind, device, 0)


def _providers(provider: str, *, graphs: bool) -> list[tuple[str, dict[str, str]]]:
    if provider == "cpu":
        return [(_ORT_NAMES["cpu"], {})]
    # The search for the fastest convolution takes half a second for every new number of survivors, and TF32
    # keeps 10 bits of the mantissa, which moves samples across thresholds.
    settings = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
    if graphs:
        settings["enable_cuda_graph"] = "1"
    cuda = (_ORT_NAMES["cuda"], settings)
    # What TensorRT does not know is left to CUDA.
    return [cuda] if provider == "cuda" else [(_ORT_NAMES["tensorrt"], {}), cuda]


def _fixed(shape: Sequence[Any]) -> list[int | None]:
    """Axes of a known size; a free one has a name, or nothing."""
    return [side if isinstance(side, int) else None for side in shape]


def _reason(error: Exception) -> str:
    """Return the first line of what ONNX Runtime says, without its error code."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    unknown = _UNKNOWN_OPERATOR.search(line)
    if unknown is not None:
        operator = unknown["operator"] or unknown["named"]
        return f"it knows no operator '{operator}'; export the network with ONNX's own operators"
    too_new = _NEW_OPSET.search(line)
    if too_new is not None:
        return (
            f"its opset {too_new['opset']} is newer than {too_new['newest']}, the newest that the installed "
            f"version knows; export it with opset {too_new['newest']} or older"
        )
    return _SOURCE_PLACE.sub("", line).rsplit(" : ", 1)[-1].strip()
