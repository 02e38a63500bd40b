"""Backbone with its prototype heads: what a student or a teacher is made of."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from components.errors import UserError
from components.models.backbone import HEADS, load_backbone
from components.models.heads import PrototypeHead, load_heads, save_heads
from components.models.vit import VisionTransformer, ViTConfig
from components.parameters import Params

HEAD_NAMES = ("dino_head", "ibot_head")


class HeadParams(Params):
    """Shape of a prototype head."""

    hidden: int = Field(default=2048, gt=0, description="hidden size of the MLP")
    bottleneck: int = Field(default=256, gt=0, description="dimension that is L2-normalised before the prototypes")
    prototypes: int = Field(default=65536, gt=1, description="number of prototypes")
    layers: int = Field(default=3, gt=0, description="linear layers of the MLP")


class Branch(nn.Module):
    """Backbone, DINO head and iBOT head.

    Args:
        backbone: the vision transformer.
        dino_head: head for class tokens.
        ibot_head: head for patch tokens; None: the DINO head serves both.
    """

    def __init__(self, backbone: VisionTransformer, dino_head: PrototypeHead, ibot_head: PrototypeHead | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.dino_head = dino_head
        self.ibot_head = ibot_head

    @classmethod
    def build(cls, config: ViTConfig, dino_head: HeadParams, ibot_head: HeadParams | None) -> Self:
        """Make a branch with initial weights from the global generator (see `seeded_weights`)."""
        return cls(
            VisionTransformer(config),
            _head(config.width, dino_head),
            _head(config.width, ibot_head) if ibot_head is not None else None,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a backbone artifact that holds its heads too.

        Raises:
            UserError: when a file is missing or damaged.
        """
        heads = load_heads(folder / HEADS)
        if not {"dino_head"} <= heads.keys() <= set(HEAD_NAMES):
            raise UserError(
                f"{folder / HEADS}: holds {', '.join(sorted(heads))}", remedy="give heads written by the pretrain stage"
            )
        return cls(load_backbone(folder).model, heads["dino_head"], heads.get("ibot_head"))

    def save_heads(self, folder: Path) -> None:
        """Write the heads next to the backbone artifact in `folder`."""
        heads = {"dino_head": self.dino_head}
        if self.ibot_head is not None:
            heads["ibot_head"] = self.ibot_head
        save_heads(heads, folder / HEADS)

    def prototype_logits(
        self, cls: Float[Tensor, "rows width"], patches: Float[Tensor, "patches width"] | None
    ) -> tuple[Float[Tensor, "rows prototypes"], Float[Tensor, "patches prototypes"] | None]:
        """Logits of class tokens and of patch tokens; a shared head runs once over both."""
        if patches is None:
            return self.dino_head(cls), None
        if self.ibot_head is not None:
            return self.dino_head(cls), self.ibot_head(patches)
        both: Tensor = self.dino_head(torch.cat([cls, patches]))
        return both[: len(cls)], both[len(cls) :]

    def bottlenecks(
        self, cls: Float[Tensor, "rows width"], patches: Float[Tensor, "patches width"] | None
    ) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, "patches dim"] | None]:
        """What the prototypes are compared with, of class tokens and of patch tokens; a shared head runs once."""
        if patches is None:
            return self.dino_head.bottleneck(cls), None
        if self.ibot_head is not None:
            return self.dino_head.bottleneck(cls), self.ibot_head.bottleneck(patches)
        both = self.dino_head.bottleneck(torch.cat([cls, patches]))
        return both[: len(cls)], both[len(cls) :]

    def freeze(self) -> None:
        """Take the branch out of differentiation."""
        self.requires_grad_(requires_grad=False)


def _head(width: int, params: HeadParams) -> PrototypeHead:
    return PrototypeHead(width, params.hidden, params.bottleneck, params.prototypes, params.layers)


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Draw initial weights from the seed and leave the global generator as it was.

    Weights are drawn in the constructors (ZeRO-3 partitions them right after), which know only the global generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
