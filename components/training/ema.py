"""Moving averages of weights, in fp32, on shards.

In bf16 an average loses nearly all of its signal: at momentum 0.999 the change of a step is below half a unit in the
last place. So the average lives in fp32 beside the shard that the optimizer updates, and the module that computes
with it gets a copy in its own precision. Shards of source and average are cut at the same places: no collective.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from components.training.layouts import Layout, Shard


class MovingAverage:
    """fp32 averages of trained weights, and the parameters that compute with them.

    Args:
        layout: where weights are.
        shards: of the trained weights.
        pairs: names of (source, average); each average starts at its source's weights.
    """

    def __init__(self, layout: Layout, shards: Sequence[Shard], pairs: Sequence[tuple[str, str]]) -> None:
        by_name = {shard.name: shard for shard in shards}
        self._layout = layout
        self.shards: dict[str, Shard] = {average: by_name[source] for source, average in pairs}
        self._sources = [shard.weight for shard in self.shards.values()]
        self._targets = [self._layout.piece(name, shard) for name, shard in self.shards.items()]
        self._own = any(target.dtype != torch.float32 for target in self._targets)
        # In fp32 the module's weights are the average; else it is a tensor of its own.
        self._averages = [target.float() if self._own else target for target in self._targets]
        self.reset()

    @property
    def averages(self) -> dict[str, Float[Tensor, " piece"]]:
        """This process's piece of each average by name, fp32; after writing to it, `publish`."""
        return dict(zip(self.shards, self._averages, strict=True))

    @torch.no_grad()
    def reset(self) -> None:
        """Averages become their sources. A collective."""
        torch._foreach_copy_(self._averages, self._sources)
        self.publish()

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """average = momentum x average + (1 - momentum) x source. A collective.

        Args:
            momentum: in [0, 1].
        """
        torch._foreach_lerp_(self._averages, self._sources, 1.0 - momentum)
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """The module computes with the averages. A collective."""
        if self._own:
            torch._foreach_copy_(self._targets, self._averages)
        self._layout.refresh(self.shards)

    def gather(self) -> Iterator[tuple[str, Tensor | None]]:
        """Each whole average in fp32 on process 0, None elsewhere. A collective, parameter by parameter."""
        for (name, shard), piece in zip(self.shards.items(), self._averages, strict=True):
            yield name, gather_piece(shard, piece, replicated=self._layout.replicated)


def gather_piece(shard: Shard, piece: Float[Tensor, " piece"], *, replicated: bool) -> Tensor | None:
    """The whole of what processes hold pieces of, on the CPU of process 0; None on the others. A collective.

    Args:
        shard: where the pieces lie in the whole.
        piece: this process's.
        replicated: every piece is the whole.
    """
    first = dist.get_rank() == 0
    if dist.get_world_size() == 1 or replicated:
        return piece.detach().reshape(shard.shape).cpu().clone() if first else None
    whole = torch.zeros(shard.shape, dtype=piece.dtype, device=piece.device)
    whole.view(-1)[shard.start : shard.start + shard.count] = piece
    dist.reduce(whole, dst=0)
    return whole.cpu() if first else None
