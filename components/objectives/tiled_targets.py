"""The teacher's probabilities without a matrix of logits: a rule for the columns, applied to a tile when it is made.

Both centrings are a softmax of which every column is changed alike: softmax centring subtracts a centre from the
cosines, Sinkhorn-Knopp multiplies exponentials by the scaling vector of the prototypes, and the normalisation of the
row comes last in both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from components.objectives.centring import SinkhornCentring, SoftmaxCentring, sum_over_processes
from components.objectives.columns import Columns

LEAST_SUM = 1e-38
"""Of a row: where no process has a row, a stand-in row gets no mass, and none is wanted."""


@dataclass(frozen=True)
class TargetRule:
    """How cosines of a row become probabilities.

    Attributes:
        temperature: of the teacher.
        prototypes: how many there are.
        centre: subtracted from the cosines; None: nothing is.
        scale: multiplies the exponentials; None: nothing does.
    """

    temperature: float
    prototypes: int
    centre: Float[Tensor, " prototypes"] | None = None
    scale: Float[Tensor, " prototypes"] | None = None

    def probabilities(
        self, rows: Float[Tensor, "rows dim"], columns: Columns, chunks: Sequence[slice]
    ) -> list[Float[Tensor, "rows chunk"]]:
        """Probabilities of a tile of whole rows, in chunks that together are all columns."""
        made = []
        sums = torch.zeros(len(rows), device=rows.device)
        factors = columns.inverse / self.temperature
        shifts = None if self.centre is None else self.centre / -self.temperature
        for chunk in chunks:
            part = columns.logits(rows, chunk, factors)
            part = (part if shifts is None else part.add_(shifts[chunk])).exp_()
            if self.scale is not None:
                part.mul_(self.scale[chunk])
            sums += part.sum(dim=-1)
            made.append(part)
        inverse = sums.clamp_(min=LEAST_SUM).reciprocal_()[:, None]
        return [part.mul_(inverse) for part in made]


def softmax_rule(
    centring: SoftmaxCentring, rows: Float[Tensor, "rows dim"], columns: Columns, temperature: float
) -> TargetRule:
    """The rule of the present centre; notes the rows for the next one.

    The sum of their logits is that of the rows, times the prototypes.
    """
    together = rows.float().sum(dim=0)
    parts = [columns.weight[chunk].float() @ together for chunk in columns.chunks(rows.shape[1])]
    centring.note(torch.cat(parts).mul_(columns.inverse), len(rows))
    return TargetRule(temperature, len(columns), centre=centring.centre[0])


def sinkhorn_rule(
    centring: SinkhornCentring, rows: Float[Tensor, "rows dim"], columns: Columns, temperature: float, *, tile_rows: int
) -> TargetRule:
    """The scaling vector of the prototypes over the rows of all processes. A collective.

    The kernel is made anew for each iteration; the scaling of a row is known when its tile has been made once, and
    serves the sum over rows of the next iteration at once.
    """
    count = sum_over_processes(torch.tensor([float(len(rows))], device=rows.device))
    factors = columns.inverse / temperature
    scale: Tensor | None = None
    for _ in range(centring.iterations):
        sums = torch.zeros(len(columns), device=rows.device)
        for tile in _tiles(rows, tile_rows):
            chunks = list(columns.chunks(len(tile)))
            if scale is None:
                for chunk in chunks:
                    sums[chunk] += columns.logits(tile, chunk, factors).exp_().sum(dim=0)
                continue
            kernel, masses = [], torch.zeros(len(tile), device=rows.device)
            for chunk in chunks:
                kernel.append(columns.logits(tile, chunk, factors).exp_())
                masses += kernel[-1] @ scale[chunk]
            weights = (masses * count).reciprocal_()
            for chunk, part in zip(chunks, kernel, strict=True):
                sums[chunk] += weights @ part
        sums = sum_over_processes(sums) * len(columns)
        scale = torch.where(sums > 0, sums.reciprocal(), 0.0)
    return TargetRule(temperature, len(columns), scale=scale)


def _tiles(rows: Tensor, tile_rows: int) -> Iterator[Tensor]:
    return (rows[start : start + tile_rows] for start in range(0, len(rows), tile_rows))
