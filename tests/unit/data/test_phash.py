import io

import numpy as np
import pytest
from PIL import Image

from components.data.phash import grey_square, hamming, hamming_matrix, phash, phashes


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def distance(a: Image.Image, b: Image.Image) -> int:
    return int(hamming(np.array([phash(a)], np.uint64), np.array([phash(b)], np.uint64))[0])


@pytest.mark.parametrize("seed", range(8))
def test_encoding_and_scaling_hardly_move_the_hash(seed: int) -> None:
    original = picture(seed)
    buffer = io.BytesIO()
    original.save(buffer, "JPEG", quality=30)
    assert distance(original, Image.open(buffer)) <= 6
    assert distance(original, original.resize((48, 32), Image.Resampling.BICUBIC)) <= 6


def test_different_pictures_are_far_apart() -> None:
    hashes = np.array([phash(picture(seed)) for seed in range(30)], np.uint64)
    distances = hamming_matrix(hashes, hashes)[np.triu_indices(30, k=1)]
    assert distances.min() > 10
    assert 28 < distances.mean() < 36


def test_a_picture_of_one_colour_hashes_to_zero_whatever_the_colour() -> None:
    assert {phash(Image.new("RGB", (50, 40), (grey, grey, grey))) for grey in (0, 1, 127, 254, 255)} == {0}


def test_the_hash_is_frozen() -> None:
    """Hashes are stored: a change of this number is a change of the format of the manifest."""
    place = np.arange(32)
    pixels = (np.multiply.outer(place + 3, place**2 + 7) % 251).astype(np.uint8)
    assert phash(Image.fromarray(pixels)) == 0x108F20AF8BF62F71


def test_hamming_counts_differing_bits_up_to_all_64() -> None:
    a = np.array([0, 0, 0b1011], np.uint64)
    b = np.array([2**64 - 1, 1, 0b0001], np.uint64)
    assert hamming(a, b).tolist() == [64, 1, 2]
    assert hamming_matrix(a, b).shape == (3, 3)


def test_many_at_once_hash_as_one_by_one() -> None:
    pictures = [picture(seed, (40 + seed, 90)) for seed in range(20)]
    assert phashes([grey_square(one) for one in pictures]) == [phash(one) for one in pictures]
    assert phashes([]) == []
