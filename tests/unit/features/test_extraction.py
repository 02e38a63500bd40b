"""Features are those of the images asked for, in their order, prepared as the artifact says."""

import io

import numpy as np
import pytest
import torch
from artifacts import CONFIG
from PIL import Image

from components.errors import UserError
from components.features.extraction import extract
from components.features.images import batches, centre_crop, prepare
from components.models.backbone import Preprocess
from components.models.vit import VisionTransformer

PREPROCESS = Preprocess(image_size=8, resize=10)


class Memory:
    """A reader of pictures in memory."""

    def __init__(self, count: int) -> None:
        self.files = {f"{n:02d}": _encoded(n) for n in range(count)}

    def read(self, image_id: str) -> bytes:
        return self.files[image_id]

    def prefetch(self, image_ids: list[str]) -> None:
        """All are in memory already."""


def _encoded(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionTransformer(CONFIG).eval()


def test_features_are_the_models_own_for_any_batch_size(model: VisionTransformer) -> None:
    reader = Memory(40)
    ids = sorted(reader.files, reverse=True)
    images = torch.stack([prepare(Image.open(io.BytesIO(reader.read(one))), PREPROCESS) for one in ids])
    with torch.inference_mode():
        tokens = model(images)
    for batch_size in (1, 7, 40, 64):
        found = extract(model, reader, ids, PREPROCESS, batch_size=batch_size)
        torch.testing.assert_close(found.last, tokens.cls, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.patch_mean, tokens.patches.mean(dim=1), rtol=1e-4, atol=1e-5)
        assert found.cls.shape == (40, 2, 8), "a backbone of two blocks has the features of two"


def test_the_reader_is_told_of_every_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, told = Memory(10), []
    monkeypatch.setattr(reader, "prefetch", told.append, raising=False)
    ids = sorted(reader.files)
    list(batches(reader, ids, PREPROCESS, 4))
    assert [one for one in told if one] == [ids[:4], ids[4:8], ids[8:]]


def test_an_image_that_does_not_decode_is_named_with_its_reason(model: VisionTransformer) -> None:
    reader = Memory(3)
    reader.files["01"] = b"no image"
    with pytest.raises(UserError, match=r"image 01 does not decode \(not-an-image\)"):
        extract(model, reader, ["00", "01", "02"], PREPROCESS)


def test_batches_come_in_order_and_complete() -> None:
    reader = Memory(70)
    ids = sorted(reader.files)
    found = list(batches(reader, ids, PREPROCESS, 33))
    assert [len(one) for one in found] == [33, 33, 4]
    expected = prepare(Image.open(io.BytesIO(reader.read(ids[65]))), PREPROCESS)
    assert torch.equal(torch.cat(found)[65], expected)
    assert list(batches(reader, [], PREPROCESS, 8)) == []


@pytest.mark.parametrize("size", [(8, 8), (5, 31), (31, 5), (100, 9), (1, 1), (640, 480)])
def test_every_image_becomes_a_square_of_the_asked_size(size: tuple[int, int]) -> None:
    assert centre_crop(Image.new("RGB", size), PREPROCESS).size == (8, 8)


def test_the_centre_is_kept_and_the_border_cut() -> None:
    image = Image.new("RGB", (30, 10))
    image.paste((255, 255, 255), (10, 0, 20, 10))
    cropped = np.asarray(centre_crop(image, Preprocess(image_size=10, resize=10)))
    assert cropped.min() == 255


def test_pixels_are_normalised_by_the_artifacts_own_numbers() -> None:
    white = prepare(
        Image.new("RGB", (8, 8), "white"), Preprocess(image_size=8, resize=8, mean=(0.5, 0, 1), std=(0.5, 2, 1))
    )
    assert white[:, 0, 0].tolist() == [1.0, 0.5, 0.0]
