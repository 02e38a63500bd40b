"""JPEG files of 500 × 375 pixels: real photos where there are some, else generated pictures with as much detail."""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SIZE = (500, 375)
QUALITY = 90


class Photos:
    """Files by SHA-256, in memory.

    Args:
        count: how many; real ones repeat, each time with another byte at the end.
    """

    def __init__(self, count: int) -> None:
        folder = os.environ.get("SELFSIGHT_REAL_DATA")
        self.real = folder is not None
        pictures = _real(Path(folder)) if folder is not None else _generated()
        encoded = [_encoded(one) for one in islice(pictures, count)]
        files = [data + number.to_bytes(4, "big") for number, data in zip(range(count), cycle(encoded), strict=False)]
        self.files = {hashlib.sha256(data).hexdigest(): data for data in files}

    def read(self, image_id: str) -> bytes:
        """As a reader of shards."""
        return self.files[image_id]

    def prefetch(self, image_ids: list[str]) -> None:
        """All are in memory already."""


def _real(folder: Path) -> Iterator[Image.Image]:
    with tarfile.open(folder / "photos" / "photos.tar") as archive:
        for member in archive:
            if member.isfile():
                yield Image.open(archive.extractfile(member)).convert("RGB")


def _generated() -> Iterator[Image.Image]:
    rng = np.random.default_rng(0)
    while True:
        layers = [rng.normal(0, 40, (side * 3, side * 4, 3)) for side in (2, 8, 32, 128)]
        scaled = [
            Image.fromarray(np.uint8(np.clip(layer + 128, 0, 255))).resize(SIZE, Image.Resampling.BICUBIC)
            for layer in layers
        ]
        yield Image.fromarray(np.uint8(np.mean([np.asarray(one) for one in scaled], axis=0)))


def _encoded(image: Image.Image) -> bytes:
    buffer = BytesIO()
    ImageOps.fit(image, SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
