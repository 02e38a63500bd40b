import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from components.features import thumbnails as module
from components.features.thumbnails import SIDE, load_thumbnails, normalise_contrast, opponent_planes, thumbnail
from tests.textures import Files, jpeg, texture


def test_thumbnails_come_in_the_order_of_the_ids() -> None:
    pictures = {str(number): texture(number) for number in range(70)}
    reader = Files({name: jpeg(picture) for name, picture in pictures.items()})
    names = sorted(pictures, reverse=True)
    loaded = load_thumbnails(reader, names)
    assert loaded.shape == (70, SIDE, SIDE, 3)
    for name, small in zip(names, loaded, strict=True):
        assert np.abs(small.astype(int) - thumbnail(pictures[name]).astype(int)).mean() < 4


def test_no_ids_give_no_thumbnails() -> None:
    assert load_thumbnails(Files({}), []).shape == (0, SIDE, SIDE, 3)


def test_the_reader_is_told_of_a_chunk_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    told: list[str] = []
    names = [f"{number:02d}" for number in range(11)]

    class Asked(Files):
        def prefetch(self, image_ids: Sequence[str]) -> None:
            told.extend(image_ids)

        def read(self, image_id: str) -> bytes:
            assert told[: told.index(image_id) + 1] == names[: names.index(image_id) + 1]
            return super().read(image_id)

    load_thumbnails(Asked({name: jpeg(texture(int(name))) for name in names}), names)
    assert told == names


def test_so_many_threads_decode_as_are_asked_for() -> None:
    together = threading.Barrier(5, timeout=10)

    class Waiting(Files):
        def read(self, image_id: str) -> bytes:
            together.wait()
            return super().read(image_id)

    load_thumbnails(Waiting({str(one): jpeg(texture(one)) for one in range(5)}), list("01234"), threads=5)


def test_brightness_and_contrast_cancel() -> None:
    pixels = np.asarray(texture(1)).astype(np.float64)
    darker = Image.fromarray((pixels * 0.5 + 40).round().astype(np.uint8))
    planes = opponent_planes(torch.from_numpy(np.stack([thumbnail(texture(1)), thumbnail(darker)])))
    first, second = normalise_contrast(planes)
    assert torch.allclose(first, second, atol=0.05)


def test_grey_has_no_colour_and_white_is_one() -> None:
    planes = opponent_planes(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8))
    assert torch.allclose(planes[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.0]))


def test_a_plain_picture_stays_finite() -> None:
    planes = normalise_contrast(opponent_planes(torch.zeros((1, 8, 8, 3), dtype=torch.uint8)))
    assert torch.equal(planes, torch.zeros_like(planes))
