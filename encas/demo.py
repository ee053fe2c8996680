"""The whole path on real data that ships with scikit-learn, from training networks to serving a cascade."""

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from encas.bundle import Bundle
from encas.cascade import Cascade, Stage
from encas.errors import EncasError
from encas.evaluation import evaluate
from encas.export import MemberSpec, export, record
from encas.files import replaced
from encas.measurement import CascadeMeasurement
from encas.pool import Pool
from encas.runtime import CascadeExecutor
from encas.runtime.measure import measure_bundle
from encas.search import search

WIDTHS = (2, 3, 4, 6, 8, 10, 12, 16, 24, 32)
PREPROCESS = {"channels": 1, "size": 8, "interpolation": "bilinear", "mean": [0.0], "std": [1.0]}
_EPOCHS, _BATCH = 40, 64
_SPLITS = {"train": slice(0, 797), "val": slice(797, 1297), "test": slice(1297, None)}


@dataclass(frozen=True)
class Digits:
    """Handwritten digits: images (n, 8, 8) uint8, labels (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load_digits() -> dict[str, Digits]:
    """Shuffle the 1,797 digits of scikit-learn, and split them into train, val and test."""
    from sklearn.datasets import load_digits as load  # noqa: PLC0415  (it is slow to import)

    data = load()
    order = np.random.default_rng(0).permutation(len(data.images))
    images = np.round(data.images[order] * (255 / 16)).astype(np.uint8)
    labels = data.target[order].astype(np.int64)
    return {name: Digits(images[rows], labels[rows]) for name, rows in _SPLITS.items()}


def network(width: int) -> tuple[nn.Module, dict[str, Any]]:
    """Three convolutions and a linear layer; the cost grows with the square of the width."""

    def convolution(c_in: int, c_out: int, stride: int) -> nn.Module:
        layer = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(c_out), nn.ReLU())

    layers = nn.Sequential(
        convolution(1, width, 1),
        convolution(width, 2 * width, 2),
        convolution(2 * width, 2 * width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )
    return layers, PREPROCESS


def __getattr__(name: str) -> Callable[[], tuple[nn.Module, dict[str, Any]]]:
    """Give `width_8` and its like: a `torch:` source names a function without arguments."""
    width = name.removeprefix("width_")
    if width == name or not width.isdigit():
        raise AttributeError(f"module 'encas.demo' has no attribute '{name}'")
    return partial(network, int(width))


def train(width: int, digits: Digits, seed: int = 0) -> nn.Module:
    """Train one network from scratch, on digits shifted by up to a pixel."""
    torch.manual_seed(seed + width)
    draw = torch.Generator().manual_seed(seed + width)
    torch.set_num_threads(1)  # threads that wait for each other cost more than these small networks do
    model, _ = network(width)
    images = torch.from_numpy(digits.images).float()[:, None] / 255
    labels = torch.from_numpy(digits.labels)
    steps = len(labels) // _BATCH
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=_EPOCHS * steps)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(labels), generator=draw)
        for step in range(steps):
            rows = order[step * _BATCH : (step + 1) * _BATCH]
            y, x = torch.randint(0, 3, (2,), generator=draw).tolist()
            shifted = nn.functional.pad(images[rows], (1, 1, 1, 1))[:, :, y : y + 8, x : x + 8]
            loss = nn.functional.cross_entropy(model(shifted), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return model.eval()


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a network's tensors."""
    with replaced(path) as temporary:
        save_file(model.state_dict(), str(temporary))


def save_digits(digits: Digits, path: Path) -> None:
    """Write a split as an `.npz` that `encas pool record --data` reads."""
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez(file, images=digits.images, labels=digits.labels, classes=[str(i) for i in range(10)])


@dataclass(frozen=True)
class Row:
    """One line of the comparison, on the test split."""

    name: str
    accuracy: float
    macs: float  # mean per image, executed
    latency_s: float  # per image in batches of `TIMED_BATCH`


@dataclass(frozen=True)
class Outcome:
    """What the demo found."""

    folder: Path
    cascade: Cascade
    best_single: Row  # the most accurate network on val
    equal_single: Row | None  # the cheapest network that is as accurate on test as the cascade
    answer: Row  # the cascade itself
    n: int  # test digits
    reply: dict[str, Any]  # of the server to one image

    @property
    def is_better(self) -> bool:
        """Whether the cascade is cheaper than the best network and no less accurate, on test."""
        return self.answer.macs < self.best_single.macs and self.answer.accuracy >= self.best_single.accuracy


TIMED_BATCH = 100
EVALUATIONS = 20_000
Say = Callable[[str], None]


def run(folder: Path, say: Say) -> Outcome:
    """Walk the whole path; what a run before has finished is not done again.

    Args:
        folder: For everything that is written.
        say: Told of each step, as it begins.
    """
    digits = load_digits()
    say(f"training {len(WIDTHS)} networks on {len(digits['train'].labels)} digits")
    members = [_member(width, digits["train"], folder / "weights") for width in WIDTHS]
    for split in ("val", "test"):
        say(f"recording them on {len(digits[split].labels)} digits: pool, split {split}")
        save_digits(digits[split], folder / "data" / f"{split}.npz")
        pool = record(folder / "pool", members, folder / "data" / f"{split}.npz", split=split)
    say(f"searching {EVALUATIONS:,} cascades: front")
    front = search(pool, evaluations=EVALUATIONS, seed=1, report_fraction=0, out=folder / "front")
    singles = {member.name: evaluate(_alone(member.name), pool, "val") for member in pool.file.members}
    best = max(singles, key=lambda name: (singles[name].accuracy, -singles[name].macs))
    say(f"picking the cheapest that is as accurate on val as the best network, {best}: cascade.json")
    cascade = front.pick(min_accuracy=singles[best].accuracy)
    cascade.write(folder / "cascade.json")
    say("exporting it to ONNX: bundle")
    bundle = export(cascade, pool, folder / "bundle", name="digits", allow_code=True)
    save_images(digits["test"].images[:20], folder / "images")
    say("running and measuring it, and single networks, on the test digits")
    accuracies = {member.name: evaluate(_alone(member.name), pool, "test") for member in pool.file.members}
    answer = _measured("the cascade", bundle, digits["test"])
    equal = [name for name, found in accuracies.items() if found.accuracy >= answer.accuracy]
    cheapest = min(equal, key=lambda name: accuracies[name].macs, default=None)
    rows = {
        name: _single(name, pool, folder, digits["test"]) for name in {best, cheapest} if name is not None
    }
    say("serving it on a free port, and asking it about one image")
    reply = ask(folder / "bundle", folder / "images" / "00.png")
    n = len(digits["test"].labels)
    return Outcome(folder, cascade, rows[best], rows.get(cheapest or ""), answer, n, reply)


def save_images(images: NDArray[np.uint8], folder: Path) -> None:
    """Write images as PNG files, 00.png and so on."""
    for index, image in enumerate(images):
        with replaced(folder / f"{index:02}.png") as temporary:
            Image.fromarray(image).save(temporary, format="PNG")


def ask(bundle: Path, image: Path) -> dict[str, Any]:
    """Serve a bundle, and return the server's answer to one image, by the names of the outputs."""
    with _server(bundle) as address:
        request = urllib.request.Request(
            f"{address}/v2/models/{Bundle.open(bundle).name}/infer",
            data=image.read_bytes(),
            headers={"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            reply = json.load(response)
    return {output["name"]: output["data"] for output in reply["outputs"]}


@contextmanager
def _server(bundle: Path) -> Iterator[str]:
    """Run `encas serve` and yield its address."""
    command = [sys.executable, "-m", "encas", "serve", str(bundle), "--port", "0", "--provider", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            said = []
            for line in process.stdout:
                said.append(line.strip())
                address = re.search(r"http://[\w.:]+", line)
                if address and "serving" in line:
                    yield address.group()
                    return
            raise EncasError(f"the server did not start: {' '.join(said) or 'it said nothing'}")
        finally:
            process.terminate()


def _member(width: int, digits: Digits, folder: Path) -> MemberSpec:
    """Train a network unless its weights are there, and name it as a source."""
    weights = folder / f"width_{width:02}.safetensors"
    if not weights.exists():
        save_weights(train(width, digits), weights)
    return MemberSpec(
        source=f"torch:encas.demo:width_{width}", name=f"width_{width:02}", weights=str(weights)
    )


def _alone(name: str) -> Cascade:
    return Cascade(stages=(Stage(member=name),))


def _single(name: str, pool: Pool, folder: Path, digits: Digits) -> Row:
    """Measure a network in the same way as a cascade: as one of a single stage."""
    bundle = export(_alone(name), pool, folder / "singles" / name, split="val", allow_code=True)
    return _measured(name, bundle, digits)


def _measured(name: str, bundle: Bundle, digits: Digits) -> Row:
    with CascadeExecutor(bundle, "cpu") as executor:
        found: CascadeMeasurement = measure_bundle(
            executor, digits.images, [TIMED_BATCH], labels=digits.labels
        )
    assert found.accuracy is not None
    return Row(name, found.accuracy, found.macs, found.batches[0].latency_s.median / TIMED_BATCH)
