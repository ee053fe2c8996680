"""Batches for training: the same whenever they are asked for, and nothing but what was put in."""

import random

import numpy as np
import pytest
import torch

from encas.data import LabelledImages
from encas.errors import InvalidInput
from encas.search.nat.images import (
    CroppedAndFlipped,
    Pixels,
    RandomlyTransformed,
    Scale,
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
