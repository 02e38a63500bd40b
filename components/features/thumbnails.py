"""Small pictures of one size, which descriptors and registration work on."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from components.data.decoding import decode_stored
from components.data.reading import Reader
from components.features.scratch import scratch
from components.tracking import progress

SIDE = 32
"""Side of a thumbnail, pixels. Pictures are squashed to squares: a crop keeps its place in relative coordinates."""

LEAST_CONTRAST = 0.02
"""Standard deviation of luminance, of its range, above which noise is not raised by normalising."""

CHUNK = 1024
"""Pictures decoded ahead at most."""


def thumbnail(image: Image.Image, side: int = SIDE) -> UInt8[np.ndarray, "side side 3"]:
    """Return a picture as `side` × `side` RGB pixels."""
    small = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(small)


def load_thumbnails(
    reader: Reader,
    ids: Sequence[str],
    *,
    side: int = SIDE,
    threads: int = 2,
    description: str | None = "thumbnails",
) -> UInt8[np.ndarray, "n side side 3"]:
    """Decode images, scaled where the codec can, into thumbnails in the order of the ids; 3 KiB an image of 32 pixels.

    The reader is told of each chunk before it is needed.

    Args:
        reader: gives the bytes of an image.
        ids: which images.
        side: of a thumbnail, pixels.
        threads: that decode.
        description: shown as progress; None shows none.

    Raises:
        UserError: if an image does not decode; ingest has quarantined those.
    """
    made = scratch((len(ids), side, side, 3), np.uint8)

    def one(image_id: str) -> UInt8[np.ndarray, "side side 3"]:
        return thumbnail(decode_stored(reader.read, image_id, min_side=2 * side), side)

    def decoded() -> Iterator[UInt8[np.ndarray, "side side 3"]]:
        reader.prefetch(ids[:CHUNK])
        for first in range(0, len(ids), CHUNK):
            reader.prefetch(ids[first + CHUNK : first + 2 * CHUNK])
            yield from pool.map(one, ids[first : first + CHUNK])

    with ThreadPoolExecutor(threads, "decode") as pool:
        for row, small in enumerate(progress(decoded(), total=len(ids), description=description)):
            made[row] = small
    return made


def opponent_planes(thumbnails: UInt8[Tensor, "n side side 3"]) -> Float[Tensor, "n 3 side side"]:
    """Return luminance and two colour differences, each in [-1, 1]."""
    red, green, blue = (thumbnails.float() / 255.0).unbind(-1)
    return torch.stack([(red + green + blue) / 3.0, (red - blue) / 2.0, (2.0 * green - red - blue) / 4.0], dim=1)


def normalise_contrast(planes: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n 3 side side"]:
    """Make luminance zero-mean and of unit deviation, and divide colour by the same deviation.

    Brightness and contrast of the whole picture cancel; its hues remain.
    """
    deviation = planes[:, :1].std(dim=(2, 3), correction=0, keepdim=True).clamp_min(LEAST_CONTRAST)
    mean = planes[:, :1].mean(dim=(2, 3), keepdim=True)
    return torch.cat([planes[:, :1] - mean, planes[:, 1:]], dim=1) / deviation
