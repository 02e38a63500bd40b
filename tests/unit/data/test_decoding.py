"""Every kind of file that F12 names, and the one policy for it."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from components.data.decoding import Decoded, DecodingError, decode, decode_rgb, decode_stored
from components.errors import UserError
from tests.hostile import corpus

LEFT_RED = np.zeros((16, 24, 3), np.uint8)
LEFT_RED[:, :12] = (255, 0, 0)
LEFT_RED[:, 12:] = (0, 0, 255)
EXIF_SIDEWAYS = 6
"""Orientation: the camera was turned; upright the picture is rotated by 90° clockwise."""


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def two_halves() -> Image.Image:
    return Image.fromarray(LEFT_RED)


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def png(width: int, height: int, body: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_every_listed_format_gives_rgb(format: str) -> None:
    found = decode(encode(two_halves(), format))
    assert (found.format, found.width, found.height) == (format, 24, 16)
    assert found.image.mode == "RGB"
    left, right = pixel(found.image, 3, 8), pixel(found.image, 20, 8)
    assert left[0] > 200 > left[2]
    assert right[2] > 200 > right[0]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_camera_held_sideways_is_turned_upright(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = EXIF_SIDEWAYS
    found = decode(encode(two_halves(), format, exif=exif))
    assert (found.width, found.height) == found.image.size == (16, 24)
    assert pixel(found.image, 8, 3)[0] > 200  # what was left is on top
    assert pixel(found.image, 8, 20)[2] > 200


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_exif_that_cannot_be_read_is_as_good_as_none() -> None:
    data = encode(two_halves(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"junk" * 9)
    assert decode_rgb(data).size == (24, 16)


def test_transparency_is_laid_over_white() -> None:
    clear = two_halves().convert("RGBA")
    clear.putalpha(0)
    half = two_halves().convert("RGBA")
    half.putalpha(128)
    assert pixel(decode_rgb(encode(clear)), 3, 3) == (255, 255, 255)
    assert pixel(decode_rgb(encode(half)), 3, 3) == pytest.approx((255, 127, 127), abs=1)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_laid_over_white(mode: str) -> None:
    image = Image.new(mode, (9, 9), 0 if mode != "RGB" else (7, 8, 9))
    data = encode(image, transparency=0 if mode != "RGB" else (7, 8, 9))
    assert pixel(decode_rgb(data), 4, 4) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "I;16"])
def test_every_mode_becomes_rgb_of_the_same_grey(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((9, 9), 65535, np.uint16))
    else:
        image = Image.new("RGB", (9, 9), "white").convert(mode)
    found = decode(encode(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert found.image.mode == "RGB"
    assert pixel(found.image, 4, 4) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_cut() -> None:
    values = np.array([[0, 257 * 100, 257 * 200, 65535]], np.uint16)
    assert [pixel(decode_rgb(encode(Image.fromarray(values))), x, 0)[0] for x in range(4)] == [0, 100, 200, 255]
    ppm = b"P5 2 1 65535\n" + struct.pack(">HH", 0, 257 * 77)
    assert pixel(decode_rgb(ppm), 1, 0) == (77, 77, 77)


def test_depths_of_unknown_range_are_refused() -> None:
    floats = Image.fromarray(np.full((9, 9), 0.5, np.float32))
    deep = Image.fromarray(np.full((9, 9), 1 << 20, np.int32))
    for image in (floats, deep):
        assert reason(encode(image, "TIFF")) == "unsupported-depth"


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(format: str) -> None:
    blue = Image.new("RGB", (24, 16), "blue")
    data = encode(Image.new("RGB", (24, 16), "red"), format, save_all=True, append_images=[blue, blue])
    assert pixel(decode_rgb(data), 8, 8)[0] > 200


def test_the_name_of_the_format_is_found_from_the_content() -> None:
    assert decode(encode(two_halves(), "GIF")).format == "GIF"


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(DecodingError) as error:
        decode(data, **options)
    return error.value.reason


def test_broken_files_are_refused_with_their_reason() -> None:
    whole = encode(two_halves().resize((240, 160)), "JPEG")
    assert reason(b"") == "empty"
    assert reason(bytes(1000)) == "not-an-image"
    assert reason(b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://10.0.0.1/'/></svg>") == "not-an-image"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage") == "not-an-image"
    assert reason(whole[: len(whole) // 2]) == "truncated"
    assert reason(whole[:3]) in ("truncated", "broken")
    assert reason(png(9, 9, b"no deflate stream")) in ("truncated", "broken")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_file_cut_anywhere_never_escapes_as_another_error(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    whole = encode(noise, format)
    for end in range(0, len(whole) - len(whole) // 4, max(1, len(whole) // 60)):
        assert reason(whole[:end]) in ("empty", "not-an-image", "truncated", "broken")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_flipped_bytes_never_escape_as_another_error(format: str) -> None:
    whole = bytearray(encode(two_halves(), format))
    rng = np.random.default_rng(1)
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            damaged[place] = int(rng.integers(0, 256))
        try:
            image = decode_rgb(bytes(damaged), max_pixels=100_000)
        except DecodingError:
            continue
        assert image.mode == "RGB"


@pytest.mark.parametrize("side", [10_000, 12_000, 60_000])
def test_a_bomb_is_refused_before_a_pixel_is_decoded(side: int) -> None:
    assert reason(png(side, side, zlib.compress(bytes(1000)))) == "too-many-pixels"


def test_limits_are_those_given() -> None:
    data = encode(two_halves())
    assert reason(data, max_pixels=24 * 16 - 1) == "too-many-pixels"
    assert decode(data, max_pixels=24 * 16).width == 24
    assert reason(encode(Image.new("RGB", (1, 1))), least_side=8) == "too-small"
    assert reason(encode(Image.new("RGB", (30_000, 2))), least_side=8) == "too-small"
    assert reason(encode(Image.new("L", (20, 2000))), max_aspect=99) == "too-narrow"
    assert decode(encode(Image.new("L", (20, 2000))), max_aspect=100).height == 2000


def tiled(*sides: tuple[int, int, int], big: bool = False, order: str = "<") -> bytes:
    """A TIFF of 16 × 16 grey pixels in one deflated tile; `sides` are its (tag, type, value) entries of tile sides."""
    body = zlib.compress(bytes(4096 * 4096))
    count, head, offset = ("Q", "HHQ", "Q") if big else ("H", "HHL", "L")
    tags = [(256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1), (325, 4, len(body))]
    first = 16 if big else 8
    size = struct.calcsize(f"{order}{head}{offset}")
    after = (
        first + struct.calcsize(order + count) + (len(tags) + 1 + len(sides)) * size + struct.calcsize(order + offset)
    )
    tags = sorted([*tags, (324, 4, after), *sides], key=lambda tag: tag[0])
    version = struct.pack(f"{order}HHHQ", 43, 8, 0, first) if big else struct.pack(f"{order}HL", 42, first)
    entries = [
        struct.pack(order + head, tag, kind, 1)
        + struct.pack(order + {3: "H", 4: "L"}[kind], value).ljust(struct.calcsize(order + offset), b"\0")
        for tag, kind, value in tags
    ]
    directory = struct.pack(order + count, len(tags)) + b"".join(entries) + bytes(struct.calcsize(order + offset))
    return (b"II" if order == "<" else b"MM") + version + directory + body


@pytest.mark.parametrize(("big", "order"), [(False, "<"), (False, ">"), (True, "<")])
def test_a_tiff_whose_tile_is_a_bomb_is_refused_before_it_is_decoded(big: bool, order: str) -> None:
    data = tiled((322, 4, 4096), (323, 4, 4096), big=big, order=order)
    assert reason(data, max_pixels=4096 * 4096 - 1) == "too-many-pixels"
    assert decode(data, max_pixels=4096 * 4096).image.size == (16, 16)


def test_a_tile_side_that_stands_twice_hides_no_bomb() -> None:
    """Pillow believes the last one, libtiff the first."""
    data = tiled((322, 4, 4096), (322, 3, 16), (323, 4, 4096), (323, 3, 16))
    assert Image.open(io.BytesIO(data)).tag_v2[322] == 16  # type: ignore[attr-defined]
    assert reason(data, max_pixels=1_000_000) == "too-many-pixels"


def test_an_image_above_the_default_of_ingest_is_read_again_without_asking() -> None:
    """What ingest let in with a higher `max_pixels`, every later reader decodes."""
    data = encode(Image.new("1", (10_000, 5_500)))
    assert decode_rgb(data).size == (10_000, 5_500)


@pytest.mark.parametrize("failing", ["open", "load", "getexif"])
def test_running_out_of_memory_says_nothing_about_the_file(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    data = encode(two_halves())
    owner = Image if failing == "open" else PngImageFile
    monkeypatch.setattr(owner, failing, exhausted)
    with pytest.raises(MemoryError):
        decode(data)


@pytest.mark.parametrize("orientation", [1, EXIF_SIDEWAYS])
def test_scaled_decoding_keeps_the_asked_side_and_tells_the_whole_size(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = two_halves().resize((640, 480), Image.Resampling.NEAREST)
    data = encode(photo, "JPEG", exif=exif)
    found = decode(data, min_side=100)
    assert sorted((found.width, found.height)) == [480, 640]
    assert 100 <= min(found.image.size) < 200
    assert (found.image.width < found.image.height) == (found.width < found.height) == (orientation != 1)
    assert decode(data).image.size == (found.width, found.height)


def test_a_truncated_photo_is_found_by_scaled_decoding_too(picture: Callable[..., bytes]) -> None:
    whole = picture(0, size=(640, 480))
    assert reason(whole[: int(len(whole) * 0.9)], min_side=64) == "truncated"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_that_scale_to_the_same_number_are_still_swapped(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encode(Image.new("RGB", (647, 641)), "JPEG", exif=exif), min_side=64)
    assert found.image.size == (81, 81)
    assert (found.width, found.height) == ((641, 647) if orientation > 4 else (647, 641))


def test_a_stored_image_that_does_not_decode_is_named() -> None:
    assert decode_stored(lambda _: encode(two_halves()), "1" * 64).size == (24, 16)
    with pytest.raises(UserError, match=rf"image {'1' * 64} does not decode \(not-an-image\): .*dvc checkout"):
        decode_stored(lambda _: b"something else", "1" * 64)


def outcome(data: bytes, *, grey: bool) -> Decoded | str:
    try:
        return decode(data, grey=grey, min_side=64, least_side=8, max_aspect=50.0)
    except DecodingError as error:
        return error.reason


def test_luminance_alone_is_refused_for_the_same_reasons_and_looks_the_same() -> None:
    decoded = 0
    for one in corpus():
        grey, colour = outcome(one.data, grey=True), outcome(one.data, grey=False)
        if isinstance(colour, str) or isinstance(grey, str):
            assert grey == colour, one.name
            continue
        decoded += 1
        assert grey.image.mode == "L", one.name
        assert grey[1:] == colour[1:], one.name
        seen, expected = np.asarray(grey.image, np.int16), np.asarray(colour.image.convert("L"), np.int16)
        if not one.name.startswith("flipped"):  # colours beyond the range are cut off, luminance is not
            assert np.abs(seen - expected).mean() <= 0.2, one.name
    assert decoded > 50
