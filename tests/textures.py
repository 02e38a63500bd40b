"""Textured pictures for tests: every seed another one, as unlike as photographs."""

from io import BytesIO

import numpy as np
from PIL import Image


def texture(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """Coloured clouds with a few sharp patches."""
    rng = np.random.default_rng([7, seed])
    clouds = Image.fromarray((rng.random((6, 8, 3)) * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(clouds).copy()
    for _ in range(5):
        left, top = rng.integers(0, size[0] - 20), rng.integers(0, size[1] - 20)
        width, height = rng.integers(8, 20, 2)
        pixels[top : top + height, left : left + width] = rng.integers(0, 255, 3)
    return Image.fromarray(pixels)


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    """The picture as a file."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


class Files:
    """Files in memory, read by id."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def read(self, image_id: str) -> bytes:
        """The file's bytes."""
        return self.files[image_id]

    def prefetch(self, image_ids: list[str]) -> None:
        """All are in memory already."""
