"""How soon a change is seen, and whether one is seen that is none: images of CIFAR-10, as they are and not.

    python benchmarks/serving/gears.py --out out/gears --only-make
    python benchmarks/serving/drift.py --from out/gears

Each gear of that bundle has its reference from the 5,000 images that it was searched on. The other 5,000 come
in 20 random orders; then, after some of them, half are blurred (Gaussian, radius 1), darkened (to
35 %), or photographs of other classes. Nothing is timed.
"""

import argparse
import io
import tarfile
from pathlib import Path

import numpy as np
import serving
from PIL import Image, ImageFilter

from encas import Pool
from encas.bundle import Bundle
from encas.evaluation import recorded_answers
from encas.reference import GearReference
from encas.runtime import CascadeExecutor
from encas.serve.drift import DriftTest

N_SEARCHED, N_CHANGED = 5000, 1500
BEFORE = (0, 1000, 1900, 2950)


def photographs(path: Path) -> np.ndarray:
    """Photographs as small as CIFAR-10's images."""
    found = []
    with tarfile.open(path) as archive:
        for entry in archive:
            if entry.name.endswith((".jpg", ".png")):
                image = Image.open(io.BytesIO(archive.extractfile(entry).read())).convert("RGB")
                found.append(np.asarray(image.resize((32, 32))))
    return np.stack(found)


def blurred(pixels: np.ndarray) -> np.ndarray:
    blur = ImageFilter.GaussianBlur(1.0)
    return np.stack([np.asarray(Image.fromarray(image).filter(blur)) for image in pixels])


def places(executor: CascadeExecutor, reference: GearReference, pixels: np.ndarray) -> np.ndarray:
    parts = [executor.run(pixels[start : start + 64]) for start in range(0, len(pixels), 64)]
    exits = np.concatenate([part.exit_stage for part in parts]).tolist()
    return reference.places(exits, np.concatenate([part.confidence for part in parts]).tolist())


def first_alarm(test: DriftTest, stream: np.ndarray) -> int | None:
    return next((n + 1 for n in range(len(stream)) if test.add(stream[n : n + 1])), None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=serving.executor_benchmark.DATA)
    parser.add_argument("--from", dest="folder", type=Path, default=Path("out/gears"))
    parser.add_argument("--replays", type=int, default=20)
    options = parser.parse_args()
    test = np.load(options.folder / "test.npz")["images"][N_SEARCHED:]
    kinds = {
        "blurred": blurred(test[:N_CHANGED]),
        "darkened": (0.35 * test[:N_CHANGED]).astype(np.uint8),
        "of other classes": photographs(options.data / "../imagenet/photographs.tar"),
    }
    bundle, pool = Bundle.open(options.folder / "bundle"), Pool.open(options.folder / "pool")
    for number, gear in enumerate(bundle.gears):
        reference = GearReference.of(recorded_answers(gear, pool, "val"), len(gear.stages))
        with CascadeExecutor(bundle.at_gear(number), "cpu") as executor:
            same = places(executor, reference, test)
            changed = {kind: places(executor, reference, pixels) for kind, pixels in kinds.items()}
        alarms = 0
        for replay in range(options.replays):
            rng = np.random.default_rng(replay)
            alarms += DriftTest(reference.counts, rng).add(rng.permutation(same))
        print(f"gear {number}: {alarms} of {options.replays} replays raised an alarm", flush=True)
        for kind, found in changed.items():
            after = []
            for before in BEFORE:
                rng = np.random.default_rng(before)
                drift, order = DriftTest(reference.counts, rng), rng.permutation(same)
                assert not drift.add(order[:before])
                mixed = np.concatenate([order[before : before + 1000], rng.choice(found, 1000)])
                after.append(first_alarm(drift, rng.permutation(mixed)))
            print(f"gear {number}: half {kind} after {BEFORE}: alarm after {after} images", flush=True)


if __name__ == "__main__":
    main()
