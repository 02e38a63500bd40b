"""Images as a backbone's input, from any reader of bytes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from components.data.decoding import decode_rgb
from components.models.backbone import Preprocess

DECODING_THREADS = 2


class Reader(Protocol):
    """Anything that gives the bytes of an image."""

    def read(self, image_id: str) -> bytes:
        """The file's bytes."""
        ...


def prepare(image: Image.Image, preprocess: Preprocess) -> Float[Tensor, "3 side side"]:
    """Resize the shorter side (bicubic), cut the centre, normalise (DINOv2's evaluation transform).

    Args:
        image: mode RGB, any size.
        preprocess: sizes, mean and standard deviation.
    """
    pixels = torch.from_numpy(np.asarray(centre_crop(image, preprocess)).copy()).permute(2, 0, 1).float().div_(255)
    mean = torch.tensor(preprocess.mean).view(-1, 1, 1)
    std = torch.tensor(preprocess.std).view(-1, 1, 1)
    return (pixels - mean) / std


def centre_crop(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """The part of the image that the backbone sees, at the size it sees it."""
    scale = preprocess.resize / min(image.size)
    resized = image.resize(
        (
            max(round(image.width * scale), preprocess.image_size),
            max(round(image.height * scale), preprocess.image_size),
        ),
        Image.Resampling.BICUBIC,
    )
    left = (resized.width - preprocess.image_size) // 2
    top = (resized.height - preprocess.image_size) // 2
    return resized.crop((left, top, left + preprocess.image_size, top + preprocess.image_size))


def batches(
    reader: Reader, ids: Sequence[str], preprocess: Preprocess, batch_size: int
) -> Iterator[Float[Tensor, "batch 3 side side"]]:
    """Prepared images in the order of the ids, decoded by a few threads ahead of the consumer."""

    def one(image_id: str) -> Tensor:
        return prepare(decode_rgb(reader.read(image_id), min_side=preprocess.resize), preprocess)

    with ThreadPoolExecutor(DECODING_THREADS, "decode") as pool:
        chunks = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
        ahead = [pool.submit(one, image_id) for image_id in chunks[0]] if chunks else []
        for number in range(len(chunks)):
            ready = ahead
            following = chunks[number + 1] if number + 1 < len(chunks) else []
            ahead = [pool.submit(one, image_id) for image_id in following]
            yield torch.stack([future.result() for future in ready])
