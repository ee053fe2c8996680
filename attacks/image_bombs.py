"""Files that are small, and images that are not; and files that are no whole images."""

import zlib
from struct import pack

from target import RAW, Target, chunk, png, refused, run

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def claimed_png(width: int, height: int) -> bytes:
    """Make a PNG whose head says more than it holds."""
    head = chunk(b"IHDR", pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return SIGNATURE + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def with_chunk(kind: bytes, content: bytes) -> bytes:
    """Put a part into a sound PNG, before its pixels."""
    whole = png(64, 64)
    return whole[:33] + chunk(kind, content) + whole[33:]


def tiff(width: int, height: int, tile: int = 0) -> bytes:
    """Make a TIFF that claims so many pixels, in one strip or in tiles of a size."""
    packed = zlib.compress(bytes(1000))
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 8),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
    ]
    place = 8 + 2 + 12 * (len(entries) + (4 if tile else 3)) + 4
    if tile:
        entries += [(322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, place), (325, 4, 1, len(packed))]
    else:
        entries += [(273, 4, 1, place), (278, 4, 1, height), (279, 4, 1, len(packed))]
    table = (
        pack("<H", len(entries))
        + b"".join(pack("<HHII", *entry) for entry in sorted(entries))
        + pack("<I", 0)
    )
    return b"II*\0" + pack("<I", 8) + table + packed


def attempt(target: Target) -> None:
    """Send claims first, then images that are truly large, then garbage of every kind."""
    gif_frame = b"\x2c" + pack("<HHHH", 0, 0, 65535, 65535) + b"\0\x02\x02\x4c\x01\0"
    bmp = (
        b"BM"
        + pack("<IHHI", 100, 0, 0, 54)
        + pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    webp_size = pack("<I", 60_000)[:3] * 2
    claims = {
        "PNG of 2^62 pixels": claimed_png(2**31 - 1, 2**31 - 1),
        "PNG of 10^9 pixels": claimed_png(50_000, 20_000),
        "PNG of one row": claimed_png(60_000_000, 1),
        "PNG of no pixel": claimed_png(0, 5),
        "GIF of 65,535 x 65,535": b"GIF89a" + pack("<HHBBB", 65535, 65535, 0, 0, 0) + gif_frame + b";",
        "GIF with a frame larger than itself": b"GIF89a" + pack("<HHBBB", 1, 1, 0, 0, 0) + gif_frame + b";",
        "TIFF of 10^9 pixels": tiff(50_000, 20_000),
        "TIFF of one pixel in a tile of 2^30": tiff(1, 1, 2**15),
        "TIFF whose directory is itself": b"II*\0" + pack("<I", 8) + pack("<H", 0) + pack("<I", 8),
        "BMP of 3.6 x 10^9 pixels": bmp,
        "WebP of 3.6 x 10^9 pixels": b"RIFF"
        + pack("<I", 22)
        + b"WEBPVP8X"
        + pack("<I", 10)
        + bytes(4)
        + webp_size,
        "PPM of 10^10 pixels": b"P6 100000 100000 255\n" + bytes(100),
        "PPM in digits": b"P3 8000 8000 255\n" + b"1 " * 1_000_000,
        "PPM with an endless number": b"P6 " + b"9" * 1_000_000,
        "JPEG of 65,535 x 65,535": b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xff\xff\xff\x01\x01\x11\0\xff\xd9",
        "text that unpacks to 100 MB": with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000))),
        "a profile that unpacks to 100 MB": with_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000))),
    }
    for what, content in claims.items():
        answer = target.infer(content, RAW)
        if "unpacks" in what and answer.status == 200:  # the pixels are sound, and the rest was not looked at
            continue
        refused(answer, what)
    for kind in (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"8BPS\0\x01",
        b"\0\0\x01\0\x01\0",
        b"<svg/>",
    ):
        refused(target.infer(kind + bytes(1000), RAW), f"{kind[:8]!r}")
    large = png(8000, 8000)
    assert target.infer(large, RAW).status in (200, 413)
    many = pack("<I", len(large)) + large
    head = (
        b'{"inputs":[{"name":"image","shape":[100],"datatype":"BYTES","parameters":{"binary_data_size":%d}}]}'
    )
    text = head % (100 * len(many))
    answer = target.infer(text + 100 * many, {"Inference-Header-Content-Length": str(len(text))})
    assert answer.status == 413, f"a hundred images of 64 megapixels: {answer.status} {answer.body[:200]!r}"
    whole = png(64, 64, 7)
    for cut in range(1, len(whole) // 2, max(1, len(whole) // 64)):
        refused(target.infer(whole[:cut], RAW), f"a PNG of {cut} bytes")
    for place in range(0, len(whole), 3):
        flipped = whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
        answer = target.infer(flipped, RAW)
        assert answer.status in (200, 400, 413), f"byte {place} flipped: {answer.status}"


if __name__ == "__main__":
    run(attempt)
