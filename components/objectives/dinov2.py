"""The DINOv2 objective: DINO on class tokens, iBOT on masked patches, KoLeo (Oquab et al. 2024, section 4)."""

from typing import ClassVar, NamedTuple, Self, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from components.data.batch import CropBatch
from components.errors import UserError
from components.models.drop_path import DropPathRng
from components.models.vit import Readout, ViTConfig
from components.objectives import measures
from components.objectives.base import Losses, Objective, StepState
from components.objectives.branch import Branch, HeadParams, seeded_weights
from components.objectives.centring import CentringName, make_centring
from components.objectives.columns import LEAST_TEMPERATURE
from components.objectives.losses import GLOBAL_VIEWS, dino_loss, ibot_loss, koleo_loss
from components.objectives.tiled_heads import HeadLosses, HeadSettings, PatchWeights, tiled_heads
from components.parameters import Params


class DINOv2Params(Params):
    """Losses, heads and centring."""

    dino_head: HeadParams = Field(default=HeadParams(), description="head for class tokens")
    ibot_head: HeadParams | None = Field(default=None, description="head for patches; null: the DINO head serves both")
    centring: CentringName = Field(default="softmax", description="softmax with a moving centre, or Sinkhorn-Knopp")
    centre_momentum: float = Field(default=0.9, ge=0, le=1, description="share of the old centre kept by each step")
    sinkhorn_iterations: int = Field(default=3, ge=1, description="iterations of Sinkhorn-Knopp")
    student_temperature: float = Field(default=0.1, gt=0, description="temperature of the student's softmax")
    dino_weight: float = Field(default=1.0, ge=0, description="weight of the DINO loss")
    ibot_weight: float = Field(default=1.0, ge=0, description="weight of the iBOT loss; 0: no patch is masked")
    koleo_weight: float = Field(default=0.1, ge=0, description="weight of the KoLeo regulariser")
    koleo_group: int = Field(
        default=32,
        ge=2,
        description="images among which KoLeo looks for neighbours; must divide those of a forward pass, "
        "or one forward pass must take the whole batch, which then is one group",
    )
    drop_path_group: int = Field(
        default=16,
        ge=2,
        description="images among which dropped samples are drawn; must divide those of a forward pass, "
        "or one forward pass must take the whole batch, which then is one group",
    )
    tile_rows: int | None = Field(
        default=None,
        ge=1,
        description="student rows whose logits exist at a time, at least the views of an image: the loss and its "
        "gradient are made tile by tile; null: the logits of all rows at once",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tile_rows is not None and self.student_temperature < LEAST_TEMPERATURE:
            raise ValueError(
                f"student_temperature {self.student_temperature} must be at least {LEAST_TEMPERATURE} with tile_rows"
            )
        return self


class PatchRows(NamedTuple):
    """Patches of the global crops that the iBOT loss looks at.

    Attributes:
        rows: positions in the flattened [crops x patches].
        weights: one over the number of such patches in the crop.
        real: how many rows are real; one row with weight 0 stands in when there is none, so that every process runs
            every module.
    """

    rows: Int[Tensor, " rows"]
    weights: Float[Tensor, " rows"]
    real: int


class Targets(NamedTuple):
    """What the teacher says of a batch; `patches` is None without an iBOT loss."""

    cls: Float[Tensor, "2 batch prototypes"]
    patches: Float[Tensor, "rows prototypes"] | None
    features: Float[Tensor, "crops width"]


class _Made(NamedTuple):
    """Losses of the heads, tokens of the student by crop size, class tokens of the teacher."""

    heads: HeadLosses
    tokens: list[Readout]
    features: Float[Tensor, "crops width"]


class DINOv2Objective(Objective):
    """Student and moving-average teacher, both in one module.

    Args:
        student: trained branch.
        teacher: branch of the same shape; its weights follow the student's (`ema_pairs`).
        params: losses, heads and centring.
    """

    params_type: ClassVar[type[Params]] = DINOv2Params
    result: ClassVar[str] = "teacher"

    def __init__(self, student: Branch, teacher: Branch, params: DINOv2Params) -> None:
        super().__init__()
        self.params = params
        self.student = student
        self.teacher = teacher
        teacher.freeze()
        ibot_head = params.ibot_head or params.dino_head
        self.dino_centring = make_centring(
            params.centring,
            params.dino_head.prototypes,
            momentum=params.centre_momentum,
            iterations=params.sinkhorn_iterations,
        )
        self.ibot_centring = make_centring(
            params.centring,
            ibot_head.prototypes,
            momentum=params.centre_momentum,
            iterations=params.sinkhorn_iterations,
        )

    @classmethod
    def build(cls, config: ViTConfig, params: Params, *, seed: int) -> Self:
        """Make student and teacher with the same initial weights, drawn from the seed."""
        checked = cast(DINOv2Params, params)
        branches = []
        for _ in range(2):
            with seeded_weights(seed):
                ibot_head = checked.ibot_head if checked.ibot_weight > 0 else None
                branches.append(Branch.build(config, checked.dino_head, ibot_head))
        return cls(branches[0], branches[1], checked)

    def ema_pairs(self) -> list[tuple[str, str]]:
        """Every parameter of the teacher follows the student's of the same name."""
        return [(f"student.{name}", f"teacher.{name}") for name, _ in self.teacher.named_parameters()]

    def commit(self) -> None:
        """Apply the pending changes of both centres; a collective: every process calls it."""
        self.dino_centring.commit()
        self.ibot_centring.commit()

    def reject(self) -> None:
        """Forget the pending changes of both centres."""
        self.dino_centring.reject()
        self.ibot_centring.reject()

    def forward(self, batch: CropBatch, state: StepState) -> Losses:
        """Loss of a batch of crops.

        Raises:
            UserError: when KoLeo is asked for and the batch has one image.
        """
        params = self.params
        images = len(batch.ids)
        if params.koleo_weight > 0 and images < 2:
            raise UserError(
                "a process got a batch of one image, among which KoLeo finds no neighbour",
                remedy="raise batch_size, or set koleo_weight to 0",
            )
        patches = self._patch_rows(batch, state) if params.ibot_weight > 0 else None
        if params.tile_rows is None:
            heads, tokens, features = self._whole_heads(batch, patches, state)
        else:
            heads, tokens, features = self._tiled_heads(batch, patches, state, params.tile_rows)
        loss, parts = heads.loss, heads.parts
        if params.koleo_weight > 0:
            parts["koleo"] = self._koleo(tokens[0].cls, batch)
            loss = loss + params.koleo_weight * parts["koleo"]
        parts = {"loss": loss, **parts}
        if state.measure:
            parts |= (
                heads.measures | self._measures(tokens[0].cls, features) | self._learner_measures(tokens[0].cls, batch)
            )
        return Losses(loss, {name: value.detach() for name, value in parts.items()})

    def _whole_heads(self, batch: CropBatch, patches: PatchRows | None, state: StepState) -> _Made:
        """DINO and iBOT losses from the logits of all rows."""
        params, images = self.params, len(batch.ids)
        targets = self._targets(batch, patches, state)
        tokens = self._student_tokens(batch, patches, state)
        cls = torch.cat([part.cls for part in tokens])
        cls_logits, patch_logits = self.student.prototype_logits(cls, None if patches is None else tokens[0].patches)
        cls_logits = cls_logits.view(-1, images, cls_logits.shape[-1])

        global_term, local_term = dino_loss(cls_logits, targets.cls, temperature=params.student_temperature)
        loss = params.dino_weight * (global_term + local_term)
        parts = {"dino": global_term + local_term, "dino_global": global_term, "dino_local": local_term}
        if patch_logits is not None and patches is not None and targets.patches is not None:
            parts["ibot"] = ibot_loss(
                patch_logits,
                targets.patches,
                patches.weights,
                crops=len(batch.crops[0]),
                temperature=params.student_temperature,
            )
            loss = loss + params.ibot_weight * parts["ibot"]
        measured = self._head_measures(cls_logits[:GLOBAL_VIEWS], targets.cls) if state.measure else {}
        return _Made(HeadLosses(loss, parts, measured), tokens, targets.features)

    def _tiled_heads(self, batch: CropBatch, patches: PatchRows | None, state: StepState, tile_rows: int) -> _Made:
        """The same losses tile by tile."""
        params = self.params
        with torch.no_grad():
            rows = None if patches is None else patches.rows
            [teacher] = self.teacher.backbone.read_out(batch.crops[:1], [rows])
        tokens = self._student_tokens(batch, patches, state)
        heads = tiled_heads(
            self.student,
            self.teacher,
            (Readout(torch.cat([part.cls for part in tokens]), tokens[0].patches), teacher),
            (self.dino_centring, self.ibot_centring),
            None if patches is None else PatchWeights(patches.weights, patches.real, len(batch.crops[0])),
            HeadSettings(
                params.dino_weight,
                params.ibot_weight,
                params.student_temperature,
                state.teacher_temperature,
                tile_rows,
                state.measure,
            ),
            images=len(batch.ids),
        )
        return _Made(heads, tokens, teacher.cls)

    def _patch_rows(self, batch: CropBatch, state: StepState) -> PatchRows:
        """The masked patches of the global crops."""
        rows = batch.masks.flatten().nonzero().squeeze(1)
        crop = rows // batch.masks.shape[1]
        weights = 1.0 / batch.masks.sum(dim=1)[crop].float()
        return _padded(rows, weights)

    def _student_tokens(self, batch: CropBatch, patches: PatchRows | None, state: StepState) -> list[Readout]:
        """Tokens of all crops; masked and with stochastic depth."""
        masks = [None if patches is None else batch.masks, None][: len(batch.crops)]
        rng = DropPathRng(
            seed=state.seed,
            step=state.step,
            first=int(batch.positions[0]),
            images=len(batch.ids),
            group=self.params.drop_path_group,
        )
        return self.student.backbone.read_out(batch.crops, patch_rows(batch, patches), masks=masks, rng=rng)

    @torch.no_grad()
    def _targets(self, batch: CropBatch, patches: PatchRows | None, state: StepState) -> Targets:
        rows = None if patches is None else patches.rows
        [tokens] = self.teacher.backbone.read_out(batch.crops[:1], [rows])
        cls_logits, patch_logits = self.teacher.prototype_logits(tokens.cls, None if rows is None else tokens.patches)
        cls = self.dino_centring(cls_logits, state.teacher_temperature)
        patch_targets = None
        if patches is not None and patch_logits is not None:
            real = self.ibot_centring(patch_logits[: patches.real], state.teacher_temperature)
            padding = len(patch_logits) - patches.real
            patch_targets = torch.cat([real, real.new_zeros(padding, real.shape[1])]) if padding else real
        return Targets(cls.view(GLOBAL_VIEWS, -1, cls.shape[-1]), patch_targets, tokens.cls)

    def _koleo(self, cls: Float[Tensor, "crops width"], batch: CropBatch) -> Float[Tensor, ""]:
        """KoLeo of both global views, added, among the images of fixed groups of the global batch."""
        images, group = len(batch.ids), self.params.koleo_group
        aligned = images % group == 0 and int(batch.positions[0]) % group == 0
        return GLOBAL_VIEWS * koleo_loss(cls.view(-1, group if aligned else images, cls.shape[-1]))

    @torch.no_grad()
    def _head_measures(
        self, student_logits: Float[Tensor, "2 batch prototypes"], targets: Float[Tensor, "2 batch prototypes"]
    ) -> dict[str, Tensor]:
        teacher = targets.flatten(0, 1)
        student_probabilities = (student_logits.flatten(0, 1).float() / self.params.student_temperature).softmax(dim=-1)
        return {
            "teacher_entropy": measures.entropy(teacher),
            "student_entropy": measures.entropy(student_probabilities),
            "prototype_usage": measures.prototype_usage(teacher),
            "student_prototype_usage": measures.prototype_usage(student_probabilities),
        }

    @torch.no_grad()
    def _measures(self, student: Tensor, teacher: Float[Tensor, "crops width"]) -> dict[str, Tensor]:
        found = measures.of_features(teacher)
        if student.shape == teacher.shape:
            found["teacher_student_cosine"] = measures.teacher_student_cosine(student, teacher)
        return found

    def _learner_measures(self, student: Float[Tensor, "crops width"], batch: CropBatch) -> dict[str, Tensor]:
        """Measures of what learns, where the teacher does not follow it; here it does."""
        return {}


class DINOParams(DINOv2Params):
    """DINOv2 without iBOT and KoLeo."""

    ibot_weight: float = Field(default=0.0, ge=0, le=0, description="always 0: DINO has no iBOT loss")
    koleo_weight: float = Field(default=0.0, ge=0, description="weight of the KoLeo regulariser")


class DINOObjective(DINOv2Objective):
    """DINO (Caron et al. 2021): class tokens only, nothing is masked."""

    params_type: ClassVar[type[Params]] = DINOParams


def _padded(rows: Int[Tensor, " rows"], weights: Float[Tensor, " rows"]) -> PatchRows:
    count = len(rows)
    return PatchRows(rows, weights, count) if count else PatchRows(rows.new_zeros(1), weights.new_zeros(1), 0)


def patch_rows(batch: CropBatch, patches: PatchRows | None) -> list[Tensor | None]:
    """The patches to read out of each crop size: of the global crops only."""
    return [None if patches is None else patches.rows, None][: len(batch.crops)]
