"""Raw pixels as features: the baseline that costs nothing."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from components.data.reading import Reader
from components.features.images import batches
from components.models.backbone import Preprocess

SIDE = 32


def pixel_features(reader: Reader, ids: Sequence[str]) -> Float[Tensor, "images pixels"]:
    """Normalised pixels of the centre, at 32 × 32.

    Args:
        reader: gives the bytes of an image.
        ids: which images, in which order.
    """
    made = batches(reader, ids, Preprocess(image_size=SIDE, resize=SIDE), 512)
    return torch.cat([images.flatten(1) for images in made])
