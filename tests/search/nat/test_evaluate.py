"""Images that architectures are evaluated on."""

import numpy as np
import pytest

pytest.importorskip("torch")

from encas.data import LabelledImages
from encas.preprocess import Preprocess
from encas.search.nat.evaluate import Prepared


def prepared(kept_bytes: int) -> Prepared:
    pixels = np.random.default_rng(0).integers(256, size=(300, 20, 20, 3), dtype=np.uint8)
    images = LabelledImages(pixels, np.zeros(300, np.int64), None)
    return Prepared(images, Preprocess(size=(20, 20)), kept_bytes=kept_bytes)


def test_no_more_resolutions_are_kept_than_there_is_room_for_and_the_tensors_are_the_same() -> None:
    # At 8, 12, 16 and 20 pixels 300 images are 58, 130, 230 and 360 kB.
    roomy, tight = prepared(2**30), prepared(300_000)
    for side in (8, 12, 20, 16, 12, 8):
        pairs = list(zip(roomy.tensors(side), tight.tensors(side), strict=True))
        assert len(pairs) == 2 and all(bool((one == two).all()) for one, two in pairs)
        assert sum(pixels.nbytes for pixels in tight._pixels.values()) <= 300_000
    assert list(roomy._pixels) == [20, 16, 12, 8]  # what was used last comes last
    assert list(tight._pixels) == [12, 8]
