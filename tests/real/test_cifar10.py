"""Six published ONNX networks on CIFAR-10's test images: half of them to search on, half to test."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

pytest.importorskip("onnxruntime")
pillow = pytest.importorskip("PIL.Image")
pytest.importorskip("numba")

DATA = Path(__file__).resolve().parents[2] / "../shared/data/cifar10"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there"),
]
# MMACs and test accuracy, as published with the networks.
NETWORKS = {
    "mlperf_tiny_resnet8": (12.5, 0.8719),
    "resnet20": (40.6, 0.9173),
    "resnet32": (68.9, 0.9263),
    "mlperf_tiny_resnet8_large": (76.5, 0.9128),
    "resnet44": (97.2, 0.9310),
    "resnet56": (125.5, 0.9339),
}
IMAGENET = {"size": 32, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
RAW = {"size": 32, "divisor": 1, "mean": [0, 0, 0], "std": [1, 1, 1]}


@pytest.fixture(scope="module")
def images() -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    spec = importlib.util.spec_from_file_location("read_cifar10", DATA / "read_cifar10.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found, labels, _ = module.load(DATA / "cifar10.npz", "test")
    return found, labels


@pytest.fixture(scope="module")
def walk(images: Any, helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("cifar10")
    np.savez(folder / "test.npz", images=images[0], labels=images[1])
    members = [
        {
            "source": f"onnx:{DATA.resolve()}/onnx/{name}.onnx",
            "preprocess": RAW if name.startswith("mlperf") else IMAGENET,
        }
        for name in NETWORKS
    ]
    (folder / "members.yml").write_text(yaml.safe_dump(members))
    common = ("pool", "record", "pool", "--members", "members.yml", "--data", "test.npz")
    helpers.encas(*common, "--rows", ":5000", cwd=folder)
    helpers.encas(*common, "--rows", "5000:", "--split", "test", cwd=folder)
    walk = helpers.Walk(folder)
    best = max((walk.pool.probs(n, "val").argmax(axis=1) == walk.pool.labels("val")).mean() for n in NETWORKS)
    walk.find(float(best))
    return walk


@pytest.mark.parametrize("name", NETWORKS)
def test_the_recorded_network_is_the_published_one(name: str, walk: Any) -> None:
    mmacs, accuracy = NETWORKS[name]
    assert walk.pool.member(name).macs / 1e6 == pytest.approx(mmacs, abs=0.051)
    assert walk.accuracy(name) == pytest.approx(accuracy, abs=0.005)


def test_the_cascade_needs_fewer_macs_than_any_network_as_accurate(walk: Any, helpers: Any) -> None:
    found = helpers.encas("evaluate", "cascade.json", "--split", "test", cwd=walk.folder)
    assert found["cascade"]["n"] == 5000
    assert found["cascade"]["accuracy"] > found["single_members"]["no_more_cost"]["accuracy"] + 0.02
    assert found["cascade"]["macs"] < 0.7 * found["single_members"]["no_less_accuracy"]["macs"]


def test_the_executor_decides_as_recorded(walk: Any, helpers: Any, images: Any) -> None:
    helpers.assert_executor_agrees(walk, images[0][5000:])


@pytest.mark.parametrize("image_size", [None, (32, 32)])
def test_the_single_file_answers_all_images_as_the_executor(
    image_size: Any, walk: Any, helpers: Any, images: Any, tmp_path: Path
) -> None:
    shown = [pillow.fromarray(image) for image in images[0]]
    helpers.assert_single_file_agrees(walk, shown, tmp_path, image_size)


def test_the_server_decides_as_recorded(walk: Any, helpers: Any, images: Any, start_server: Any) -> None:
    http = pytest.importorskip("tritonclient.http")

    def as_input(pixels: NDArray[np.uint8]) -> Any:
        tensor = http.InferInput("image", list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(np.ascontiguousarray(pixels))
        return tensor

    helpers.assert_server_agrees(walk, images[0][5000:], start_server, as_input)


def test_measuring_executes_the_macs_that_were_predicted(walk: Any, helpers: Any) -> None:
    options = ("--data", "test.npz", "--rows", "5000:", "--batch", 1, 32, "--pool", "pool")
    found = helpers.encas("measure", "bundle", *options, cwd=walk.folder)
    expected, _ = walk.recorded()
    assert found["macs"] == pytest.approx(expected.macs.mean(), rel=1e-3)
    assert found["accuracy"] == pytest.approx((expected.label == walk.pool.labels("test")).mean(), abs=1e-3)
    timed = {member.name for member in walk.pool.file.members if member.latency}
    assert timed == set(walk.cascade.member_names)


@pytest.fixture(scope="module")
def watched(walk: Any, images: Any) -> Any:
    """The reference of the bundle, and what it answers to the test images and to changed ones, by kind."""
    from encas.runtime import CascadeExecutor

    test = images[0][5000:]
    shown = [pillow.fromarray(image) for image in test[:1500]]
    blur = pytest.importorskip("PIL.ImageFilter").GaussianBlur(1.0)
    kinds = {
        "as they are": test,
        "blurred": np.stack([np.asarray(image.filter(blur)) for image in shown]),
        "darkened": (test[:1500] * 0.35).astype(np.uint8),
        "of other classes": photographs(),
    }
    with CascadeExecutor(walk.bundle, "cpu") as executor:
        answers = {}
        for kind, pixels in kinds.items():
            parts = [executor.run(pixels[start : start + 64]) for start in range(0, len(pixels), 64)]
            exits, confidences = (
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("exit_stage", "confidence")
            )
            answers[kind] = (exits, confidences)
    reference = walk.bundle.reference
    assert reference is not None and reference.n == 5000
    (gear,) = reference.gears
    return gear, {kind: gear.places(*(one.tolist() for one in found)) for kind, found in answers.items()}


def photographs() -> NDArray[np.uint8]:
    """1,000 photographs, nearly all of them of other classes, as small as CIFAR-10's."""
    import io
    import tarfile

    found = []
    with tarfile.open(DATA.parent / "imagenet/photographs.tar") as archive:
        for entry in archive:
            if entry.name.lower().endswith((".jpg", ".jpeg", ".png")):
                file = archive.extractfile(entry)
                assert file is not None
                image = pillow.open(io.BytesIO(file.read())).convert("RGB").resize((32, 32))
                found.append(np.asarray(image))
    return np.stack(found)


@pytest.mark.slow
def test_no_drift_is_seen_in_twenty_replays_of_images_of_the_same_kind(watched: Any) -> None:
    from encas.serve.drift import DriftTest

    gear, places = watched
    for replay in range(20):
        rng = np.random.default_rng(replay)
        test = DriftTest(gear.counts, rng)
        assert not test.add(rng.permutation(places["as they are"]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["blurred", "darkened", "of other classes"])
def test_an_alarm_comes_within_2000_images_when_half_of_them_change(kind: str, watched: Any) -> None:
    from encas.serve.drift import DriftTest

    gear, places = watched
    for before in (0, 1000, 1900, 2950):
        rng = np.random.default_rng(before)
        test = DriftTest(gear.counts, rng)
        same = rng.permutation(places["as they are"])
        assert not test.add(same[:before])
        mixed = np.concatenate([same[before : before + 1000], rng.choice(places[kind], 1000)])
        found = [n for n, place in enumerate(rng.permutation(mixed)) if test.add(place[None])]
        assert found, (kind, before)
        print(f"{kind}, half of them, after {before}: alarm after {found[0] + 1} images")  # noqa: T201
