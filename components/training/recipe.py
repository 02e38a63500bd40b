"""The parameters that pretraining and distillation share."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from components.data.masking import MaskParams
from components.data.views import ViewParams
from components.errors import UserError
from components.imagenet import IMAGENET_MEAN, IMAGENET_STD
from components.models.preprocess import Preprocess, usual_resize
from components.models.vit import ViTConfig
from components.parameters import Params
from components.training.clipping import ClipParams
from components.training.engine_config import EngineParams
from components.training.health import HealthParams
from components.training.parameter_groups import GroupParams
from components.training.phases import Phase
from components.training.schedules import Schedule, ScheduleParams, Schedules

NOT_MATHEMATICS: dict[str, Any] = {
    "epochs": True,
    "steps": True,
    "log_every": True,
    "checkpoint": True,
    "health": True,
    "engine": {"zero_stage", "micro_batch", "persistence_threshold", "bucket", "activation_checkpointing", "compile"},
    "objective": {"tile_rows"},
}
"""Parameters that another machine or a longer run may change: recorded in checkpoints, not part of their key."""

IMAGE_CHANNELS = 3
"""Of every crop; a backbone may have others, once a source gives them."""


class CheckpointParams(Params):
    """When checkpoints are written."""

    seconds: float = Field(default=60.0, gt=0, description="seconds between two checkpoints")
    keep: int = Field(default=2, ge=1, description="how many are kept")


class TrainingParams(Params):
    """A training run: data, model, optimisation, bookkeeping."""

    seed: int = Field(default=0, ge=0, description="seed of weights, order, crops, masks and dropped samples")
    epochs: float | None = Field(default=None, gt=0, description="passes over the images; or give steps")
    steps: int | None = Field(default=None, gt=0, description="optimizer steps; or give epochs")
    batch_size: int = Field(default=64, description="images of a step, over all processes and micro-batches")
    model: ViTConfig = Field(description="architecture of the trained backbone")
    views: ViewParams = Field(default=ViewParams(), description="crops and augmentation")
    masks: MaskParams = Field(default=MaskParams(), description="masked patches")
    schedule: ScheduleParams = Field(default=ScheduleParams(), description="learning rate and its companions")
    groups: GroupParams = Field(default=GroupParams(), description="differences between parameters")
    clip: ClipParams = Field(default=ClipParams(), description="bound of the gradient")
    engine: EngineParams = Field(default=EngineParams(), description="sharding and precision")
    health: HealthParams = Field(default=HealthParams(), description="when to go back, and when to give up")
    checkpoint: CheckpointParams = Field(default=CheckpointParams(), description="checkpoints")
    resize: int | None = Field(
        default=None,
        gt=0,
        description="shorter side before the centre crop in evaluation, pixels; "
        "null: 8/7 of image_size where that is 128 or more",
    )
    log_every: int = Field(default=10, gt=0, description="steps between two rows of metrics")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size {self.batch_size} must be at least 2: one image has no neighbour to differ from"
            )
        check_sizes(self.views, self.model.patch_size, where="views")
        if self.model.channels != IMAGE_CHANNELS:
            raise ValueError(
                f"model.channels {self.model.channels} must be {IMAGE_CHANNELS}: crops are red, green and blue"
            )
        if self.resize is not None and self.resize < self.model.image_size:
            raise ValueError(
                f"resize {self.resize} must be at least model.image_size {self.model.image_size}, its centre"
            )
        if self.engine.precision == "bf16" and self.engine.zero_stage == 0:
            raise ValueError("engine.zero_stage 0 keeps no fp32 weights for precision bf16: take 1, 2 or 3")
        return self

    def total_steps(self, images: int) -> int:
        """Optimizer steps of the run on so many images."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * images / self.batch_size))

    def phases(self, total: int) -> list[Phase]:
        """What the crops are in which of so many steps."""
        return [Phase(0, total, self.views)]

    def schedules(self, total: int) -> Schedule:
        """Learning rate and its companions over so many steps."""
        return Schedules(self.schedule, total, self.batch_size)

    def share(self, processes: int) -> int:
        """Images of one process and step.

        Raises:
            UserError: if the batch cannot be divided as asked for, or would give another loss than one process.
        """
        share, micro = self.batch_size // processes, self.engine.micro_batch
        if self.batch_size % processes or share < 2:
            raise UserError(
                f"batch_size {self.batch_size} on {processes} processes",
                remedy=f"take a multiple of {processes}, at least {2 * processes}, or set SELFSIGHT_PROCESSES",
            )
        if micro is not None and share % micro:
            raise UserError(
                f"engine.micro_batch {micro} does not divide the {share} images of a process",
                remedy=f"take a divisor of {share}, or null",
            )
        if self.engine.compile and self.engine.zero_stage == 3 and processes > 1:
            raise UserError(
                "engine.compile with engine.zero_stage 3 on several processes, where each layer first gathers its "
                "weights: nothing is left to fuse",
                remedy="set engine.compile to false, or engine.zero_stage to 2",
            )
        self._check_groups(micro or share)
        return share

    def prototypes(self) -> int | None:
        """Columns of the head that the health measures look at, if there is one."""
        return None

    def batch_groups(self) -> dict[str, int]:
        """Sizes of the groups of images that the objective looks at together, by key."""
        return {}

    def _check_groups(self, images: int) -> None:
        """Whether groups are the same as in one process and one forward pass.

        There, a size that does not divide the batch makes the whole batch one group. Parts of a batch cannot know its
        other images: a size that divides a part divides the batch too, and no other gives the same loss.

        Args:
            images: of one forward pass.
        """
        if images == self.batch_size:
            return
        for key, size in self.batch_groups().items():
            if images % size:
                best = max((one for one in range(2, size) if images % one == 0), default=images)
                raise UserError(
                    f"{key} {size} does not divide the {images} images of one forward pass "
                    f"(batch_size {self.batch_size} over all processes and micro-batches)",
                    remedy=f"set it to {best}, or give a forward pass a multiple of {size} images",
                )

    def preprocess(self) -> Preprocess:
        """How images are prepared for the trained backbone."""
        size = self.model.image_size
        resize = self.resize or usual_resize(size)
        return Preprocess(image_size=size, resize=resize, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def mathematics(self) -> dict[str, Any]:
        """The parameters that decide what is computed, as plain JSON values."""
        return self.model_dump(mode="json", exclude=NOT_MATHEMATICS)


def check_sizes(views: ViewParams, patch_size: int, *, where: str) -> None:
    """Whether patches fill the crops.

    Raises:
        ValueError: naming the key below `where`.
    """
    for name in ("global_size", "local_size"):
        size = getattr(views, name)
        used = name == "global_size" or views.local_crops > 0
        if used and size % patch_size:
            raise ValueError(f"model.patch_size {patch_size} must divide {where}.{name} {size}")


def run_key(name: str, params: TrainingParams, ids: list[str], upstream: str = "") -> str:
    """Key of the checkpoints of a run: its name, and a hash of its images and of the parameters that matter.

    Args:
        name: of the stage.
        params: all parameters.
        ids: images to train on, in any order.
        upstream: hash of what else the run starts from (the teacher of a distillation).
    """
    digest = hashlib.sha256()
    for part in (json.dumps(params.mathematics(), sort_keys=True), upstream, *sorted(ids)):
        digest.update(part.encode() + b"\0")
    return f"{name}-{digest.hexdigest()[:16]}"


def resumable(state: Mapping[str, Any], *, total_steps: int, code: str, health: Mapping[str, Any]) -> bool:
    """Whether a run may go on from a checkpoint.

    An interrupted run may, also with mended code or another length. One that was completed may not, unless it would
    be the same again (it was killed before its outs were kept): its schedules have ended, and what a changed code
    would give is not known.

    Args:
        state: `state.json` of the checkpoint.
        total_steps: of the run that wants to go on.
        code: `code_digest` of its code.
        health: its section `health`, which decides what was passed over.
    """
    if state["step"] >= state["total_steps"]:
        same = (state["total_steps"], state["code"], state["health_params"]) == (total_steps, code, health)
        return bool(same)
    return bool(state["step"] <= total_steps)


def code_digest() -> str:
    """SHA-256 of the sources that decide what training computes."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for package in ("data", "models", "objectives", "training"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()
