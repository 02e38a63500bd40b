"""Cross-entropy of prototype heads without a matrix of logits (rows x prototypes).

A tile of whole rows is made, and its softmax, its loss and its gradient with it, before the next tile takes its place:
what stays is the gradient of the rows and that of the weight. Nothing is left to compute when the gradient is asked
for. Cosines over a temperature are bounded, so that no row needs its maximum before its exponentials.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from components.models.heads import Prototypes
from components.objectives.columns import Columns
from components.objectives.losses import GLOBAL_VIEWS
from components.objectives.tiled_targets import TargetRule


@dataclass
class HeadMeasures:
    """Health of a head: sums over its tiles.

    Attributes:
        mean: of the teacher's probabilities over its rows.
        student_mean: of the student's probabilities over its rows of global crops.
        teacher_entropy: mean over the teacher's rows, nats.
        student_entropy: mean over the student's rows of global crops, nats.
    """

    mean: Float[Tensor, " prototypes"]
    student_mean: Float[Tensor, " prototypes"]
    teacher_entropy: Float[Tensor, ""]
    student_entropy: Float[Tensor, ""]

    @classmethod
    def empty(cls, prototypes: int, device: torch.device) -> Self:
        """Nothing seen yet."""
        return cls(*(torch.zeros(shape, device=device) for shape in ((prototypes,), (prototypes,), (), ())))


@dataclass
class Section:
    """Rows of one loss, all against targets of the same positions.

    Attributes:
        student: rows of unit norm, view after view.
        teacher: rows of unit norm, target after target.
        rule: how the teacher's cosines become probabilities.
        weights: of each student row in the total.
        crossed: DINO's pairs: the first view against the second target and the second against the first, every other
            view against both. Otherwise each view against the target of its number.
        measures: filled when given.
        losses: of each row, unweighted; filled.
    """

    student: Float[Tensor, "views images dim"]
    teacher: Float[Tensor, "targets images teacher_dim"]
    rule: TargetRule
    weights: Float[Tensor, "views images"]
    crossed: bool
    measures: HeadMeasures | None = None
    losses: Float[Tensor, "views images"] = field(init=False)

    def __post_init__(self) -> None:
        self.losses = torch.zeros(self.student.shape[:2], device=self.student.device)

    def pairs(self, targets: Float[Tensor, "targets images chunk"]) -> list[tuple[slice, Tensor]]:
        """Which views learn which target."""
        if not self.crossed:
            return [(slice(None), targets)]
        pairs = [(slice(0, 1), targets[1:2]), (slice(1, 2), targets[0:1])]
        if len(self.student) > GLOBAL_VIEWS:
            pairs.append((slice(GLOBAL_VIEWS, None), targets.sum(dim=0, keepdim=True)))
        return pairs

    def masses(self) -> Float[Tensor, "views 1"]:
        """Sum of the target of each view."""
        masses = torch.ones(len(self.student), 1, device=self.student.device)
        if self.crossed:
            masses[GLOBAL_VIEWS:] = 2.0
        return masses


def tiled_cross_entropy(
    prototypes: Prototypes,
    teacher: Prototypes,
    sections: Sequence[Section],
    *,
    temperature: float,
    tile_rows: int,
) -> Float[Tensor, ""]:
    """Sum of the weighted cross-entropies of all rows of a head; the loss of each row is left in its section.

    Args:
        prototypes: of the student's head.
        teacher: of the teacher's head.
        sections: rows; the gradient flows into those of the student.
        temperature: of the student.
        tile_rows: student rows of a tile, at least the views of an image.
    """
    rows = torch.cat([section.student.flatten(0, 1) for section in sections])

    def read(rows: Tensor, weight: Tensor) -> Tensor:
        apply: Callable[..., Tensor] = _TiledCrossEntropy.apply
        return apply(rows, weight, teacher, sections, temperature, tile_rows)

    total: Tensor = prototypes(rows, read=read)
    return total


class _TiledCrossEntropy(torch.autograd.Function):
    """The gradient is made in the forward pass; the backward pass scales it."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        teacher: Prototypes,
        sections: Sequence[Section],
        temperature: float,
        tile_rows: int,
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        work = _Work(rows, Columns.of(weight), temperature, wanted=wanted)

        def read(_: Tensor, teacher_weight: Tensor) -> Tensor:
            targets, start = Columns.of(teacher_weight), 0
            for section in sections:
                views, images = section.losses.shape
                step = max(tile_rows // views, 1)
                for first in range(0, images, step):
                    work.tile(section, slice(first, min(first + step, images)), start, targets)
                start += views * images
            return work.total

        # inside, so that the teacher's weight is gathered too, but outside of differentiation
        total: Tensor = teacher(sections[0].teacher.flatten(0, 1), read=read).clone()
        ctx.gradients = work.gradients() if wanted else None
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradient of a tiled loss was asked for twice: it is kept for one backward pass")
        rows, weight = ctx.gradients
        ctx.gradients = None  # whoever accumulates may then take the tensors instead of copying them
        return rows.mul_(grads[0]), weight.mul_(grads[0]), None, None, None, None


class _Work:
    """The student's side of the tiles, and what they add up to."""

    def __init__(self, rows: Tensor, columns: Columns, temperature: float, *, wanted: bool) -> None:
        self.total = torch.zeros((), device=rows.device)
        self._rows = rows
        self._columns = columns
        self._temperature = temperature
        self._factors = columns.inverse / temperature
        self._wanted = wanted
        # bf16 would lose what many small tiles add
        self._row_gradient = torch.empty(rows.shape if wanted else 0, device=rows.device)
        self._weight_gradient = torch.zeros(columns.weight.shape if wanted else 0, device=rows.device)

    def tile(self, section: Section, images: slice, start: int, targets: Columns) -> None:
        """Loss and gradient of all views of some images.

        Args:
            section: they are of.
            images: which.
            start: of the section among all rows.
            targets: prototypes of the teacher.
        """
        views, count = section.losses.shape
        weights = section.weights[:, images]
        every = torch.arange(start, start + views * count, device=self._rows.device).view(views, count)
        positions = every[:, images].flatten()
        rows = self._rows[positions]
        teacher = section.teacher[:, images].flatten(0, 1)
        chunks = list(self._columns.chunks(max(len(rows), len(teacher))))
        probabilities = section.rule.probabilities(teacher, targets, chunks)
        shape = (*weights.shape, -1)
        exponentials = []
        sums, products = torch.zeros_like(weights), torch.zeros_like(weights)
        for chunk, target in zip(chunks, probabilities, strict=True):
            logits = self._columns.logits(rows, chunk, self._factors).view(shape)
            for learners, wanted in section.pairs(target.view(len(section.teacher), weights.shape[1], -1)):
                products[learners] += (logits[learners] * wanted).sum(dim=-1)
            exponentials.append(logits.exp_())
            sums += logits.sum(dim=-1)
        masses = section.masses()
        losses = masses * sums.log() - products
        section.losses[:, images] = losses
        self.total += (losses * weights).sum()
        if section.measures is not None:
            _measure(section, section.measures, probabilities, exponentials, sums, chunks)
        if self._wanted:
            inverse = (masses / sums)[..., None]
            scaled = rows * (weights / self._temperature).reshape(-1, 1).to(rows.dtype)
            made = torch.zeros_like(rows, dtype=torch.float32)
            for chunk, target, part in zip(chunks, probabilities, exponentials, strict=True):
                part.mul_(inverse)
                for learners, wanted in section.pairs(target.view(len(section.teacher), weights.shape[1], -1)):
                    part[learners].sub_(wanted)
                part.mul_(self._columns.inverse[chunk])
                self._add(chunk, part.view(len(rows), -1), scaled, made)
            made.mul_((weights / self._temperature).reshape(-1, 1))
            self._row_gradient[positions] = made

    def _add(self, chunk: slice, gradient: Tensor, scaled: Tensor, made: Tensor) -> None:
        weight = self._columns.weight[chunk]
        if weight.dtype == torch.float32:
            made.addmm_(gradient, weight)
            self._weight_gradient[chunk].addmm_(gradient.mT, scaled)
        else:
            gradient = gradient.to(weight.dtype)
            made += gradient @ weight
            self._weight_gradient[chunk] += gradient.mT @ scaled

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Of the rows and of the weight, in their precision.

        What was added up is that of the products; a prototype has the gradient of its direction only.
        """
        found, columns = self._weight_gradient, self._columns
        for chunk in columns.chunks(found.shape[1]):
            weight = columns.weight[chunk].float()
            along = torch.linalg.vecdot(found[chunk], weight).mul_(columns.inverse[chunk].square())
            found[chunk].addcmul_(along[:, None], weight, value=-1)
        return self._row_gradient.to(self._rows.dtype), found.to(columns.weight.dtype)


@torch.no_grad()
def _measure(
    section: Section,
    measures: HeadMeasures,
    probabilities: Sequence[Tensor],
    exponentials: Sequence[Tensor],
    sums: Float[Tensor, "views images"],
    chunks: Sequence[slice],
) -> None:
    """Adds a tile's part to the means over all rows."""
    rows = section.teacher.shape[0] * section.teacher.shape[1]
    for chunk, target, part in zip(chunks, probabilities, exponentials, strict=True):
        measures.mean[chunk] += target.sum(dim=0) / rows
        measures.teacher_entropy -= torch.special.xlogy(target, target).sum() / rows
        student = part[:GLOBAL_VIEWS] / sums[:GLOBAL_VIEWS, :, None]
        measures.student_mean[chunk] += student.sum(dim=(0, 1)) / rows
        measures.student_entropy -= torch.special.xlogy(student, student).sum() / rows
