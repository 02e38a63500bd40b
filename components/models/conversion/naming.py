"""Names of the same parameters in two layouts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from components.errors import UserError


@dataclass(frozen=True)
class Naming:
    """How another layout names what `VisionTransformer` has.

    Attributes:
        blocks: the other layout's prefix of the numbered blocks.
        outer: modules or parameters outside the blocks, theirs to ours.
        block: modules or parameters of a block, theirs to ours.
    """

    blocks: str
    outer: Mapping[str, str]
    block: Mapping[str, str]

    def to_ours(self, tensors: Mapping[str, Tensor], shown: str) -> dict[str, Tensor]:
        """Rename a state dict.

        Args:
            tensors: by their names.
            shown: name of the source, for messages.

        Raises:
            UserError: on a name that the layout does not know, because its weights would be lost.
        """
        pattern = re.compile(rf"{re.escape(self.blocks)}\.(\d+)\.(.+)")
        result = {}
        for name, value in tensors.items():
            inner = pattern.fullmatch(name)
            found = _renamed(inner[2], self.block) if inner else _renamed(name, self.outer)
            if found is None:
                raise UserError(
                    f"{shown}: no place for '{name}' in a DINOv2 vision transformer",
                    remedy="give a backbone of this family, without a classifier",
                )
            result[f"blocks.{inner[1]}.{found}" if inner else found] = value
        return result

    def to_theirs(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of `VisionTransformer`; every name of ours has one of theirs."""
        outer, block = ({ours: theirs for theirs, ours in table.items()} for table in (self.outer, self.block))
        pattern = re.compile(r"blocks\.(\d+)\.(.+)")
        result = {}
        for name, value in tensors.items():
            inner = pattern.fullmatch(name)
            found = _renamed(inner[2], block) if inner else _renamed(name, outer)
            if found is None:
                raise KeyError(name)
            result[f"{self.blocks}.{inner[1]}.{found}" if inner else found] = value
        return result


def _renamed(name: str, table: Mapping[str, str]) -> str | None:
    """A whole name, or a module and the `weight` or `bias` in it."""
    if name in table:
        return table[name]
    module, _, leaf = name.rpartition(".")
    return f"{table[module]}.{leaf}" if module in table and leaf in ("weight", "bias") else None
