"""Self-supervised pretraining: what the stage's parameters are, and what is trained and kept."""

from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor

from components.models.backbone import Preprocess, save_backbone
from components.objectives import OBJECTIVES, Objective
from components.objectives.branch import Branch
from components.objectives.dinov2 import DINOv2Params
from components.parameters import Params
from components.training.phases import HighResolutionParams, Phase
from components.training.recipe import TrainingParams, check_sizes
from components.training.schedules import Schedule, ScheduleInTurn, Schedules


class PretrainParams(TrainingParams):
    """Pretraining of a backbone on images without labels."""

    method: Literal["dinov2", "dino"] = Field(default="dinov2", description="objective of the zoo")
    initial: str | None = Field(
        default=None,
        description="backbone to begin with, adapted to image_size, patch_size, channels and registers of the model: "
        "an artifact, an official .pth, a Hugging Face folder, models:/… or s3://…; null: weights from the seed",
    )
    objective: DINOv2Params = Field(default=DINOv2Params(), description="losses, heads and centring")
    high_resolution: HighResolutionParams | None = Field(
        default=None, description="a last phase on larger crops; null: none"
    )

    @field_validator("objective")
    @classmethod
    def _check_objective(cls, objective: DINOv2Params, info: ValidationInfo) -> DINOv2Params:
        """As the method's own parameters; here, so that an error names the key below `objective`."""
        if (method := info.data.get("method")) is not None:
            _params_of(method, objective)
        return objective

    @model_validator(mode="after")
    def _check_high_resolution(self) -> Self:
        if self.high_resolution is not None:
            check_sizes(self.high_resolution.views(self.views), self.model.patch_size, where="high_resolution")
        return self

    def phases(self, total: int) -> list[Phase]:
        """The crops of `views`, then those of `high_resolution`."""
        if self.high_resolution is None:
            return super().phases(total)
        switch = self.high_resolution.begins(total)
        return [Phase(0, switch, self.views), Phase(switch, total, self.high_resolution.views(self.views))]

    def schedules(self, total: int) -> Schedule:
        """That of the run; with a schedule of its own for `high_resolution`, one after the other."""
        if self.high_resolution is None or self.high_resolution.schedule is None:
            return super().schedules(total)
        switch = self.high_resolution.begins(total)
        last = Schedules(self.high_resolution.schedule, total - switch, self.batch_size)
        return ScheduleInTurn(Schedules(self.schedule, switch, self.batch_size), last)

    def mathematics(self) -> dict[str, Any]:
        """Without the phase that there is not: keys of runs stay those of before it could be had."""
        values = super().mathematics()
        if self.high_resolution is None:
            del values["high_resolution"]
        return values

    def method_params(self) -> Params:
        """Parameters of the chosen objective."""
        return _params_of(self.method, self.objective)

    def prototypes(self) -> int:
        """Columns of the DINO head."""
        return self.objective.dino_head.prototypes

    def batch_groups(self) -> dict[str, int]:
        """Groups of KoLeo and of stochastic depth, where there is such."""
        objective = cast(DINOv2Params, self.method_params())
        dropped = {"objective.drop_path_group": objective.drop_path_group} if self.model.drop_path > 0 else {}
        return koleo_groups(objective) | dropped


def koleo_groups(objective: DINOv2Params) -> dict[str, int]:
    """The group of KoLeo by its key, if there is a KoLeo loss."""
    return {"objective.koleo_group": objective.koleo_group} if objective.koleo_weight > 0 else {}


def _params_of(method: str, objective: DINOv2Params) -> Params:
    return OBJECTIVES[method].params_type.model_validate(objective.model_dump(exclude_unset=True))


def build(params: PretrainParams) -> Objective:
    """Student and teacher with weights from the seed."""
    return OBJECTIVES[params.method].build(params.model, params.method_params(), seed=params.seed)


def save_teacher(
    params: PretrainParams, averages: dict[str, Tensor], preprocess: Preprocess, folder: Path, lineage: dict[str, Any]
) -> None:
    """Writes the averaged teacher as a backbone artifact with its heads.

    Args:
        params: of the run.
        averages: whole fp32 weights by name of the objective's parameter.
        preprocess: of images for evaluation.
        folder: to write into.
        lineage: for the artifact.
    """
    objective = cast(DINOv2Params, params.method_params())
    ibot_head = objective.ibot_head if objective.ibot_weight > 0 else None
    teacher = Branch.build(params.model, objective.dino_head, ibot_head)
    teacher.load_state_dict({name.removeprefix("teacher."): value for name, value in averages.items()})
    card = f"# {params.model.name}\n\nTeacher of a {params.method} pretraining. `release` writes the model card.\n"
    save_backbone(teacher.backbone, preprocess, folder, lineage=lineage, card=card)
    teacher.save_heads(folder)
