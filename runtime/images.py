"""From an image in any of the forms that users have to decoded pixels."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as pillow
from PIL import UnidentifiedImageError

from encas.errors import InvalidInput, TooLarge

# An encoded image, the path of a file that holds one, pixels (h, w) or (h, w, 3), or an image of Pillow.
AnyImage = bytes | str | Path | NDArray[np.uint8] | pillow.Image

# Those of encas.data.IMAGE_SUFFIXES. Pillow knows more, and runs Ghostscript on some of them.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_TILE_TAGS = (322, 323)  # of TIFF: width and length
_JPEG = b"\xff\xd8\xff"
_JPEG_COLOURS = ("YCbCr", "Gray", "RGB")

# Pillow returns the memory of every image, and the system may clear it again for the next one, which takes
# longer than decoding a photograph. So a few blocks, of 16 MB at most, are kept.
pillow.core.set_blocks_max(max(8, pillow.core.get_blocks_max()))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Limits:
    """What an image may ask for before anything of it is decoded."""

    encoded_bytes: int = 64 * 2**20
    pixels: int = 64_000_000  # 192 MB once decoded
    # Longer side to shorter: fitting the shorter one to a network would make the longer one huge.
    aspect: int = 100
    batch_pixels: int | None = None  # of all images of one call together
    kept_pixels: int | None = None  # of all calls together, kept for later stages; others are decoded again


DEFAULT_LIMITS = Limits()
Admit = Callable[[int], None]  # is told how many pixels are about to be decoded; what it raises is raised


def _admit_all(_pixels: int) -> None:
    pass


def decode(
    image: AnyImage, place: str = "image", limits: Limits = DEFAULT_LIMITS, admit: Admit = _admit_all
) -> pillow.Image:
    """Decode an image as timm's and torchvision's image folders do.

    Encoded images become RGB by Pillow's `convert`: alpha is dropped, palettes and CMYK are resolved, and
    the orientation noted in EXIF is *not* applied, since the networks were trained and evaluated without it.
    Of a file with several frames the first one counts. Sound JPEG files are read by simplejpeg, to the same
    pixels in less time.

    Args:
        image: Anything of `AnyImage`; an array (h, w) stays grayscale.
        place: What an error calls an image that has no path.
        limits: Checked before decoding.
        admit: Asked before decoding.

    Raises:
        InvalidInput: No such file, no image, a truncated or too large one.
    """
    if isinstance(image, pillow.Image):
        _check_pixels(image.size, place, limits)
        return _loaded(image, place, keep=("RGB", "L"))
    if isinstance(image, np.ndarray):
        return _from_array(image, place, limits)
    if isinstance(image, bytes):
        return _decode(image, place, limits, admit)
    if isinstance(image, (str, Path)):
        return _decode(_read(Path(image), limits), str(image), limits, admit)
    raise InvalidInput(
        f"{place}: must be bytes, a path, uint8 pixels (h, w) or (h, w, 3), or an image of Pillow, "
        f"is {type(image).__name__}"
    )


def _read(path: Path, limits: Limits) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limits.encoded_bytes + 1)  # enough to see that it is too much
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file") from None
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from None


def _decode(content: bytes, place: str, limits: Limits, admit: Admit) -> pillow.Image:
    if len(content) > limits.encoded_bytes:
        raise TooLarge(f"{place}: more than {limits.encoded_bytes} bytes; use a smaller file")
    if content.startswith(_JPEG):
        image = _sound_jpeg(content, place, limits, admit)
        if image is not None:
            return image
    try:
        image = pillow.open(io.BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError:
        what = "is empty" if not content else "is no image that Pillow can read"
        raise InvalidInput(f"{place}: {what}; JPEG, PNG or WebP would be right") from None
    except pillow.DecompressionBombError:  # far beyond any limit of ours
        raise TooLarge(f"{place}: more than {limits.pixels} pixels; make the image smaller") from None
    except Exception as error:  # a decoder that is fed garbage raises whatever it likes
        raise InvalidInput(f"{place}: is no whole image: {_first_line(error)}") from None
    _check_pixels(image.size, place, limits)
    if _tile_pixels(image) > limits.pixels:  # each is unpacked as a whole, however small the image is
        raise TooLarge(f"{place}: has tiles of more than {limits.pixels} pixels; store it without")
    admit(image.width * image.height)
    return _loaded(image, place)


def _tile_pixels(image: pillow.Image) -> int:
    """Pixels of a tile of a TIFF file, 0 for others."""
    tags = getattr(image, "tag_v2", {})
    width, height = (tags.get(number, 0) for number in _TILE_TAGS)
    return int(width) * int(height) if isinstance(width, int) and isinstance(height, int) else 0


def _sound_jpeg(content: bytes, place: str, limits: Limits, admit: Admit) -> pillow.Image | None:
    """Decode a JPEG file that gives no cause for a warning; None leaves the others to Pillow.

    Both decoders are libjpeg-turbo with the same settings, so the pixels are the same. CMYK is Pillow's to
    convert, and how much of a damaged file is still an image is Pillow's to say.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except (ValueError, KeyError):  # KeyError: a colour space without a name
        return None
    if colours not in _JPEG_COLOURS:
        return None
    _check_pixels((width, height), place, limits)
    admit(width * height)
    try:
        pixels = simplejpeg.decode_jpeg(content, colorspace="RGBX")
    except ValueError:
        return None
    # Pillow keeps four bytes for a pixel of RGB, so these are only copied.
    return pillow.frombytes("RGB", (width, height), pixels.data, "raw", "RGBX")


def _loaded(image: pillow.Image, place: str, keep: tuple[str, ...] = ("RGB",)) -> pillow.Image:
    """Read the pixels, which Pillow puts off, and convert them unless their mode is one to keep."""
    try:
        image.load()
        return image if image.mode in keep else image.convert("RGB")
    except Exception as error:  # as above
        raise InvalidInput(f"{place}: is no whole image: {_first_line(error)}") from None


def _check_pixels(size: tuple[int, int], place: str, limits: Limits) -> None:
    width, height = size
    if width * height > limits.pixels:
        raise TooLarge(
            f"{place}: {width} x {height} pixels, at most {limits.pixels} are decoded; make the image smaller"
        )
    if width * height == 0:
        raise InvalidInput(f"{place}: {width} x {height} pixels; there is nothing to see")
    if max(size) > limits.aspect * min(size):
        raise InvalidInput(
            f"{place}: {width} x {height} pixels, one side may be at most {limits.aspect} times the other; "
            "cut a part out"
        )


def _from_array(pixels: NDArray[np.uint8], place: str, limits: Limits) -> pillow.Image:
    gray, colour = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (gray or colour):
        raise InvalidInput(
            f"{place}: pixels must be uint8 of shape (height, width) or (height, width, 3), "
            f"are {pixels.dtype} of {pixels.shape}"
        )
    _check_pixels((pixels.shape[1], pixels.shape[0]), place, limits)
    return pillow.fromarray(np.ascontiguousarray(pixels))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
