"""A small world of images for evaluations: three classes of different colour."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from components.data.manifest import IMAGES, SOURCES, Manifest
from components.data.shards import LOCATIONS

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


@dataclass
class World:
    """Images in memory and what the manifest says of them."""

    files: dict[str, bytes]
    manifest: Manifest

    def read(self, image_id: str) -> bytes:
        """The bytes of an image."""
        return self.files[image_id]

    def prefetch(self, image_ids: list[str]) -> None:
        """All are in memory already."""


def make_world(train: int, evaluation: int, *, labels: bool) -> World:
    """Noisy pictures, labelled by their colour or not."""
    random = np.random.default_rng(0)
    files: dict[str, bytes] = {}
    rows = []
    for number in range(train + evaluation):
        name = list(COLOURS)[number % 3]
        pixels = np.clip(np.array(COLOURS[name]) + random.normal(0, 40, (12, 12, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        one = hashlib.sha256(buffer.getvalue()).hexdigest()
        files[one] = buffer.getvalue()
        split = "train" if number < train else "eval"
        rows.append(
            {"id": one, "uri": str(number), "name": str(number), "split": split, "label": name if labels else None}
        )
    images = [{"id": one, "format": "PNG", "width": 12, "height": 12, "status": "ok"} for one in files]
    manifest = Manifest(
        images=pa.Table.from_pylist(images, schema=IMAGES),
        sources=pa.Table.from_pylist(rows, schema=SOURCES),
        locations=LOCATIONS.empty_table(),
    )
    return World(files, manifest)


@pytest.fixture(scope="session")
def labelled() -> World:
    return make_world(60, 30, labels=True)


@pytest.fixture(scope="session")
def unlabelled() -> World:
    return make_world(30, 15, labels=False)


@pytest.fixture
def world_of() -> Callable[..., World]:
    """Worlds of other sizes."""
    return make_world
