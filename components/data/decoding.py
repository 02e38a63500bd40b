"""From the bytes of a file to RGB: one policy for every image that comes in.

The policy: the format is found from the content, never from the name, and must be on the list; the first frame of an
animation or the first page counts; EXIF orientation is applied; transparency is laid over white; 16-bit grey is scaled
linearly to 8 bits; CMYK, palettes and grey become RGB; colour profiles are ignored. What does not decode whole is
refused with a reason.
"""

import struct
from collections.abc import Callable
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from components.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are decoded; nothing else of Pillow is reached."""
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "PPM": "ppm"}
"""Extension of each format in a shard."""

EMPTY = "empty"
NOT_AN_IMAGE = "not-an-image"
TRUNCATED = "truncated"
BROKEN = "broken"
TOO_MANY_PIXELS = "too-many-pixels"
TOO_SMALL = "too-small"
TOO_NARROW = "too-narrow"
UNSUPPORTED_DEPTH = "unsupported-depth"

MAX_PIXELS = 89_000_000
"""Ceiling of width × height, just below where Pillow warns of a bomb. Ingest, which may ask for less, is the gate; what
reads its images again takes the ceiling."""
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}
"""Those that swap width and height. Sizes do not tell: scaled decoding rounds both up, to the same number perhaps."""
_EIGHT_BITS = ((np.arange(65536) + 128) // 257).astype(np.uint8)
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 16: "Q", 17: "q"}
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")


class DecodingError(Exception):
    """A file that is not decoded.

    Args:
        reason: `empty`, `not-an-image`, `truncated`, `broken`, `too-many-pixels`, `too-small`, `too-narrow`,
            `unsupported-depth`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Decoded(NamedTuple):
    """A decoded file."""

    image: Image.Image
    """Mode RGB, or L if grey was asked for; upright; smaller than the original if that was allowed."""
    format: str
    """One of `FORMATS`."""
    width: int
    """Of the original, upright, pixels."""
    height: int


def decode_rgb(data: bytes, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> Image.Image:
    """Decodes a file by the policy of this module.

    Args:
        data: the bytes of the file.
        max_pixels: width × height above which it is refused before any pixel is decoded.
        min_side: lets the JPEG decoder scale down by 2, 4 or 8 as long as both sides keep this many pixels (faster,
            and memory stays small); None keeps every pixel.

    Returns:
        An image of mode RGB, upright.

    Raises:
        DecodingError: with the reason.
    """
    return decode(data, max_pixels=max_pixels, min_side=min_side).image


def decode_stored(read: Callable[[str], bytes], image_id: str, *, min_side: int | None = None) -> Image.Image:
    """Reads and decodes an image that ingest let in; as `decode_rgb`.

    Args:
        read: gives the bytes of an image.
        image_id: which.
        min_side: scaled decoding, see `decode_rgb`.

    Raises:
        UserError: naming the image, if it does not decode: then its bytes are not those that ingest stored.
    """
    try:
        return decode_rgb(read(image_id), min_side=min_side)
    except DecodingError as error:
        remedy = "restore the shards with `dvc checkout data/shards`; SELFSIGHT_VERIFY_READS=1 names the damaged one"
        raise UserError(f"image {image_id} does not decode ({error.reason})", remedy=remedy) from None


def decode(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    min_side: int | None = None,
    least_side: int = 1,
    max_aspect: float | None = None,
    grey: bool = False,
) -> Decoded:
    """Decodes a file and tells what it was; as `decode_rgb`.

    Args:
        data: the bytes of the file.
        max_pixels: width × height above which it is refused.
        min_side: scaled decoding, see `decode_rgb`.
        least_side: shorter side below which it is refused, pixels.
        max_aspect: longer over shorter side above which it is refused; None admits every shape.
        grey: luminance is enough. A JPEG is still read to its end, but a third of the work on its colours is saved.

    Raises:
        DecodingError: with the reason.
        MemoryError: if memory runs out; it says nothing about the file.
    """
    if not data:
        raise DecodingError(EMPTY)
    image = _open(data)
    _check_size(image, max_pixels, least_side, max_aspect)
    file_format = "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a JPEG with more pictures behind it
    size = image.size
    try:
        if isinstance(image, TiffImageFile) and _tile_pixels(data, image.tag_v2.offset) > max_pixels:
            raise DecodingError(TOO_MANY_PIXELS)
        if file_format == "JPEG":
            image.draft(
                "L" if grey and _gives_colours(image) else None, None if min_side is None else (min_side, min_side)
            )
        image.load()
        how = _orientation(image)
        upright = image if how is None else image.transpose(how)
        upright = _grey(upright) if grey else _rgb(upright)
    except (DecodingError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever a hostile file makes them stumble over
        raise DecodingError(_why(error)) from error
    width, height = (size[1], size[0]) if how in _SWAPPED else size
    return Decoded(upright, file_format, width, height)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DecodingError(TOO_MANY_PIXELS) from None
    except UnidentifiedImageError:
        raise DecodingError(BROKEN if data.startswith(_MAGIC) else NOT_AN_IMAGE) from None
    except MemoryError:
        raise
    except Exception as error:
        raise DecodingError(_why(error)) from error


def _check_size(image: Image.Image, max_pixels: int, least_side: int, max_aspect: float | None) -> None:
    if image.width * image.height > max_pixels:
        raise DecodingError(TOO_MANY_PIXELS)
    shorter, longer = sorted(image.size)
    if shorter < max(least_side, 1):
        raise DecodingError(TOO_SMALL)
    if max_aspect is not None and longer / shorter > max_aspect:
        raise DecodingError(TOO_NARROW)


def _tile_pixels(data: bytes, directory: int) -> int:
    """Largest tile that a directory of a TIFF declares, pixels; 0 if it is in strips.

    libtiff decodes whole tiles, however small the image; strips it cuts to the image by itself. The directory is read
    here and not asked of Pillow, because of a tag that stands twice libtiff takes the first and Pillow the last.

    Args:
        data: the bytes of the file.
        directory: where in it the directory is.
    """
    order = "<" if data.startswith(b"II") else ">"

    def read(layout: str, place: int) -> tuple[int, ...]:
        return struct.unpack_from(order + layout, data, place)

    big = read("H", 2) == (43,)  # BigTIFF
    count, head, offset = ("Q", "HHQ", "Q") if big else ("H", "HHL", "L")
    first = directory + struct.calcsize(order + count)
    inside, size = struct.calcsize(order + head), struct.calcsize(order + head + offset)
    sides = {_TILE_WIDTH: 0, _TILE_LENGTH: 0}
    for entry in range(first, first + size * min(*read(count, directory), 0xFFFF), size):
        tag, kind, _, where = read(head + offset, entry)
        if tag in sides and kind in _TIFF_INTEGERS:
            value = _TIFF_INTEGERS[kind]
            fits = struct.calcsize(order + value) <= struct.calcsize(order + offset)
            sides[tag] = max(sides[tag], *read(value, entry + inside if fits else where))
    return sides[_TILE_WIDTH] * sides[_TILE_LENGTH]


def _why(error: Exception) -> str:
    return TRUNCATED if isinstance(error, EOFError) or "truncated" in str(error).lower() else BROKEN


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """What makes an image upright, as its EXIF says; EXIF that cannot be read is as good as none."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode == "F":
        raise DecodingError(UNSUPPORTED_DEPTH)
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _gives_colours(image: Image.Image) -> bool:
    """Whether colours of a JPEG are scaled up by whole factors: of others libjpeg gives luminance and nothing more."""
    sampling = [component[1:3] for component in getattr(image, "layer", ())]
    most = [max(factors) for factors in zip(*sampling, strict=True)]
    return all(of_all % of_one == 0 for one in sampling for of_all, of_one in zip(most, one, strict=True))


def _grey(image: Image.Image) -> Image.Image:
    return image if image.mode == "L" and "transparency" not in image.info else _rgb(image).convert("L")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits to 8: 65535 becomes 255. Values beyond 16 bits have no known range and are refused."""
    values = np.asarray(image)
    if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
        raise DecodingError(UNSUPPORTED_DEPTH)
    return Image.fromarray(_EIGHT_BITS[values]).convert("RGB")
