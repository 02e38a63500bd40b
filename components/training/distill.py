"""Distillation of a smaller backbone: what the stage's parameters are, and what is trained and kept."""

from pathlib import Path
from typing import Any, cast

from pydantic import Field
from torch import Tensor

from components.models.backbone import Preprocess, save_backbone
from components.models.vit import VisionTransformer
from components.objectives import Objective
from components.objectives.branch import Branch
from components.objectives.dinov2 import DINOv2Params
from components.objectives.distillation import DistillationObjective, DistillationParams, TeacherShape, check_fit
from components.training.pretrain import PretrainParams, koleo_groups
from components.training.recipe import TrainingParams


class DistillParams(TrainingParams):
    """Distillation of the pretrained teacher into a smaller student."""

    objective: DistillationParams = Field(default=DistillationParams(), description="losses, heads and centring")

    def prototypes(self) -> int:
        """Columns of the DINO head, which are the teacher's."""
        return self.objective.dino_head.prototypes

    def batch_groups(self) -> dict[str, int]:
        """The group of KoLeo: a student has no stochastic depth."""
        return koleo_groups(self.objective)


def require_fit(params: DistillParams, teacher: PretrainParams) -> None:
    """Checks before any work that the teacher will be one that the student can be distilled from.

    Raises:
        UserError: naming what differs.
    """
    objective = cast(DINOv2Params, teacher.method_params())
    own_head = objective.ibot_head if objective.ibot_weight > 0 else None
    shape = TeacherShape(
        teacher.model.patch_size,
        teacher.model.channels,
        objective.dino_head.prototypes,
        None if own_head is None else own_head.prototypes,
    )
    check_fit(params.model, params.objective, shape)


def build(params: DistillParams, teacher: Path) -> Objective:
    """A student with weights from the seed, and the frozen teacher with its heads.

    Raises:
        UserError: if the teacher is damaged, or student and teacher do not fit.
    """
    loaded = Branch.load(teacher)
    return DistillationObjective.from_teacher(params.model, params.objective, teacher=loaded, seed=params.seed)


def save_student(
    params: DistillParams, averages: dict[str, Tensor], preprocess: Preprocess, folder: Path, lineage: dict[str, Any]
) -> None:
    """Writes the averaged student backbone as an artifact.

    Args:
        params: of the run.
        averages: whole fp32 weights by name of the objective's parameter.
        preprocess: of images for evaluation.
        folder: to write into.
        lineage: for the artifact.
    """
    student = VisionTransformer(params.model)
    student.load_state_dict({name.removeprefix("spare.backbone."): value for name, value in averages.items()})
    card = f"# {params.model.name}\n\nDistilled student. `release` writes the model card.\n"
    save_backbone(student, preprocess, folder, lineage=lineage, card=card)
