"""What the loader hands to an objective: the crops of one process's share of a step."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class CropBatch:
    """Crops of `b` images, view-major: rows `v * b` to `(v + 1) * b` of a tensor are view `v`, in the images' order.

    Attributes:
        crops: the global crops, Float[2*b, channels, global, global], then, if there are any, the local crops,
            Float[views*b, channels, local, local]; normalised.
        masks: Bool[2*b, patches] for the global crops; True: masked.
        ids: the `b` image ids.
        positions: Long[b], place of each image in the global batch of the step.
        step: optimizer step.
    """

    crops: list[Tensor]
    masks: Tensor
    ids: tuple[str, ...]
    positions: Tensor
    step: int

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)
