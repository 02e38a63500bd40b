"""Projection heads from tokens to prototypes, and their file."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from components.errors import UserError
from components.models.layers import INITIAL_STD, Linear

Reading = Callable[[Tensor, Tensor], Tensor]
"""Makes something of rows and of the weight of the prototypes."""


class Prototypes(nn.Module):
    """Cosine of each row with each prototype: a linear layer with rows of unit norm (weight norm with gain 1)."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, dim))
        nn.init.trunc_normal_(self.weight, std=INITIAL_STD)

    def forward(self, x: Float[Tensor, "rows dim"], *, read: Reading | None = None) -> Tensor:
        """Logits in [-1, 1] for rows of unit norm, Float[rows, prototypes].

        Args:
            x: rows of unit norm.
            read: what to return instead, made from the rows and the weight: under ZeRO-3 a weight is whole only inside
                the forward of its module.
        """
        return F.linear(x, F.normalize(self.weight, dim=-1)) if read is None else read(x, self.weight)


class PrototypeHead(nn.Module):
    """MLP, L2 norm, prototypes (DINOv2 head).

    Args:
        in_dim: token dimension.
        hidden: hidden size of the MLP.
        bottleneck: dimension that is normalised.
        prototypes: number of prototypes.
        layers: linear layers of the MLP; 1 is a single projection.
    """

    def __init__(self, in_dim: int, hidden: int, bottleneck: int, prototypes: int, layers: int = 3) -> None:
        super().__init__()
        widths = [in_dim] + [hidden] * (layers - 1) + [bottleneck]
        parts: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            parts += [Linear(before, after), nn.GELU()]
        self.mlp = nn.Sequential(*parts[:-1])
        self.prototypes = Prototypes(bottleneck, prototypes)

    def forward(self, x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows prototypes"]:
        """Cosine of each row with each prototype."""
        return cast(Tensor, self.prototypes(self.bottleneck(x)))

    def bottleneck(self, x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows bottleneck"]:
        """Rows of unit norm, which the prototypes are compared with."""
        return F.normalize(self.mlp(x), dim=-1)


def save_heads(heads: Mapping[str, PrototypeHead], path: Path) -> None:
    """Write heads by name to one safetensors file; the same weights give the same bytes.

    Raises:
        OSError: if the disk is full.
    """
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, head in heads.items()
        for key, value in head.state_dict().items()
    }
    path.write_bytes(save(tensors))


def load_heads(path: Path) -> dict[str, PrototypeHead]:
    """Read the heads of a file; their shapes follow from the tensors.

    Raises:
        UserError: when the file is missing, damaged or holds something else.
    """
    remedy = "run the pretrain stage again, or `dvc pull` its outputs"
    if not path.is_file():
        raise UserError(f"{path}: no such file of heads", remedy=remedy)
    try:
        tensors = load_file(path)
        by_head: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            head, _, key = name.partition(".")
            by_head.setdefault(head, {})[key] = value
        return {name: head_of(state) for name, state in by_head.items()}
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise UserError(f"{path}: no readable heads ({str(error).splitlines()[0]})", remedy=remedy) from None


def head_of(state: Mapping[str, Tensor]) -> PrototypeHead:
    """The head with these weights, by their names; its shape follows from theirs.

    Raises:
        KeyError: if a layer is missing.
        RuntimeError: if there is a weight too many, or of another shape.
    """
    layers = sum(key.startswith("mlp.") and key.endswith(".weight") for key in state)
    first, last = state["mlp.0.weight"], state["prototypes.weight"]
    with torch.device("meta"):
        head = PrototypeHead(first.shape[1], first.shape[0], last.shape[1], last.shape[0], layers)
    head.load_state_dict(state, assign=True)
    return head
