"""Frozen features of images."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from components.data.reading import Reader
from components.features.images import batches
from components.models.backbone import Preprocess
from components.models.vit import VisionTransformer
from components.tracking import progress

BLOCKS = 4
"""Last blocks whose features are kept, as in DINOv2's linear evaluation."""


class Features(NamedTuple):
    """Features of n images, in their order; fp32, on the CPU."""

    cls: Float[Tensor, "images blocks width"]
    """Class tokens after the last blocks, shallow to deep, each after the final norm."""
    patch_mean: Float[Tensor, "images width"]
    """Mean patch token of the last block."""

    @property
    def last(self) -> Float[Tensor, "images width"]:
        """Class tokens of the last block: what kNN uses."""
        return self.cls[:, -1]


@torch.inference_mode()
def extract(
    model: VisionTransformer,
    reader: Reader,
    ids: Sequence[str],
    preprocess: Preprocess,
    *,
    batch_size: int = 256,
    device: str = "cpu",
    description: str | None = "features",
) -> Features:
    """Runs a frozen backbone over images.

    Args:
        model: in evaluation mode.
        reader: gives the bytes of an image.
        ids: which images, in which order.
        preprocess: how they are prepared.
        batch_size: images of one forward.
        device: where the model runs.
        description: shown as progress; None shows none.

    Returns:
        Features in the order of the ids.

    Raises:
        UserError: if an image does not decode; ingest has quarantined those.
    """
    model = model.to(device).eval()
    blocks = min(BLOCKS, model.config.depth)
    cls, patch_mean = [], []
    total = -(-len(ids) // batch_size)
    made = batches(reader, ids, preprocess, batch_size)
    for images in progress(made, total=total, description=description, unit="batch"):
        tokens = model.intermediate(images.to(device), blocks)
        cls.append(torch.stack([one.cls for one in tokens], dim=1).float().cpu())
        patch_mean.append(tokens[-1].patches.mean(dim=1).float().cpu())
    return Features(torch.cat(cls), torch.cat(patch_mean))
