"""What the executor costs beside ONNX Runtime, and what sessions cost each other, in one process.

    python benchmarks/runtime/executor.py
    python benchmarks/runtime/executor.py --clock processor --threads 1     on a machine that has other work

The cascade is resnet20 > resnet44 > resnet56 on the CIFAR-10 test images, from the shared data folder beside
the repository. Three tables: the executor against the bare `run` calls on the same sub-batches; the three
sessions in turns against each by itself; the first call of every sub-batch size against the later ones.
Half a minute.
"""

import argparse
import importlib.util
import io
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from PIL import Image

from encas.bundle import Bundle, BundleFile, BundleMember, LabelsFile, Parity
from encas.cascade import Cascade, Stage
from encas.files import sha256_of, write_bytes, write_model
from encas.preprocess import Preprocess
from encas.runtime import CascadeExecutor
from encas.runtime.machine import usable_cores
from encas.runtime.preprocess import normalise

DATA = Path(__file__).resolve().parents[2] / "../shared/data/cifar10"
MACS = {"resnet20": 40_600_000, "resnet44": 97_200_000, "resnet56": 125_500_000}
THRESHOLDS = (0.9, 0.9, None)
SPEC = Preprocess(size=(32, 32))


def with_softmax(path: Path) -> bytes:
    model = onnx.load(path)
    (logits,) = model.graph.output
    model.graph.node.append(onnx.helper.make_node("Softmax", [logits.name], ["probs"], axis=1))
    probs = onnx.helper.make_tensor_value_info("probs", onnx.TensorProto.FLOAT, ["batch", 10])
    model.graph.output.remove(logits)
    model.graph.output.append(probs)
    return bytes(model.SerializeToString())


def make_bundle(folder: Path, data: Path) -> Bundle:
    networks = {name: with_softmax(data / f"onnx/{name}.onnx") for name in MACS}
    return write_bundle(folder, networks, MACS, THRESHOLDS)


def write_bundle(
    folder: Path, networks: dict[str, bytes], macs: dict[str, int], thresholds: tuple[float | None, ...]
) -> Bundle:
    """Write CIFAR-10 networks in the order of the stages; their input is called `input`."""
    stages = tuple(
        Stage(member=name, threshold=threshold) for name, threshold in zip(networks, thresholds, strict=True)
    )
    Cascade(stages=stages).write(folder / "cascade.json")
    write_model(folder / "labels.json", LabelsFile(labels=tuple(map(str, range(10)))))
    members = []
    for name, network in networks.items():
        write_bytes(folder / f"members/{name}.onnx", network)
        members.append(
            BundleMember(
                name=name,
                file=f"members/{name}.onnx",
                input="input",
                output="probs",
                preprocess=SPEC,
                macs=macs[name],
                opset=18,
                source="imported",
                parity=Parity(n=1, max_abs_difference=0, changed_labels=0),
            )
        )
    files = ["cascade.json", "labels.json", *(member.file for member in members)]
    digests = {file: sha256_of(folder / file) for file in files}
    write_model(
        folder / "bundle.json", BundleFile(name="cifar10", files=digests, members=tuple(members)).sealed()
    )
    return Bundle.open(folder)


def test_images(data: Path) -> np.ndarray:
    spec = importlib.util.spec_from_file_location("read_cifar10", data / "read_cifar10.py")
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    return reader.load(data / "cifar10.npz", "test")[0]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Clock = Callable[[], float]
Call = Callable[[], object]


def share_threads(n: int) -> None:
    """Make the pool of threads that all sessions of this process share; the first to do so decides."""
    onnxruntime.set_global_thread_pool_sizes(n, 1)


def taken_s(call: Call, repeats: int, clock: Clock) -> list[float]:
    """Time a call several times."""
    found = []
    for _ in range(repeats):
        start_s = clock()
        call()
        found.append(clock() - start_s)
    return found


def in_rounds(calls: dict[str, Call], rounds: int, repeats: int, clock: Clock) -> dict[str, float]:
    """Median time of each call, a few repeats in every round, so that a busy machine hits all of them."""
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name] += taken_s(call, repeats, clock)
    return {name: float(np.median(times)) for name, times in found.items()}


def print_outside(executor: CascadeExecutor, pixels: np.ndarray, options: argparse.Namespace) -> None:
    """The executor against the `run` calls it makes: medians over repeats, means over batches."""
    forms: dict[str, Callable[[np.ndarray], object]] = {
        "float32 tensor": lambda part: normalise(part, SPEC),
        "uint8 pixels": lambda part: part,
        "PNG bytes": lambda part: [png(image) for image in part],
    }
    clock = CLOCKS[options.clock]
    print(f"{'images as':16}{'batch':>6}{'total ms':>10}{'outside run ms':>16}{'total / run':>13}")
    for batch in options.batch:
        for name, form in forms.items():
            totals, insides = [], []
            for k in range(options.parts):
                part = form(pixels[k * batch : (k + 1) * batch])
                times = []
                for _ in range(options.repeats):
                    start_s = clock()
                    _, trace = executor.run_traced(part)
                    times.append((clock() - start_s, sum(trace.run_s)))
                total, inside = np.array(times).T
                totals.append(np.median(total))
                insides.append(np.median(total) - np.median(total - inside))
            total_s, inside_s = float(np.mean(totals)), float(np.mean(insides))
            outside = f"{1e3 * (total_s - inside_s):16.3f}{total_s / inside_s:13.3f}"
            print(f"{name:16}{batch:6}{1e3 * total_s:10.3f}{outside}")


def print_together(executor: CascadeExecutor, tensor: np.ndarray, options: argparse.Namespace) -> None:
    """Three sessions in turns, as a cascade uses them, against the sum of each by itself."""
    sessions = executor.runners
    print(f"\n{'batch':>6}{'sum alone ms':>14}{'in turns ms':>13}{'ratio':>7}")
    for batch in options.batch:
        part = tensor[:batch]
        calls: dict[str, Call] = {name: partial(s.run, part) for name, s in sessions.items()}
        calls["in turns"] = lambda part=part: [session.run(part) for session in sessions.values()]
        found = in_rounds(calls, options.repeats, 4, CLOCKS[options.clock])
        turns_s = found.pop("in turns")
        alone_s = sum(found.values())
        print(f"{batch:6}{1e3 * alone_s:14.3f}{1e3 * turns_s:13.3f}{turns_s / alone_s:7.3f}")


def print_first(bundle: Bundle, tensor: np.ndarray, options: argparse.Namespace) -> None:
    """The first call of every sub-batch size after `warm_up` against the median of later ones."""
    clock, most = CLOCKS[options.clock], max(options.batch)
    with CascadeExecutor(bundle, "cpu") as executor:
        executor.warm_up(most)
        session = executor.runners[bundle.cascade.member_names[0]]
        ratios = []
        for size in range(1, most + 1):
            first_s, *later_s = taken_s(partial(session.run, tensor[:size]), 8, clock)
            ratios.append(first_s / np.median(later_s))
    print(
        f"\nfirst call of sizes 1 to {most} / median of later ones: median {np.median(ratios):.2f}, "
        f"most {max(ratios):.2f} at size {1 + int(np.argmax(ratios))}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--parts", type=int, default=8, help="different batches")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="processor: not counting what others do"
    )
    parser.add_argument("--threads", type=int, default=usable_cores(), help="shared by all sessions")
    options = parser.parse_args()
    share_threads(options.threads)
    pixels = test_images(options.data)
    tensor = normalise(pixels[: max(options.batch)], SPEC)
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), options.data)
        with CascadeExecutor(bundle, "cpu", CLOCKS[options.clock]) as executor:
            executor.warm_up(max(options.batch))
            print_outside(executor, pixels, options)
            print_together(executor, tensor, options)
            print_first(bundle, tensor, options)


if __name__ == "__main__":
    main()
