import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pillow = pytest.importorskip("PIL.Image")

from encas.errors import InvalidInput  # noqa: E402
from encas.runtime.images import Limits, decode  # noqa: E402

RGB = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)


def encoded(pixels: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    image = pillow.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_bytes_a_path_pixels_and_a_pillow_image_are_the_same_image(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(RGB))
    for image in (encoded(RGB), path, RGB, pillow.fromarray(RGB)):
        assert np.array_equal(np.asarray(decode(image)), RGB)


def test_grayscale_pixels_stay_grayscale_and_a_grayscale_file_becomes_rgb() -> None:
    gray = RGB[:, :, 0]
    assert decode(gray).mode == "L"
    assert np.array_equal(np.asarray(decode(encoded(gray))), np.repeat(gray[:, :, None], 3, axis=2))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
def test_every_mode_becomes_what_an_image_folder_gives(mode: str, tmp_path: Path) -> None:
    folder = pytest.importorskip("torchvision.datasets.folder")
    if mode == "I;16":
        image = pillow.fromarray(np.arange(13 * 17, dtype=np.uint16).reshape(13, 17) * 250)
    else:
        image = pillow.fromarray(RGB).convert(mode)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.save(path)
    assert np.array_equal(np.asarray(decode(path)), np.asarray(folder.pil_loader(str(path))))


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"subsampling": 0, "quality": 95}, {"quality": 10}, {"optimize": True}]
)
def test_every_kind_of_jpeg_becomes_what_an_image_folder_gives(
    options: dict[str, int], tmp_path: Path
) -> None:
    folder = pytest.importorskip("torchvision.datasets.folder")
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(RGB, "JPEG", **options))
    assert np.array_equal(np.asarray(decode(path)), np.asarray(folder.pil_loader(str(path))))


def test_the_orientation_in_exif_is_not_applied() -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert decode(encoded(RGB, "JPEG", exif=exif)).size == (17, 13)


def test_the_first_frame_of_an_animation_counts() -> None:
    file = io.BytesIO()
    frames = [pillow.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert decode(file.getvalue()).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_file_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{kind.lower()}"
    whole = encoded(np.tile(RGB, (8, 8, 1)), kind)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match=r"image\.\w+: is no ") as error:
        decode(path)
    assert "\n" not in str(error.value)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not an image")
    with pytest.raises(InvalidInput, match=r"notes\.txt: is no image that Pillow can read"):
        decode(path)
    path.write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"notes\.txt: is empty"):
        decode(path)
    with pytest.raises(InvalidInput, match=r"^image 3: is no image"):
        decode(b"garbage", "image 3")
    with pytest.raises(InvalidInput, match=r"gone\.png: no such file"):
        decode(tmp_path / "gone.png")
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        decode(tmp_path)


def test_a_format_that_another_program_would_have_to_run_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is no image that Pillow can read"):
        decode(encoded(RGB, "EPS"))


def test_an_image_that_pillow_has_only_begun_to_read_is_read_at_the_door(tmp_path: Path) -> None:
    whole = encoded(np.tile(RGB, (8, 8, 1)))
    (tmp_path / "image.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match="image 2: is no whole image"):
        decode(pillow.open(tmp_path / "image.png"), "image 2")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_no_cut_or_flipped_byte_of_a_file_escapes_as_another_error() -> None:
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP"):
        whole = bytearray(encoded(RGB, kind))
        for _ in range(60):
            broken = whole.copy()
            for at in rng.integers(0, len(whole), 3):
                broken[at] = rng.integers(256)
            try:
                decode(bytes(broken[: rng.integers(1, len(whole))]), "here")
            except InvalidInput as error:
                assert str(error).startswith("here: ")


def test_too_many_bytes_are_refused_before_decoding(tmp_path: Path) -> None:
    limits = Limits(encoded_bytes=100)
    with pytest.raises(InvalidInput, match=r"^image: more than 100 bytes"):
        decode(encoded(RGB), limits=limits)
    (tmp_path / "image.png").write_bytes(encoded(RGB))
    with pytest.raises(InvalidInput, match=r"image\.png: more than 100 bytes"):
        decode(tmp_path / "image.png", limits=limits)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no endless file")
def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(InvalidInput, match="/dev/zero: more than 67108864 bytes"):
        decode(Path("/dev/zero"))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_001, 10_000, 60_000])
def test_too_many_pixels_are_refused_before_decoding(side: int) -> None:
    with pytest.raises(InvalidInput, match="64000000"):
        decode(bomb(side, side))


def test_a_thin_strip_is_refused_since_resizing_it_would_take_gigabytes() -> None:
    assert decode(np.zeros((1, 100), np.uint8)).size == (100, 1)
    with pytest.raises(InvalidInput, match="at most 100 times the other"):
        decode(np.zeros((1, 101), np.uint8))


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8), 3, None]
)
def test_other_things_are_refused(image: object) -> None:
    with pytest.raises(InvalidInput, match="uint8"):
        decode(image)  # type: ignore[arg-type]


def test_no_pixels_are_refused() -> None:
    with pytest.raises(InvalidInput, match="nothing to see"):
        decode(np.zeros((0, 4), np.uint8))


def test_a_photograph_of_a_phone_with_two_pictures_in_it_is_its_first() -> None:
    file = io.BytesIO()
    pillow.new("RGB", (8, 8), (255, 0, 0)).save(
        file, "MPO", save_all=True, append_images=[pillow.new("RGB", (8, 8), (0, 255, 0))]
    )
    red, green, _ = np.asarray(decode(file.getvalue()))[4, 4]
    assert red > 250 and green < 5


def jpeg_bomb(width: int, height: int, **options: Any) -> bytes:
    """A small JPEG file whose header says that it is huge."""
    whole = bytearray(encoded(RGB, "JPEG", **options))
    start = whole.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    whole[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(whole)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_file_of_too_many_pixels_is_refused_before_decoding(progressive: bool) -> None:
    tracemalloc.start()
    with pytest.raises(InvalidInput, match=r"60000 x 65000 pixels, at most 64000000 are decoded"):
        decode(jpeg_bomb(60_000, 65_000, progressive=progressive))
    with pytest.raises(InvalidInput, match="at most 200 are decoded"):
        decode(encoded(RGB, "JPEG"), limits=Limits(pixels=200))  # 13 x 17 = 221
    with pytest.raises(InvalidInput, match="at most 100 times the other"):
        decode(jpeg_bomb(50_000, 17, progressive=progressive))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
