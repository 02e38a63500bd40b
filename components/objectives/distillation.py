"""Distillation of a frozen, larger teacher into a student (Oquab et al. 2024, section 5)."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from components.data.batch import CropBatch
from components.errors import UserError
from components.models.vit import Readout, VisionTransformer, ViTConfig
from components.objectives import measures
from components.objectives.base import StepState
from components.objectives.branch import Branch, HeadParams, seeded_weights
from components.objectives.dinov2 import DINOv2Objective, DINOv2Params, PatchRows, patch_rows
from components.parameters import Params


class DistillationParams(DINOv2Params):
    """Losses and heads of distillation; prototypes are the teacher's."""

    patch_fraction: float = Field(
        default=1.0, gt=0, le=1, description="share of patch positions the iBOT loss looks at, drawn anew each step"
    )


class Spare(nn.Module):
    """Moving average of the student's backbone: what distillation is for. It runs for its health measures alone."""

    def __init__(self, backbone: VisionTransformer) -> None:
        super().__init__()
        self.backbone = backbone
        self.requires_grad_(requires_grad=False)


class DistillationObjective(DINOv2Objective):
    """The DINOv2 losses against a frozen teacher, without masking and without stochastic depth.

    Args:
        student: trained branch, with heads of its own and as many prototypes as the teacher's.
        teacher: frozen branch, its heads included.
        spare: receives the moving average of the student's backbone.
        params: losses and centring.
    """

    params_type: ClassVar[type[Params]] = DistillationParams
    result: ClassVar[str] = "spare"

    def __init__(self, student: Branch, teacher: Branch, spare: Spare, params: DistillationParams) -> None:
        super().__init__(student, teacher, params)
        self.spare = spare
        self.patch_fraction = params.patch_fraction

    @classmethod
    def build(cls, config: ViTConfig, params: Params, *, seed: int) -> Self:
        """Not possible without a teacher: use `from_teacher`."""
        raise NotImplementedError("distillation needs a teacher: DistillationObjective.from_teacher")

    @classmethod
    def from_teacher(cls, config: ViTConfig, params: DistillationParams, *, teacher: Branch, seed: int) -> Self:
        """Make a student and its average for a loaded teacher.

        Args:
            config: architecture of the student; its stochastic depth is ignored.
            params: losses and heads of the student.
            teacher: backbone and heads of the teacher, loaded.
            seed: seed of the student's initial weights.

        Raises:
            UserError: when patch sizes or heads of student and teacher do not fit together.
        """
        check_fit(config, params, TeacherShape.of(teacher))
        with seeded_weights(seed):
            student = Branch.build(config, params.dino_head, params.ibot_head if params.ibot_weight > 0 else None)
        with seeded_weights(seed):
            spare = Spare(VisionTransformer(config))
        return cls(student, teacher, spare, params)

    def ema_pairs(self) -> list[tuple[str, str]]:
        """The spare backbone follows the student's; the teacher follows nothing."""
        return [(f"student.{name}", f"spare.{name}") for name, _ in self.spare.named_parameters()]

    def _patch_rows(self, batch: CropBatch, state: StepState) -> PatchRows:
        """All patches of the global crops, or the same drawn share of each crop."""
        crops, tokens = batch.masks.shape
        count = max(int(tokens * self.patch_fraction), 1)
        chosen = torch.arange(tokens)
        if count < tokens:
            drawn = np.random.default_rng([state.seed, state.step]).permutation(tokens)[:count]
            chosen = torch.from_numpy(np.sort(drawn))
        rows = (torch.arange(crops)[:, None] * tokens + chosen[None]).flatten().to(batch.masks.device)
        return PatchRows(rows, torch.full((len(rows),), 1.0 / count, device=rows.device), len(rows))

    def _student_tokens(self, batch: CropBatch, patches: PatchRows | None, state: StepState) -> list[Readout]:
        """Tokens of all crops, as they are."""
        return self.student.backbone.read_out(batch.crops, patch_rows(batch, patches))

    @torch.no_grad()
    def _learner_measures(self, student: Float[Tensor, "crops width"], batch: CropBatch) -> dict[str, Tensor]:
        """Of the features of the student and of its average: those of a frozen teacher do not tell what they become."""
        [spare] = self.spare.backbone.read_out(batch.crops[:1], [None])
        return measures.of_features(student, "student_") | measures.of_features(spare.cls, "spare_")


@dataclass(frozen=True)
class TeacherShape:
    """What a student has to fit.

    Attributes:
        patch_size: pixels.
        channels: of its images.
        dino_prototypes: columns of its DINO head.
        ibot_prototypes: columns of its iBOT head; None: the DINO head serves both.
    """

    patch_size: int
    channels: int
    dino_prototypes: int
    ibot_prototypes: int | None

    @classmethod
    def of(cls, teacher: Branch) -> Self:
        """The shape of a loaded teacher."""
        config, ibot = teacher.backbone.config, teacher.ibot_head
        dino_prototypes = teacher.dino_head.prototypes.weight.shape[0]
        ibot_prototypes = None if ibot is None else ibot.prototypes.weight.shape[0]
        return cls(config.patch_size, config.channels, dino_prototypes, ibot_prototypes)


def check_fit(config: ViTConfig, params: DistillationParams, teacher: TeacherShape) -> None:
    """Checks that a student can be distilled from a teacher.

    Args:
        config: architecture of the student.
        params: losses and heads of the student.
        teacher: what it has to fit.

    Raises:
        UserError: naming what differs.
    """
    if config.patch_size != teacher.patch_size or config.channels != teacher.channels:
        raise UserError(
            f"student with patch {config.patch_size} and {config.channels} channels, teacher with patch "
            f"{teacher.patch_size} and {teacher.channels} channels",
            remedy="give the student the teacher's patch size and channels (distill.model, pretrain.model)",
        )
    _check_head("dino_head", params.dino_head, teacher.dino_prototypes)
    if params.ibot_weight > 0:
        if (params.ibot_head is None) != (teacher.ibot_prototypes is None):
            raise UserError(
                "one of student and teacher shares its head between DINO and iBOT, the other does not",
                remedy="set objective.ibot_head in the section distill as it is in the section pretrain",
            )
        if params.ibot_head is not None and teacher.ibot_prototypes is not None:
            _check_head("ibot_head", params.ibot_head, teacher.ibot_prototypes)


def _check_head(name: str, head: HeadParams, prototypes: int) -> None:
    if head.prototypes != prototypes:
        raise UserError(
            f"distill.objective.{name}.prototypes is {head.prototypes}, the teacher has {prototypes}",
            remedy=f"set it to {prototypes}, or train the teacher with {head.prototypes}",
        )
