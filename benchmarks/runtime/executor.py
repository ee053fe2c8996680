"""What the executor costs beside ONNX Runtime: its time against the `run` calls it makes, in one process.

    python benchmarks/runtime/executor.py

The cascade is resnet20 > resnet44 > resnet56 on the CIFAR-10 test images, from the shared data folder beside
the repository. Every figure is the best of many repeats: the machine may have other work.
"""

import argparse
import importlib.util
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from encas.bundle import Bundle, BundleFile, BundleMember, LabelsFile, Parity
from encas.cascade import Cascade, Stage
from encas.files import sha256_of, write_bytes, write_model
from encas.preprocess import Preprocess
from encas.runtime import CascadeExecutor
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
    stages = tuple(
        Stage(member=name, threshold=threshold) for name, threshold in zip(MACS, THRESHOLDS, strict=True)
    )
    Cascade(stages=stages).write(folder / "cascade.json")
    write_model(folder / "labels.json", LabelsFile(labels=tuple(map(str, range(10)))))
    members = []
    for name, macs in MACS.items():
        write_bytes(folder / f"members/{name}.onnx", with_softmax(data / f"onnx/{name}.onnx"))
        members.append(
            BundleMember(
                name=name,
                file=f"members/{name}.onnx",
                input="input",
                output="probs",
                preprocess=SPEC,
                macs=macs,
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


def best(executor: CascadeExecutor, parts: list, repeats: int) -> tuple[float, float]:
    """Sums over the parts of the smallest total time, and of the smallest time outside ONNX Runtime."""
    total_s = outside_s = 0.0
    for part in parts:
        taken = []
        for _ in range(repeats):
            start_s = time.perf_counter()
            _, trace = executor.run_traced(part)
            took_s = time.perf_counter() - start_s
            taken.append((took_s, took_s - sum(trace.run_s)))
        total_s += min(took for took, _ in taken)
        outside_s += min(outside for _, outside in taken)
    return total_s / len(parts), outside_s / len(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--parts", type=int, default=8, help="different batches")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    pixels = test_images(options.data)
    forms: dict[str, Callable[[np.ndarray], object]] = {
        "float32 tensor": lambda part: normalise(part, SPEC),
        "uint8 pixels": lambda part: part,
        "PNG bytes": lambda part: [png(image) for image in part],
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        CascadeExecutor(make_bundle(Path(folder), options.data), "cpu") as executor,
    ):
        print(f"{'images as':16}{'batch':>6}{'total ms':>10}{'outside run ms':>16}{'total / run':>13}")
        for batch in options.batch:
            for name, form in forms.items():
                parts = [form(pixels[k * batch : (k + 1) * batch]) for k in range(options.parts)]
                total_s, outside_s = best(executor, parts, options.repeats)
                ratio = total_s / (total_s - outside_s)
                print(f"{name:16}{batch:6}{1e3 * total_s:10.2f}{1e3 * outside_s:16.3f}{ratio:13.3f}")


if __name__ == "__main__":
    main()
