"""Pictures show what they say, large enough to see, and hold nothing but pixels."""

from pathlib import Path

import pytest
import torch
from artifacts import CONFIG
from PIL import Image

from components.evaluation.pictures import GAP, OTHER, SAME, TILE, UNKNOWN, neighbour_gallery, patch_components
from components.models.backbone import Preprocess
from components.models.vit import VisionTransformer


def gallery(world, path: Path, labels: bool = True) -> Image.Image:  # type: ignore[no-untyped-def]
    ids = world.manifest.ids("train")[:6]
    features = torch.eye(6)
    names = world.manifest.labels(ids) if labels else [None] * 6
    neighbour_gallery(features[:2], ids[:2], names[:2], features, ids, names, world, path)
    return Image.open(path)


def frame(picture: Image.Image, row: int, column: int) -> tuple[int, ...]:
    step = TILE + GAP
    colour = picture.getpixel((GAP + column * step, GAP + row * step))
    assert isinstance(colour, tuple)
    return colour


def test_frames_tell_the_same_label_from_another(labelled, tmp_path: Path) -> None:
    picture = gallery(labelled, tmp_path / "n.png")
    names = labelled.manifest.labels(labelled.manifest.ids("train")[:6])
    assert frame(picture, 0, 1) == SAME, "the nearest of these is the query itself"
    found = {frame(picture, row, column) for row in range(2) for column in range(1, 6)}
    assert found == ({SAME, OTHER} if len(set(names)) > 1 else {SAME})


def test_without_labels_no_frame_claims_anything(labelled, tmp_path: Path) -> None:
    picture = gallery(labelled, tmp_path / "n.png", labels=False)
    assert {frame(picture, row, column) for row in range(2) for column in range(1, 6)} == {UNKNOWN}


def test_small_images_are_shown_large(labelled, tmp_path: Path) -> None:
    picture = gallery(labelled, tmp_path / "n.png")
    assert picture.size == (6 * (TILE + GAP) + GAP, 2 * (TILE + GAP) + GAP)


def test_pictures_hold_pixels_and_no_text(labelled, tmp_path: Path) -> None:
    gallery(labelled, tmp_path / "n.png")
    data = (tmp_path / "n.png").read_bytes()
    chunks, position = [], 8
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        chunks.append(data[position + 4 : position + 8])
        position += 12 + length
    assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}


def test_patches_of_one_colour_are_shown_in_one_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that tells left from right must show halves of two colours, the same in every image."""

    class Halves(VisionTransformer):
        def forward(self, images):  # type: ignore[no-untyped-def, override]
            tokens = super().forward(images)
            column = torch.arange(4).view(1, 4, 1) % 2
            return tokens._replace(patches=column.expand(len(images), 4, 8).float())

    class Grey:
        def read(self, image_id: str) -> bytes:
            import io

            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), "grey").save(buffer, "PNG")
            return buffer.getvalue()

    path = tmp_path / "p.png"
    patch_components(Halves(CONFIG), Grey(), ["a", "b"], Preprocess(image_size=8, resize=8), path)
    picture = Image.open(path)
    step = TILE + GAP
    for column in range(2):
        left = picture.getpixel((GAP + column * step + 10, GAP + step + 10))
        right = picture.getpixel((GAP + column * step + TILE - 10, GAP + step + 10))
        assert left != right
        assert left == picture.getpixel((GAP + 10, GAP + step + 10))
