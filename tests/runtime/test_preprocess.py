import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pillow = pytest.importorskip("PIL.Image")

from encas.preprocess import CropMode, Interpolation, Preprocess  # noqa: E402
from encas.runtime.preprocess import keeps_size, normalise, prepare, prepare_batch, resized  # noqa: E402

SIZES = [(8, 8), (13, 17), (97, 31), (31, 97), (299, 299), (300, 200), (5, 90), (64, 65)]  # height, width


def photograph(size: tuple[int, int], mode: str = "RGB") -> Any:
    shape = size if mode == "L" else (*size, 3)
    return pillow.fromarray(np.random.default_rng(sum(size)).integers(0, 256, shape, np.uint8))


def timm_tensor(image: Any, spec: Preprocess) -> np.ndarray[Any, np.dtype[np.float32]]:
    data = pytest.importorskip("timm.data")
    transform = data.create_transform(
        input_size=(spec.channels, *spec.size),
        interpolation=spec.interpolation,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
        mean=spec.mean,
        std=spec.std,
        is_training=False,
    )
    return np.asarray(transform(image).numpy())


def assert_same_bytes(image: Any, spec: Preprocess) -> None:
    ours, timms = prepare(image, spec), timm_tensor(image, spec)
    assert ours.dtype == timms.dtype == np.float32
    assert ours.shape == timms.shape == spec.shape
    assert ours.tobytes() == timms.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_the_bytes_are_those_of_timm(interpolation: Interpolation, crop_mode: CropMode) -> None:
    for size in SIZES:
        for crop_pct in (0.875, 0.9, 1.0):
            spec = Preprocess(
                size=(56, 56), interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct
            )
            assert_same_bytes(photograph(size), spec)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_the_bytes_are_those_of_timm_where_the_target_is_no_square(crop_mode: CropMode) -> None:
    for size in SIZES:
        for target in ((40, 56), (57, 33)):
            assert_same_bytes(photograph(size), Preprocess(size=target, crop_mode=crop_mode, crop_pct=0.9))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_the_bytes_are_those_of_timm_for_a_grayscale_network(crop_mode: CropMode) -> None:
    spec = Preprocess(channels=1, size=(28, 28), crop_mode=crop_mode, crop_pct=0.9, mean=(0.13,), std=(0.3,))
    for size in SIZES:
        assert_same_bytes(photograph(size, "L"), spec)


@settings(max_examples=60)
@given(
    st.integers(1, 120),
    st.integers(1, 120),
    st.sampled_from([(16, 16), (17, 17), (16, 23)]),
    st.floats(0.5, 1.0),
    st.sampled_from(["center", "squash", "border"]),
)
def test_any_size_gives_the_bytes_of_timm(
    height: int, width: int, target: tuple[int, int], crop_pct: float, crop_mode: CropMode
) -> None:
    spec = Preprocess(size=target, crop_pct=crop_pct, crop_mode=crop_mode, interpolation="bilinear")
    if min(resized_without_floor(height, width, spec)) < 1:
        return  # timm fails on what it would make zero pixels wide
    assert_same_bytes(photograph((height, width)), spec)


def resized_without_floor(height: int, width: int, spec: Preprocess) -> tuple[int, int]:
    target = [math.floor(side / spec.crop_pct) for side in spec.size]
    ratio = max(height / target[0], width / target[1])
    return (round(height / ratio), round(width / ratio)) if spec.crop_mode == "border" else (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "vit_base_patch16_224", "resnet50", "convnext_tiny"]
)
def test_the_bytes_are_those_of_timms_own_configurations(name: str) -> None:
    timm = pytest.importorskip("timm")
    config = timm.data.resolve_data_config(timm.get_pretrained_cfg(name).to_dict())
    spec = Preprocess(
        size=config["input_size"][1:],
        **{key: config[key] for key in ("interpolation", "crop_pct", "crop_mode", "mean", "std")},
    )
    for size in ((299, 299), (375, 500), (640, 427)):
        image = photograph(size)
        timms = timm.data.create_transform(**config, is_training=False)(image).numpy()
        assert prepare(image, spec).tobytes() == timms.tobytes()


def test_a_batch_is_its_images_one_by_one() -> None:
    spec = Preprocess(size=(24, 24), crop_pct=0.9)
    images = [photograph(size) for size in SIZES]
    batch = prepare_batch(images, spec)
    assert batch.shape == (8, 3, 24, 24)
    for image, tensor in zip(images, batch, strict=True):
        assert np.array_equal(tensor, prepare(image, spec))


def test_raw_pixels_stay_0_to_255_with_a_divisor_of_one() -> None:
    spec = Preprocess(channels=1, size=(1, 2), divisor=1.0, mean=(0.0,), std=(1.0,))
    assert prepare(pillow.fromarray(np.array([[0, 255]], np.uint8)), spec).tolist() == [[[0.0, 255.0]]]


def test_normalisation_by_hand() -> None:
    spec = Preprocess(channels=1, size=(1, 1), mean=(0.5,), std=(0.25,))
    tensor = normalise(np.array([[[[0]]], [[[255]]]], np.uint8), spec)
    assert tensor.tolist() == [[[[-2.0]]], [[[2.0]]]]


def test_an_rgb_image_is_made_gray_for_a_grayscale_network() -> None:
    spec = Preprocess(channels=1, size=(1, 1), divisor=1.0, mean=(0.0,), std=(1.0,))
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B
    assert prepare(pillow.new("RGB", (1, 1), (100, 0, 0)), spec).item() == 30
    assert prepare(pillow.new("RGB", (1, 1), (0, 100, 0)), spec).item() == 59


def test_the_border_is_the_mean_which_becomes_zero() -> None:
    spec = Preprocess(size=(4, 4), crop_mode="border", mean=(0.2, 0.4, 0.6), std=(1.0, 1.0, 1.0))
    tensor = prepare(pillow.new("RGB", (4, 2), (255, 255, 255)), spec)
    assert np.abs(tensor[:, [0, 3]]).max() < 1 / 255
    assert tensor[0, 1:3] == pytest.approx(0.8)


def test_sizes_by_hand() -> None:
    spec = Preprocess(size=(224, 224), crop_pct=0.875)
    assert resized((300, 500), spec) == (256, 426)  # 256 * 500 / 300 = 426.7, rounded down
    assert resized((300, 500), spec.model_copy(update={"crop_mode": "squash"})) == (256, 256)
    assert resized((300, 500), spec.model_copy(update={"crop_mode": "border"})) == (154, 256)


def test_pixels_pass_through_only_where_nothing_is_resized_or_cut() -> None:
    assert keeps_size((32, 32), Preprocess(size=(32, 32)))
    assert not keeps_size((32, 32), Preprocess(size=(32, 32), crop_pct=0.875))
    assert not keeps_size((32, 33), Preprocess(size=(32, 32)))
    assert keeps_size((32, 48), Preprocess(size=(32, 48)))
