"""The single file against the executor: the same cascades, the same images, in turns.

    python benchmarks/runtime/single_file.py
    python benchmarks/runtime/single_file.py --pools cifar10 --batch 1

Three ways to give images: tensors that are prepared already (where all members want the same); pixels, which
the executor prepares for the stages that need them, and a user of the single file for all stages beforehand;
pixels that the single file prepares itself (`--image-size`). Answers must be equal, or nothing is printed.
Both run on the same threads. Two minutes, without the first time's recording.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from prediction import CLOCKS, bundle_of
from real_pools import DATA, POOLS

from encas.bundle import Bundle
from encas.cascade import Cascade, Stage
from encas.export import write_single_file
from encas.export.single_file import tensors_of
from encas.pool import Pool
from encas.runtime import CascadeExecutor, create_session, decode, prepare_batch
from encas.runtime.machine import usable_cores

CASCADES = {
    "cifar10": (("resnet20", "resnet44", "resnet56"), ("mlperf_tiny_resnet8", "resnet20", "resnet56")),
    "photographs": (
        ("mobilenet_v1_100_224", "mobilenet_v2_100_224", "tf2_mobilenet_v2_100_224"),
        ("mobilenet_v2_100_224", "lite0", "lite2"),
    ),
}
SIZES = {"cifar10": (32, 32), "photographs": (256, 320)}
THRESHOLDS = (0.8, 0.85, None)
Call = Callable[[], dict[str, np.ndarray]]
Ways = dict[str, list[tuple[Call, Call]]]  # for each part of the images, the executor's call and the file's


def cascade_of(names: Sequence[str]) -> Cascade:
    pairs = zip(names, THRESHOLDS, strict=True)
    return Cascade(stages=tuple(Stage(member=name, threshold=threshold) for name, threshold in pairs))


def bundle_for(pool: str, folder: Path, data: Path) -> Bundle:
    """All members of a pool, exported once."""
    path = folder / f"{pool}-bundle"
    if not path.is_dir():
        recorded: Pool = POOLS[pool](folder, data).pool
        return bundle_of(recorded, recorded.names, path)
    return Bundle.open(path)


def images_of(pool: str, folder: Path, n: int) -> list[Image.Image]:
    height, width = SIZES[pool]
    if pool == "cifar10":
        with np.load(folder / "cifar10.npz") as arrays:
            return [Image.fromarray(pixels) for pixels in arrays["images"][:n]]
    files = sorted((folder / "photographs").rglob("*.jpg"))[:n]
    return [decode(file, file.name).convert("RGB").resize((width, height)) for file in files]


def ways(bundle: Bundle, images: list[Image.Image], batch: int, size: tuple[int, int], folder: Path) -> Ways:
    tensor_file = write_single_file(bundle, folder / "tensors.onnx")
    pixel_file = write_single_file(bundle, folder / "pixels.onnx", image_size=size)
    sessions = [create_session(file.path, "cpu") for file in (tensor_file, pixel_file)]
    executor = CascadeExecutor(bundle, "cpu")

    def by_executor(given: object) -> Call:
        def call() -> dict[str, np.ndarray]:
            answers = executor.run(given)
            return {"probs": answers.probs, "exit_stage": answers.exit_stage, "macs": answers.macs}

        return call

    def by_file(session: object, make: Callable[[], dict[str, np.ndarray]]) -> Call:
        names = ["probs", "exit_stage", "macs"]
        return lambda: dict(zip(names, session.run(names, make()), strict=True))

    found: Ways = {"tensors": [], "pixels, prepared outside": [], "pixels, prepared inside": []}
    for start in range(0, len(images) - batch + 1, batch):
        part = images[start : start + batch]
        pixels = np.stack([np.asarray(image) for image in part])
        if len(tensor_file.inputs) == 1:
            tensor = prepare_batch(part, *tensor_file.inputs.values())
            pair = by_executor(tensor), by_file(sessions[0], lambda tensor=tensor: {"image": tensor})
            found["tensors"].append(pair)
        outside = by_file(sessions[0], lambda part=part: tensors_of(tensor_file, part))
        found["pixels, prepared outside"].append((by_executor(part), outside))
        inside = by_file(sessions[1], lambda pixels=pixels: {"image": pixels})
        found["pixels, prepared inside"].append((by_executor(pixels), inside))
    return found


def compare(pairs: list[tuple[Call, Call]], options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of a call, the sum over parts of the medians over rounds, by their number."""
    clock, taken_s = CLOCKS[options.clock], np.zeros((options.rounds, len(pairs), 2))
    for round_ in range(-1, options.rounds):  # the first is not counted
        for at, pair in enumerate(pairs):
            answers = []
            for which in (0, 1) if round_ % 2 else (1, 0):
                start_s = clock()
                answers.append(pair[which]())
                if round_ >= 0:
                    taken_s[round_, at, which] = clock() - start_s
            for name, array in answers[0].items():
                np.testing.assert_array_equal(array, answers[1][name])
    executor_s, file_s = np.median(taken_s, axis=0).mean(axis=0)
    return float(executor_s), float(file_s)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--pools", nargs="+", choices=sorted(CASCADES), default=sorted(CASCADES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="shared by all sessions")
    parser.add_argument("--folder", type=Path, help="where pools and bundles are kept for the next time")
    options = parser.parse_args()
    onnxruntime.set_global_thread_pool_sizes(options.threads, 1)
    print(f"{'cascade':68}{'batch':>6}  {'images as':26}{'executor ms':>12}{'file ms':>9}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for pool in options.pools:
            bundle = bundle_for(pool, folder, options.data)
            images = images_of(pool, folder, options.images)
            for names in CASCADES[pool]:
                cascade = cascade_of(names)
                for batch in options.batch:
                    made = ways(replace(bundle, cascade=cascade), images, batch, SIZES[pool], Path(temporary))
                    for way, pairs in made.items():
                        if pairs:
                            executor_s, file_s = compare(pairs, options)
                            figures = f"{1e3 * executor_s:12.2f}{1e3 * file_s:9.2f}{file_s / executor_s:7.3f}"
                            print(f"{' > '.join(names):68}{batch:6}  {way:26}{figures}", flush=True)


if __name__ == "__main__":
    main()
