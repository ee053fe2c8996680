"""Batches for training: the same whenever they are asked for, and nothing but what was put in."""

import multiprocessing
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as pillow

from encas.data import LabelledImages
from encas.errors import InvalidInput
from encas.search.nat.images import (
    CroppedAndFlipped,
    Pixels,
    RandomlyTransformed,
    Scale,
    Share,
    cut_mixed,
    cut_out,
)

PLAIN = Scale((0.0, 0.0, 0.0), (1 / 255,) * 3)  # leaves pixels as they are


def pixels(n: int, side: int = 8) -> Pixels:
    """Image i is full of i."""
    images = np.arange(n, dtype=np.uint8)[:, None, None, None].repeat(side, 1).repeat(side, 2).repeat(3, 3)
    return Pixels(images, np.arange(n))


def test_an_epoch_shows_every_image_once_with_its_label() -> None:
    batches = CroppedAndFlipped(pixels(20), PLAIN, 4, seed=0)
    assert batches.n_per_epoch == 5
    seen = []
    for index in range(5):
        images, labels = batches.draw(index, 8)
        assert images.shape == (4, 3, 8, 8)
        assert torch.equal(images[:, 0, 0, 0].round().long(), labels)
        seen += labels.tolist()
    assert sorted(seen) == list(range(20))
    assert seen != sorted(seen)


def test_a_batch_is_the_same_whenever_it_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    noise = Pixels(rng.integers(256, size=(12, 8, 8, 3), dtype=np.uint8), np.arange(12))
    one, two = (CroppedAndFlipped(noise, PLAIN, 4, seed=3) for _ in range(2))
    for index in (0, 1, 2):
        one.draw(index, 8)
    assert torch.equal(one.draw(7, 8)[0], two.draw(7, 8)[0])
    assert not torch.equal(one.draw(7, 8)[0], CroppedAndFlipped(noise, PLAIN, 4, seed=4).draw(7, 8)[0])


def test_images_are_moved_by_at_most_the_padding_and_half_are_flipped() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[3, 2] = 255  # left of the middle
    same = Pixels(image[None].repeat(400, 0), np.zeros(400, np.int64))
    images, _ = CroppedAndFlipped(same, PLAIN, 400, seed=0, padding=1).draw(0, 8)
    rows, columns = np.nonzero(images[:, 0].sum(0).numpy())
    assert set(rows.tolist()) == {2, 3, 4}
    assert set(columns.tolist()) == {1, 2, 3, 4, 5, 6}
    flipped = (images[:, 0, :, 4:].sum((1, 2)) > 0).float().mean()
    assert 0.4 < float(flipped) < 0.6


def test_pixels_are_scaled_as_networks_want_them() -> None:
    scaled = Scale((0.5, 0.25, 0.0), (0.5, 0.5, 1.0))(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8))
    assert scaled[0, :, 0, 0].tolist() == pytest.approx([1.0, 1.5, 1.0])


def test_too_few_images_for_a_batch_are_told() -> None:
    with pytest.raises(InvalidInput, match="at least one batch of 8 images, there are 4"):
        CroppedAndFlipped(pixels(4), PLAIN, 8, seed=0)


def test_mixed_images_tell_whose_pixels_they_are_and_how_many() -> None:
    images = torch.arange(6.0)[:, None, None, None].expand(6, 3, 10, 10).clone()
    labels = torch.arange(6)
    rng = np.random.default_rng(5)
    mixed, pasted, share = cut_mixed(images, labels, rng, probability=1.0)
    for image, own, other in zip(mixed, labels.tolist(), pasted.tolist(), strict=True):
        assert set(image.unique().tolist()) <= {own, other}
        if own != other:
            assert float((image == own).float().mean()) == pytest.approx(share)
    same, _, whole = cut_mixed(images, labels, rng, probability=0.0)
    assert torch.equal(same, images) and whole == 1.0


def test_a_square_is_cut_out_of_every_image() -> None:
    out = cut_out(torch.ones(3, 3, 16, 16), np.random.default_rng(0), 8)
    holes = (out == 0).float().mean((1, 2, 3))
    assert len(set(holes.tolist())) == 1 and 0 < float(holes[0]) <= 0.25


def test_strong_augmentation_repeats_itself_and_leaves_other_chance_alone() -> None:
    rng = np.random.default_rng(0)
    images = LabelledImages(rng.integers(256, size=(6, 32, 32, 3), dtype=np.uint8), np.arange(6), None)
    random.seed(1)
    torch.manual_seed(1)
    before = (random.getstate(), torch.random.get_rng_state())
    batches = RandomlyTransformed(images, PLAIN, 3, seed=2)
    first, labels = batches.draw(1, 24)
    assert first.shape == (3, 3, 24, 24) and len(labels) == 3
    assert torch.equal(batches.draw(1, 24)[0], first)
    assert not torch.equal(batches.draw(0, 24)[0], first)
    assert random.getstate() == before[0] and torch.equal(torch.random.get_rng_state(), before[1])


@pytest.mark.parametrize("n", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_damaged_file_is_named_when_its_batch_is_drawn_and_not_before(n: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for file in files:
        pillow.fromarray(rng.integers(256, size=(20, 20, 3), dtype=np.uint8)).save(file)
    order = RandomlyTransformed(LabelledImages(files, np.arange(6), None), PLAIN, 2, seed=0)
    last = [order.draw(index, 16)[1].tolist() for index in range(3)][-1][0]
    files[last].write_bytes(b"no image")
    batches = RandomlyTransformed(LabelledImages(files, np.arange(6), None), PLAIN, 2, seed=0, workers=n)
    drawn = []
    with pytest.raises(InvalidInput) as caught:
        for images, _ in batches.stream([(index, 16) for index in range(3)]):
            drawn.append(images)
    assert len(drawn) == 2
    assert str(caught.value).startswith(f"{files[last]}: ") and "\n" not in str(caught.value)


@pytest.mark.slow
def test_workers_prepare_the_same_bytes_in_the_same_order_however_many_there_are() -> None:
    rng = np.random.default_rng(0)
    images = LabelledImages(rng.integers(256, size=(9, 32, 32, 3), dtype=np.uint8), np.arange(9), None)
    wanted = [(index, 16 + 4 * (index % 3)) for index in range(7)]
    state = torch.random.get_rng_state()

    def drawn(workers: int) -> list[bytes]:
        batches = RandomlyTransformed(images, PLAIN, 4, seed=2, workers=workers)
        return [part.numpy().tobytes() + labels.numpy().tobytes() for part, labels in batches.stream(wanted)]

    assert drawn(0) == drawn(1) == drawn(3)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_a_worker_that_dies_is_one_clear_line() -> None:
    images = LabelledImages(np.zeros((8, 8, 8, 3), np.uint8), np.arange(8), None)
    batches = RandomlyTransformed(images, PLAIN, 4, seed=2, workers=1)
    with pytest.raises(InvalidInput, match="training images: a process that prepares them ended, perhaps"):
        for _ in batches.stream((index, 8) for index in range(1000)):
            for worker in multiprocessing.active_children():
                worker.kill()


def test_processes_draw_their_own_images_with_a_chance_of_their_own() -> None:
    rng = np.random.default_rng(0)
    images = LabelledImages(rng.integers(256, size=(8, 16, 16, 3), dtype=np.uint8), np.arange(8), None)
    whole = RandomlyTransformed(images, PLAIN, 8, seed=2).draw(0, 16)
    parts = [RandomlyTransformed(images, PLAIN, 8, seed=2, share=Share(r, 2)).draw(0, 16) for r in range(2)]
    assert torch.equal(torch.cat([labels for _, labels in parts]), whole[1])
    assert not torch.equal(parts[1][0], whole[0][4:])


def test_gray_images_are_trained_on_in_colour() -> None:
    gray = LabelledImages(np.full((2, 16, 16), 7, np.uint8), np.arange(2), None)
    assert RandomlyTransformed(gray, PLAIN, 2, seed=0).draw(0, 12)[0].shape == (2, 3, 12, 12)
