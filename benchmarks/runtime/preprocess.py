"""From the bytes of a JPEG file to a network's tensor: Pillow with numpy, timm, and ours, on one core.

    python benchmarks/runtime/preprocess.py

The photographs are those of the shared data folder beside the repository (299 x 299, 4:4:4), and for other
sizes four of them side by side, cut and written again as cameras and ImageNet have them (4:2:0, quality 90).
All three ways give the same tensor, which is checked. A figure is processor time per image: for each image
the median of several calls, in each of three rounds in which the ways take turns, and of these the best.
Pillow and timm run with the memory settings that Pillow comes with, ours with its own.
"""

import argparse
import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform

from encas.preprocess import Preprocess
from encas.runtime import decode, prepare
from encas.runtime.preprocess import resized

DATA = Path(__file__).resolve().parents[2] / "../shared/data/imagenet/photographs.tar"
SIZES = [(299, 299), (500, 375), (375, 500), (1024, 683)]  # width, height
# Size, its share of what is resized, interpolation: what timm's networks want.
SPECS = [
    (128, 0.875, "bicubic"),
    (192, 0.875, "bicubic"),
    (224, 0.875, "bilinear"),
    (224, 0.875, "bicubic"),
    (224, 0.9, "bicubic"),
    (224, 0.95, "bicubic"),
    (224, 1.0, "bicubic"),
    (240, 0.882, "bicubic"),
    (260, 0.89, "bicubic"),
    (288, 0.95, "bicubic"),
    (384, 1.0, "bicubic"),
]

ROUNDS = 3
KEPT_BLOCKS = Image.core.get_blocks_max()  # encas.runtime has set it

Way = Callable[[bytes], np.ndarray]


def photographs(path: Path, n: int) -> list[bytes]:
    with tarfile.open(path) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".jpg"))[:n]
        return [tar.extractfile(name).read() for name in names]


def mosaic(four: list[bytes], size: tuple[int, int]) -> bytes:
    """Four photographs side by side, enlarged where that is not enough, cut in the middle."""
    canvas = Image.new("RGB", (598, 598))
    for index, photograph in enumerate(four):
        canvas.paste(Image.open(io.BytesIO(photograph)), (index % 2 * 299, index // 2 * 299))
    factor = max(1, -(-max(size) // 598))
    canvas = canvas.resize((598 * factor, 598 * factor), Image.Resampling.BICUBIC)
    left, top = (canvas.width - size[0]) // 2, (canvas.height - size[1]) // 2
    file = io.BytesIO()
    canvas.crop((left, top, left + size[0], top + size[1])).save(file, "JPEG", quality=90)
    return file.getvalue()


def plain(spec: Preprocess) -> Way:
    """What one writes with Pillow and numpy."""
    resample = Image.Resampling[spec.interpolation.upper()]
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)

    def run(content: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(content)).convert("RGB")
        height, width = resized((image.height, image.width), spec)
        image = image.resize((width, height), resample)
        left, top = round((width - spec.size[1]) / 2), round((height - spec.size[0]) / 2)
        image = image.crop((left, top, left + spec.size[1], top + spec.size[0]))
        pixels = np.asarray(image).astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))

    return run


def with_timm(spec: Preprocess) -> Way:
    transform = create_transform(
        spec.shape, interpolation=spec.interpolation, crop_pct=spec.crop_pct, mean=spec.mean, std=spec.std
    )
    return lambda content: transform(Image.open(io.BytesIO(content)).convert("RGB")).numpy()


def compare(ways: list[Way], contents: list[bytes], repeats: int) -> list[float]:
    """Milliseconds an image for each of the ways, of which the last is ours."""
    for content in contents:
        tensors = [way(content) for way in ways]
        assert all(np.array_equal(tensors[0], tensor) for tensor in tensors)
    best_s = np.full(len(ways), np.inf)
    for _ in range(ROUNDS):
        for at, way in enumerate(ways):
            Image.core.set_blocks_max(KEPT_BLOCKS if way is ways[-1] else 0)
            medians = [np.median([thread_s(way, content) for _ in range(repeats)]) for content in contents]
            best_s[at] = min(best_s[at], np.mean(medians))
    return (1e3 * best_s).tolist()


def thread_s(way: Way, content: bytes) -> float:
    start_s = time.thread_time()
    way(content)
    return time.thread_time() - start_s


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, default=DATA, help="a tar of JPEG files of 299 x 299")
    parser.add_argument("--images", type=int, default=8, help="of each size")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ratios = []
    originals = photographs(options.photographs, 4 * options.images)
    print(f"{'image':>10}{'tensor':>18}{'Pillow ms':>11}{'timm ms':>9}{'ours ms':>9}", end="")
    print(f"{'/ Pillow':>10}{'/ timm':>8}")
    for width, height in SIZES:
        groups = [originals[4 * k : 4 * k + 4] for k in range(options.images)]
        contents = [mosaic(four, (width, height)) for four in groups]
        if (width, height) == (299, 299):
            contents = originals[: options.images]
        for size, crop_pct, interpolation in SPECS:
            spec = Preprocess(size=(size, size), crop_pct=crop_pct, interpolation=interpolation)
            ways = [plain(spec), with_timm(spec), lambda content, spec=spec: prepare(decode(content), spec)]
            pillow_ms, timm_ms, ours_ms = compare(ways, contents, options.repeats)
            of = f"{size} of {int(size / crop_pct)} {interpolation[:3]}"
            print(f"{f'{width} x {height}':>10}{of:>18}{pillow_ms:11.2f}{timm_ms:9.2f}{ours_ms:9.2f}", end="")
            print(f"{pillow_ms / ours_ms:10.2f}{timm_ms / ours_ms:8.2f}", flush=True)
            ratios.append(pillow_ms / ours_ms)
    print(
        f"Pillow / ours: least {min(ratios):.2f}, median {np.median(ratios):.2f}, most {max(ratios):.2f}; "
        f"{sum(ratio >= 1.25 for ratio in ratios)} of {len(ratios)} are at least 1.25"
    )


if __name__ == "__main__":
    main()
