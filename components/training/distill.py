"""Distillation of a smaller backbone: what the stage's parameters are, and what is trained and kept."""

from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from components.models.backbone import Preprocess, save_backbone
from components.models.vit import VisionTransformer
from components.objectives import Objective
from components.objectives.branch import Branch
from components.objectives.distillation import DistillationObjective, DistillationParams
from components.training.recipe import TrainingParams


class DistillParams(TrainingParams):
    """Distillation of the pretrained teacher into a smaller student."""

    objective: DistillationParams = Field(default=DistillationParams(), description="losses, heads and centring")


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
