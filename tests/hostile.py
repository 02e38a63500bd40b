"""Hostile files, made on the spot: each with what the decoding policy says about it (docs/decoding.md)."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
DECODES = frozenset({"ok"})
CUT = frozenset({"empty", "not-an-image", "truncated", "broken"})
SIZE = (96, 64)
"""Width and height of the harmless picture behind most files."""


@dataclass(frozen=True)
class Hostile:
    """A file and its outcome."""

    name: str
    data: bytes
    outcomes: frozenset[str]
    """`ok`, or the reasons of a quarantine that are right; one of them must come."""
    size: tuple[int, int] | None = None
    """Upright width and height, for a file that decodes."""


def photo(size: tuple[int, int] = SIZE, seed: int = 0) -> Image.Image:
    """Blocks of colour with some noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, body: bytes, *, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Length, kind, data and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG of a few kilobytes whose last scan stands there so many times: each costs a whole pass."""
    whole = encode(Image.new("L", (side, side), 99), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + b"\xff\xd9"


def corpus() -> list[Hostile]:
    """More than two hundred files, over all cases of F12."""
    cases = (
        _bombs,
        _nothing,
        _cut,
        _flipped,
        _modes,
        _deep,
        _transparent,
        _animated,
        _turned,
        _sampled,
        _misnamed,
        _foreign,
        _shapes,
    )
    return [one for case in cases for one in case()]


def _bombs() -> Iterator[Hostile]:
    too_many = frozenset({"too-many-pixels"})
    line = zlib.compress(bytes(1000))
    for side in (8_000, 12_000, 20_000, 60_000, 2_000_000, 2**31 - 1):
        yield Hostile(f"bomb-{side}.png", png(side, side, line), too_many | {"broken"} if side > 10**6 else too_many)
    for form, offset, layout in (("GIF", 6, "<HH"), ("BMP", 18, "<ii")):
        data = bytearray(encode(photo(), form))
        struct.pack_into(layout, data, offset, 60_000, 60_000)
        yield Hostile(f"bomb.{form.lower()}", bytes(data), too_many)
    jpeg = bytearray(encode(photo(), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    struct.pack_into(">HH", jpeg, start + 5, 65_000, 65_000)
    yield Hostile("bomb.jpg", bytes(jpeg), too_many)
    yield Hostile("bomb.ppm", b"P6 60000 60000 255\n" + bytes(100), too_many)
    text = zlib.compress(bytes(200 << 20), 9)
    for kind, head in ((b"zTXt", b"Comment\0\0"), (b"iCCP", b"profile\0\0"), (b"iTXt", b"Comment\0\1\0\0\0")):
        data = png(96, 64, zlib.compress((b"\0" + bytes(288)) * 64), extra=png_chunk(kind, head + text))
        yield Hostile(f"bomb-in-{kind.decode()}.png", data, frozenset({"ok", "broken"}))


def _nothing() -> Iterator[Hostile]:
    yield Hostile("zero-bytes.jpg", b"", frozenset({"empty"}))
    for count in (1, 3, 511, 4096):
        yield Hostile(f"nulls-{count}.png", bytes(count), frozenset({"not-an-image"}))
    for seed in range(8):
        noise = np.random.default_rng(seed).bytes(200 + 300 * seed)
        yield Hostile(f"noise-{seed}.jpg", noise, frozenset({"not-an-image"}))
    for form in FORMATS:
        yield Hostile(f"only-its-first-bytes.{form}.jpg", encode(photo(), form)[:4], CUT)


def _cut() -> Iterator[Hostile]:
    for form in FORMATS:
        whole = encode(photo(seed=1), form)
        for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
            yield Hostile(f"cut-{share}.{form}.jpg", whole[: int(len(whole) * share)], CUT)
    progressive = encode(photo(seed=2), "JPEG", progressive=True)
    yield Hostile("cut-progressive.jpg", progressive[: len(progressive) * 2 // 3], CUT)


def _flipped() -> Iterator[Hostile]:
    for form in FORMATS:
        whole = encode(photo(seed=3), form)
        for seed in range(8):
            rng = np.random.default_rng(seed)
            damaged = bytearray(whole)
            for place in rng.integers(0, len(whole), 6):
                damaged[place] = int(rng.integers(0, 256))
            anything = CUT | DECODES | {"too-many-pixels", "too-small", "too-narrow", "unsupported-depth"}
            yield Hostile(f"flipped-{seed}.{form}.jpg", bytes(damaged), anything)


def _modes() -> Iterator[Hostile]:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield Hostile(f"mode-{mode}.png", encode(photo(seed=4).convert(mode), "PNG"), DECODES, SIZE)
    for mode in ("L", "RGB", "CMYK"):
        yield Hostile(f"mode-{mode}.jpg", encode(photo(seed=5).convert(mode), "JPEG"), DECODES, SIZE)
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "LAB"):
        yield Hostile(f"mode-{mode}.tif", encode(photo(seed=6).convert(mode), "TIFF"), DECODES, SIZE)
    for bits in (1, 2, 4, 8):
        indexed = photo(seed=7).quantize(2**bits)
        yield Hostile(f"palette-{bits}.png", encode(indexed, "PNG", bits=bits), DECODES, SIZE)
    yield Hostile("palette.gif", encode(photo(seed=8).quantize(7), "GIF"), DECODES, SIZE)
    yield Hostile("palette.bmp", encode(photo(seed=9).quantize(99), "BMP"), DECODES, SIZE)
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        yield Hostile(f"{compression}.tif", encode(photo(seed=10), "TIFF", compression=compression), DECODES, SIZE)
    short = png_chunk(b"PLTE", bytes(3))
    rows = zlib.compress((b"\0" + bytes([200] * 96)) * 64)
    yield Hostile("palette-too-short.png", png(96, 64, rows, colour=3, extra=short), DECODES | CUT)


def _deep() -> Iterator[Hostile]:
    deep = np.linspace(0, 65535, 96 * 64).reshape(64, 96).astype(np.uint16)
    for form in ("PNG", "TIFF", "PPM"):
        yield Hostile(f"16-bit.{form}.jpg", encode(Image.fromarray(deep), form), DECODES, SIZE)
    rows = zlib.compress((b"\0" + bytes(range(192)) * 3) * 64)
    yield Hostile("16-bit-colour.png", png(96, 64, rows, depth=16), DECODES, SIZE)
    odd = frozenset({"unsupported-depth"})
    yield Hostile("floats.tif", encode(Image.fromarray(np.full((64, 96), 0.5, np.float32)), "TIFF"), odd)
    yield Hostile("not-a-number.tif", encode(Image.fromarray(np.full((64, 96), np.nan, np.float32)), "TIFF"), odd)
    yield Hostile("32-bit.tif", encode(Image.fromarray(np.full((64, 96), 1 << 20, np.int32)), "TIFF"), odd)
    yield Hostile("negative.tif", encode(Image.fromarray(np.full((64, 96), -9, np.int32)), "TIFF"), odd)


def _transparent() -> Iterator[Hostile]:
    for alpha in (0, 1, 128, 255):
        image = photo(seed=11).convert("RGBA")
        image.putalpha(alpha)
        for form in ("PNG", "WEBP", "TIFF", "GIF"):
            yield Hostile(f"alpha-{alpha}.{form}.png", encode(image, form), DECODES, SIZE)
    yield Hostile("transparent-colour.png", encode(photo(seed=12), "PNG", transparency=(1, 2, 3)), DECODES, SIZE)
    yield Hostile("transparent-index.png", encode(photo(seed=13).quantize(9), "PNG", transparency=3), DECODES, SIZE)


def _animated() -> Iterator[Hostile]:
    frames = [photo(seed=seed) for seed in range(14, 18)]
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        for count in (2, 4):
            data = encode(frames[0], form, save_all=True, append_images=frames[1:count])
            yield Hostile(f"animated-{count}.{form}.gif", data, DECODES, SIZE)
    whole = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield Hostile("animated-cut-in-a-later-frame.gif", whole[: len(whole) * 3 // 4], DECODES, SIZE)


def _turned() -> Iterator[Hostile]:
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        for orientation in (1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 255):
            exif = Image.Exif()
            exif[0x0112] = orientation
            size = (SIZE[1], SIZE[0]) if 5 <= orientation <= 8 else SIZE
            yield Hostile(f"exif-{orientation}.{form}.jpg", encode(photo(seed=18), form, exif=exif), DECODES, size)
    junk = b"Exif\0\0II*\0\xff\xff\xff\xff" + b"junk" * 9
    yield Hostile("exif-junk.jpg", encode(photo(seed=19), "JPEG", exif=junk), DECODES, SIZE)


def _sampled() -> Iterator[Hostile]:
    """Colours of a JPEG that would have to be scaled up by a half: luminance alone could be had."""
    whole = encode(photo(), "JPEG", subsampling=0, quality=30)
    frame = whole.index(b"\xff\xc0")
    for luminance, colour in ((0x31, 0x21), (0x13, 0x12), (0x32, 0x21)):
        data = bytearray(whole)
        data[frame + 11], data[frame + 14], data[frame + 17] = luminance, colour, colour
        yield Hostile(f"sampled-{luminance:x}-{colour:x}.jpg", bytes(data), CUT)


def _misnamed() -> Iterator[Hostile]:
    for form in FORMATS:
        for extension in ("jpg", "png", "webp"):
            data = encode(photo(seed=20 + FORMATS.index(form)), form)
            yield Hostile(f"really-{form}-as.{extension}", data + extension.encode() * 2, DECODES, SIZE)
    yield Hostile(
        "really-html.jpg", b"<!doctype html><html><body>404 not found</body></html>", frozenset({"not-an-image"})
    )


def _foreign() -> Iterator[Hostile]:
    refused = frozenset({"not-an-image", "broken"})
    svg = b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'>%s</svg>"
    yield Hostile("drawing.svg.png", svg % b"<image href='http://127.0.0.1:9/x.png'/>", refused)
    yield Hostile("entities.svg.png", b"<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]>" + svg % b"&b;", refused)
    yield Hostile("page.eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 64\n(%pipe%id) (r) file\n", refused)
    yield Hostile("page.pdf.jpg", b"%PDF-1.7\n1 0 obj<<>>endobj\n", refused)
    yield Hostile("movie.mp4.jpg", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(99), refused)
    yield Hostile("archive.zip.jpg", b"PK\3\4" + bytes(99), refused)
    yield Hostile("program.jpg", b"\x7fELF\2\1\1" + bytes(99), refused)
    yield Hostile("pickle.jpg", b"\x80\4\x95\x0c\0\0\0\0\0\0\0\x8c\x02os\x94.", refused)
    for form in ("TGA", "ICO", "PCX", "JPEG2000", "AVIF", "SGI", "IM", "DDS"):
        yield Hostile(f"other-{form}.jpg", encode(photo(), form), refused)


def _shapes() -> Iterator[Hostile]:
    small, narrow = frozenset({"too-small"}), frozenset({"too-narrow"})
    shapes = {(1, 1): small, (7, 7): small, (1, 500): small, (30_000, 2): small, (2, 30_000): small,
              (30_000, 8): narrow, (8, 500): narrow, (408, 8): narrow, (400, 8): DECODES, (8, 8): DECODES}  # fmt: skip
    for (width, height), outcomes in shapes.items():
        for form in ("PNG", "JPEG"):
            found = (width, height) if outcomes is DECODES else None
            yield Hostile(f"{width}x{height}.{form}.png", encode(photo((width, height)), form), outcomes, found)
    yield Hostile("0x9.ppm", b"P6 0 9 255\n", CUT | small)
    yield Hostile("0x0.png", png(0, 0, zlib.compress(b"")), CUT | small)
