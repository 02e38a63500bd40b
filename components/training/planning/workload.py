"""What a step computes, per image: crops, tokens and rows of the heads."""

from dataclasses import dataclass, replace
from typing import cast

from components.data.views import ViewParams, kinds
from components.models.vit import ViTConfig
from components.objectives.branch import HeadParams
from components.objectives.dinov2 import DINOv2Params
from components.objectives.losses import GLOBAL_VIEWS
from components.training.distill import DistillParams
from components.training.pretrain import PretrainParams
from components.training.recipe import TrainingParams


@dataclass(frozen=True)
class Crops:
    """Crops of one size.

    Attributes:
        name: `global` or `local`.
        size: side, pixels.
        views: how many an image.
        patches: of one crop.
        tokens: of one crop: class token, registers and patches.
    """

    name: str
    size: int
    views: int
    patches: int
    tokens: int


@dataclass(frozen=True)
class BranchWork:
    """What a student or a teacher does for one image.

    Attributes:
        model: its backbone.
        crops: that it sees.
        patch_rows: patch tokens that go through its iBOT head, expected.
        dino_head: its head for class tokens.
        ibot_head: its head for patches; None: the DINO head serves both.
        kept: share of the crops on which a residual branch runs (stochastic depth).
        recompute: whether only the inputs of blocks are kept, and the rest is computed again in the backward pass.
        tile_rows: student rows whose logits exist at a time; None: those of all rows.
    """

    model: ViTConfig
    crops: tuple[Crops, ...]
    patch_rows: float
    dino_head: HeadParams
    ibot_head: HeadParams | None
    kept: float = 1.0
    recompute: bool = False
    tile_rows: int | None = None

    @property
    def views(self) -> int:
        """Class tokens an image."""
        return sum(kind.views for kind in self.crops)

    @property
    def rows(self) -> int:
        """Tokens an image."""
        return sum(kind.views * kind.tokens for kind in self.crops)

    @property
    def patches(self) -> int:
        """Embedded patches an image."""
        return sum(kind.views * kind.patches for kind in self.crops)

    @property
    def pairs(self) -> int:
        """Pairs of tokens that attend to each other, an image."""
        return sum(kind.views * kind.tokens**2 for kind in self.crops)

    @property
    def read_out(self) -> float:
        """Tokens read out of the last block, an image."""
        return self.views + self.patch_rows

    def head_rows(self) -> list[tuple[HeadParams, float]]:
        """Each head and the rows an image that go through it."""
        if self.ibot_head is None:
            return [(self.dino_head, self.read_out)]
        return [(self.dino_head, float(self.views)), (self.ibot_head, self.patch_rows)]

    @property
    def hidden(self) -> int:
        """Hidden size of the feed-forward layer."""
        return self.model.ffn_hidden


@dataclass(frozen=True)
class Workload:
    """What student and teacher do for one image."""

    student: BranchWork
    teacher: BranchWork


def phases_of_pretraining(params: PretrainParams) -> tuple[Workload, ...]:
    """The work of each phase, in their order."""
    if params.high_resolution is None:
        return (pretraining(params, params.views),)
    return pretraining(params, params.views), pretraining(params, params.high_resolution.views(params.views))


def pretraining(params: PretrainParams, views: ViewParams) -> Workload:
    """The work of pretraining: the student sees all crops, masked; the teacher the global ones."""
    objective = cast(DINOv2Params, params.method_params())
    crops = _crops(views, params.model)
    masks = params.masks
    share = masks.probability * (masks.ratio_min + masks.ratio_max) / 2 if objective.ibot_weight > 0 else 0.0
    return Workload(
        student=_student(params, crops, share, objective, kept=1.0 - params.model.drop_path),
        teacher=_branch(params.model, crops[:1], share, objective),
    )


def distillation(params: DistillParams, teacher: PretrainParams) -> Workload:
    """The work of distillation: nothing is masked or dropped, the teacher is another, frozen model.

    Args:
        params: of the student.
        teacher: of the pretraining that gives the teacher.
    """
    objective = params.objective
    share = objective.patch_fraction if objective.ibot_weight > 0 else 0.0
    return Workload(
        student=_student(params, _crops(params.views, params.model), share, objective),
        teacher=_branch(
            teacher.model,
            _crops(params.views, teacher.model)[:1],
            share,
            cast(DINOv2Params, teacher.method_params()),
        ),
    )


def _crops(views: ViewParams, model: ViTConfig) -> tuple[Crops, ...]:
    found = []
    for name, kind in zip(("global", "local"), kinds(views), strict=False):
        patches = (kind.size // model.patch_size) ** 2
        found.append(Crops(name, kind.size, kind.views, patches, 1 + model.registers + patches))
    return tuple(found)


def _student(
    params: TrainingParams, crops: tuple[Crops, ...], share: float, objective: DINOv2Params, kept: float = 1.0
) -> BranchWork:
    return replace(
        _branch(params.model, crops, share, objective),
        kept=kept,
        recompute=params.engine.activation_checkpointing,
        tile_rows=objective.tile_rows,
    )


def _branch(model: ViTConfig, crops: tuple[Crops, ...], share: float, objective: DINOv2Params) -> BranchWork:
    """A branch; `share` is that of the patches of the global crops that the iBOT loss looks at."""
    return BranchWork(
        model=model,
        crops=crops,
        patch_rows=share * GLOBAL_VIEWS * crops[0].patches,
        dino_head=objective.dino_head,
        ibot_head=objective.ibot_head if objective.ibot_weight > 0 else None,
    )
