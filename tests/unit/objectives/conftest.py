"""Small objectives and batches."""

from collections.abc import Callable

import pytest
import torch

from components.data.batch import CropBatch

MakeBatch = Callable[..., CropBatch]


@pytest.fixture
def make_batch() -> MakeBatch:
    def make(images: int = 4, *, local_views: int = 3, masked: float = 0.3) -> CropBatch:
        generator = torch.Generator().manual_seed(0)
        crops = [torch.randn(2 * images, 3, 16, 16, generator=generator)]
        if local_views:
            crops.append(torch.randn(local_views * images, 3, 8, 8, generator=generator))
        masks = torch.rand(2 * images, 16, generator=generator) < masked
        masks[::2] = masks[::2] & (masked == 1.0)
        return CropBatch(crops, masks, tuple(f"image-{i}" for i in range(images)), torch.arange(images), step=0)

    return make
