import io
import threading

import numpy as np
import pytest

pillow = pytest.importorskip("PIL.Image")

from encas.errors import InvalidInput, TooLarge  # noqa: E402
from encas.preprocess import Preprocess  # noqa: E402
from encas.runtime.images import Limits, decode  # noqa: E402
from encas.runtime.inputs import Decoding, Inputs, Threads  # noqa: E402
from encas.runtime.preprocess import prepare  # noqa: E402

SMALL, LARGE = Preprocess(size=(8, 8), crop_pct=0.875), Preprocess(size=(160, 160))


@pytest.fixture(scope="module")
def threads() -> Threads:
    return Threads()


def files(n: int) -> list[bytes]:
    rng, found = np.random.default_rng(0), []
    for index in range(n):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (20 + index, 50 - index, 3), np.uint8)
        pillow.fromarray(pixels).save(file, ("PNG", "JPEG")[index % 2])
        found.append(file.getvalue())
    return found


def test_a_batch_is_its_images_in_their_order(threads: Threads) -> None:
    images = files(21)
    for spec in (SMALL, LARGE):
        tensor = Inputs([spec], images, threads).tensor(0, np.arange(21))
        for image, sample in zip(images, tensor, strict=True):
            assert np.array_equal(sample, prepare(decode(image), spec))


def test_a_later_stage_gets_survivors_in_its_own_size(threads: Threads) -> None:
    images = files(9)
    inputs = Inputs([SMALL, LARGE], images, threads)
    inputs.tensor(0, np.arange(9))
    assert inputs.n_resized == 9
    survivors = np.array([1, 2, 7])
    tensor = inputs.tensor(1, survivors)
    assert inputs.n_resized == 12
    for row, sample in zip(survivors, tensor, strict=True):
        assert np.array_equal(sample, prepare(decode(images[row]), LARGE))
    assert np.array_equal(inputs.tensor(1, survivors[1:]), tensor[1:])
    assert inputs.n_resized == 12


def test_the_first_image_that_cannot_be_read_is_named(threads: Threads) -> None:
    images = files(12)
    images[4] = images[9] = b"garbage"
    for spec in (SMALL, LARGE):
        with pytest.raises(InvalidInput, match=r"^image 4: is no image"):
            Inputs([spec], images, threads).tensor(0, np.arange(12))


def test_images_of_no_kind_are_named(threads: Threads) -> None:
    with pytest.raises(InvalidInput, match=r"^image 1: must be bytes"):
        Inputs([SMALL], [files(1)[0], 3], threads).tensor(0, np.arange(2))  # type: ignore[list-item]


def test_an_image_of_pillow_may_be_given_twice_before_it_is_read(threads: Threads) -> None:
    image = pillow.open(io.BytesIO(files(2)[1]))
    tensor = Inputs([LARGE], [image] * 16, threads).tensor(0, np.arange(16))
    assert (tensor == tensor[0]).all()


def test_parts_cover_everything_once(threads: Threads) -> None:
    for n in (0, 1, 2, 7, 100):
        seen: list[int] = []
        lock = threading.Lock()

        def work(part: range, seen: list[int] = seen, lock: threading.Lock = lock) -> None:
            with lock:
                seen.extend(part)

        threads.for_parts(n, 2**16, work)
        assert sorted(seen) == list(range(n))


def test_little_work_is_done_where_it_was_asked_for(threads: Threads) -> None:
    for n, size in ((1, 224 * 224 * 3), (32, 32 * 32 * 3)):
        found: list[int] = []
        threads.for_parts(n, size, lambda _part, found=found: found.append(threading.get_ident()))  # type: ignore[misc]
        assert found == [threading.get_ident()]


def test_a_call_may_be_given_as_many_pixels_as_its_limit(threads: Threads) -> None:
    images = files(3)  # of 20 x 50, 21 x 49 and 22 x 48 pixels
    for most, fits in ((1000 + 1029 + 1056, True), (1000 + 1029 + 1055, False)):
        inputs = Inputs([SMALL], images, threads, Decoding(Limits(batch_pixels=most)))
        if fits:
            assert inputs.prepared(0, np.arange(3)).shape == (3, 3, 8, 8)
        else:
            with pytest.raises(TooLarge, match="the images of this request have more than 3084 pixels"):
                inputs.prepared(0, np.arange(3))


def test_what_is_not_kept_for_a_later_stage_is_decoded_again_to_the_same_bytes(threads: Threads) -> None:
    images, rows = files(6), np.arange(6)
    free = Inputs([SMALL, LARGE], images, threads)
    decoding = Decoding(Limits(kept_pixels=2100))  # two of six
    bound = Inputs([SMALL, LARGE], images, threads, decoding)
    for which in (0, 1):
        assert np.array_equal(free.prepared(which, rows), bound.prepared(which, rows))
    assert len(bound._decoded) == 2 and len(free._decoded) == 6
    another = Inputs([SMALL, LARGE], images, threads, decoding)
    another.prepared(0, rows)
    assert another._decoded == {}
    del bound, another
    later = Inputs([SMALL, LARGE], images, threads, decoding)
    later.prepared(0, rows)
    assert len(later._decoded) == 2


def test_nothing_is_decoded_for_a_call_that_was_given_up(threads: Threads) -> None:
    inputs = Inputs([SMALL], files(2), threads)
    inputs.stop()
    with pytest.raises(InvalidInput, match="given up"):
        inputs.prepared(0, np.arange(2))
