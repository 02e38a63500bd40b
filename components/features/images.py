"""Images as a backbone's input, from any reader of bytes."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from components.data.decoding import decode_stored
from components.data.reading import Reader
from components.models.backbone import Preprocess

MOST_THREADS = 16
CHUNK = 32
"""Images of one task of a decoding thread."""


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
    """Prepared images in the order of the ids, decoded by threads one batch ahead of the consumer.

    Args:
        reader: gives the bytes of an image; called from several threads.
        ids: which images.
        preprocess: how they are prepared.
        batch_size: images of a batch; the last one may be smaller.
    """

    def prepared(some: Sequence[str]) -> list[Tensor]:
        return [prepare(decode_stored(reader.read, one, min_side=preprocess.resize), preprocess) for one in some]

    def submit(start: int) -> list[Future[list[Tensor]]]:
        end = min(start + batch_size, len(ids))
        reader.prefetch(ids[start:end])
        return [pool.submit(prepared, ids[first : min(first + CHUNK, end)]) for first in range(start, end, CHUNK)]

    with ThreadPoolExecutor(min(MOST_THREADS, len(os.sched_getaffinity(0))), "decode") as pool:
        ahead = submit(0)
        for start in range(batch_size, len(ids) + batch_size, batch_size):
            ready, ahead = ahead, submit(start)
            yield torch.stack([image for chunk in ready for image in chunk.result()])
