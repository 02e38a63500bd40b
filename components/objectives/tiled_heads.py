"""DINO and iBOT losses of a pair of branches, head by head, without matrices of logits."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from components.errors import UserError
from components.models.heads import Prototypes
from components.models.vit import Readout
from components.objectives.branch import Branch
from components.objectives.centring import SinkhornCentring, SoftmaxCentring
from components.objectives.columns import LEAST_TEMPERATURE, Columns
from components.objectives.losses import GLOBAL_VIEWS
from components.objectives.measures import usage_of_mean
from components.objectives.tiled_loss import HeadMeasures, Section, tiled_cross_entropy
from components.objectives.tiled_targets import TargetRule, sinkhorn_rule, softmax_rule

Centring = SinkhornCentring | SoftmaxCentring


class HeadSettings(NamedTuple):
    """Scalars of a step."""

    dino_weight: float
    ibot_weight: float
    student_temperature: float
    teacher_temperature: float
    tile_rows: int
    measure: bool


class PatchWeights(NamedTuple):
    """What the iBOT loss knows of its rows.

    Attributes:
        weights: one over the number of such patches in the patch's crop; 0 for a row that only pads.
        real: how many rows are real.
        crops: global crops.
    """

    weights: Float[Tensor, " rows"]
    real: int
    crops: int


class HeadLosses(NamedTuple):
    """Losses of both heads.

    Attributes:
        loss: their weighted sum, to differentiate.
        parts: each, unweighted and detached.
        measures: entropies and usage of prototypes, when asked for.
    """

    loss: Float[Tensor, ""]
    parts: dict[str, Tensor]
    measures: dict[str, Tensor]


def tiled_heads(
    student: Branch,
    teacher: Branch,
    tokens: tuple[Readout, Readout],
    centrings: tuple[Centring, Centring],
    patches: PatchWeights | None,
    settings: HeadSettings,
    *,
    images: int,
) -> HeadLosses:
    """What `dino_loss` and `ibot_loss` give, tile by tile.

    Args:
        student: trained branch.
        teacher: frozen branch.
        tokens: of the student (class tokens of all crops, chosen patches) and of the teacher (global crops).
        centrings: for class tokens and for patches.
        patches: of the chosen patches; None: no iBOT loss.
        settings: scalars of the step.
        images: of the batch.

    Raises:
        UserError: when the teacher's temperature is too low for exponentials without a maximum.
    """
    if settings.teacher_temperature < LEAST_TEMPERATURE:
        raise UserError(
            f"objective.tile_rows with a teacher temperature of {settings.teacher_temperature:g}",
            remedy=f"set objective.tile_rows to null, or temperatures to at least {LEAST_TEMPERATURE}",
        )
    cls, patch = student.bottlenecks(tokens[0].cls, None if patches is None else tokens[0].patches)
    with torch.no_grad():
        teacher_cls, teacher_patch = teacher.bottlenecks(tokens[1].cls, None if patches is None else tokens[1].patches)
    rows = [teacher_cls]
    if patches is not None and teacher_patch is not None:
        rows.append(teacher_patch[: patches.real])
    shared = teacher.ibot_head is None
    # both rules of a shared head while its weight is at hand
    calls: list[tuple[Prototypes, list[Tensor], Sequence[Centring]]] = [
        (teacher.dino_head.prototypes, rows if shared else rows[:1], centrings)
    ]
    if not shared and len(rows) > 1:
        assert teacher.ibot_head is not None
        calls.append((teacher.ibot_head.prototypes, rows[1:], centrings[1:]))
    rules = [rule for call in calls for rule in target_rules(*call, settings)]

    sections = [_dino_section(cls, teacher_cls, rules[0], settings, images)]
    if patches is not None and patch is not None and teacher_patch is not None:
        weights = patches.weights[None] * (settings.ibot_weight / patches.crops)
        sections.append(Section(patch[None], teacher_patch[None], rules[1], weights, crossed=False))
    if shared:
        loss = _loss(student.dino_head.prototypes, teacher.dino_head.prototypes, sections, settings)
    else:
        loss = _loss(student.dino_head.prototypes, teacher.dino_head.prototypes, sections[:1], settings)
        if len(sections) > 1:
            assert student.ibot_head is not None
            assert teacher.ibot_head is not None
            loss = loss + _loss(student.ibot_head.prototypes, teacher.ibot_head.prototypes, sections[1:], settings)
    return HeadLosses(loss, _parts(sections, patches), _measures(sections[0]))


def target_rules(
    prototypes: Prototypes, rows: Sequence[Tensor], centrings: Sequence[Centring], settings: HeadSettings
) -> list[TargetRule]:
    """The rule of each centring for its rows, all of one head of the teacher. A collective."""
    rules = []

    def read(_: Tensor, weight: Tensor) -> Tensor:
        columns = Columns.of(weight)
        for some, centring in zip(rows, centrings, strict=False):
            if isinstance(centring, SoftmaxCentring):
                rules.append(softmax_rule(centring, some, columns, settings.teacher_temperature))
            else:
                rules.append(
                    sinkhorn_rule(centring, some, columns, settings.teacher_temperature, tile_rows=settings.tile_rows)
                )
        return columns.inverse

    with torch.no_grad():
        prototypes(rows[0], read=read)
    return rules


def _dino_section(cls: Tensor, teacher: Tensor, rule: TargetRule, settings: HeadSettings, images: int) -> Section:
    views = len(cls) // images
    terms = GLOBAL_VIEWS + GLOBAL_VIEWS * (views - GLOBAL_VIEWS)
    weights = torch.full((views, images), settings.dino_weight / (terms * images), device=cls.device)
    measures = HeadMeasures.empty(rule.prototypes, cls.device) if settings.measure else None
    return Section(
        cls.view(views, images, -1), teacher.view(GLOBAL_VIEWS, images, -1), rule, weights, crossed=True,
        measures=measures,
    )  # fmt: skip


def _loss(student: Prototypes, teacher: Prototypes, sections: Sequence[Section], settings: HeadSettings) -> Tensor:
    return tiled_cross_entropy(
        student, teacher, sections, temperature=settings.student_temperature, tile_rows=settings.tile_rows
    )


def _parts(sections: Sequence[Section], patches: PatchWeights | None) -> dict[str, Tensor]:
    per_view = sections[0].losses.mean(dim=1)
    terms = GLOBAL_VIEWS + GLOBAL_VIEWS * (len(per_view) - GLOBAL_VIEWS)
    of_globals, of_locals = per_view[:GLOBAL_VIEWS].sum() / terms, per_view[GLOBAL_VIEWS:].sum() / terms
    parts = {"dino": of_globals + of_locals, "dino_global": of_globals, "dino_local": of_locals}
    if patches is not None:
        parts["ibot"] = (sections[1].losses[0] * patches.weights).sum() / patches.crops
    return parts


def _measures(dino: Section) -> dict[str, Tensor]:
    found = dino.measures
    if found is None:
        return {}
    return {
        "teacher_entropy": found.teacher_entropy,
        "student_entropy": found.student_entropy,
        "prototype_usage": usage_of_mean(found.mean),
        "student_prototype_usage": usage_of_mean(found.student_mean),
    }
