"""What every objective of the zoo offers to the training loop."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from jaxtyping import Float
from torch import Tensor, nn

from components.data.batch import CropBatch
from components.models.vit import ViTConfig
from components.parameters import Params


@dataclass(frozen=True)
class StepState:
    """What an objective needs to know of the step.

    Attributes:
        step: optimizer step.
        seed: seed of the run.
        teacher_temperature: temperature of the teacher's softmax, from its schedule.
        measure: also compute the health measures that cost something.
    """

    step: int
    seed: int
    teacher_temperature: float
    measure: bool = False


class Losses(NamedTuple):
    """Loss of a step and what it is made of.

    The mean of `loss` over processes with equal local batches is the loss of the global batch. A named tuple, because
    DeepSpeed looks for tensors in tuples and dictionaries only.

    Attributes:
        loss: scalar to differentiate.
        parts: detached scalars of this process: loss terms and health measures.
    """

    loss: Float[Tensor, ""]
    parts: dict[str, Tensor]


class Objective(nn.Module, ABC):
    """A training objective: all modules of a step, under one engine.

    Call `forward` once for each micro-batch, then `commit` after a finite optimizer step or `reject` otherwise: only
    then do centres change. Pass `batch` and `state` by keyword (DeepSpeed warns of positional arguments it cannot
    look into).
    """

    params_type: ClassVar[type[Params]]
    result: ClassVar[str]
    """Prefix of the module whose `backbone` (and heads) training is for, for example `teacher`."""

    @classmethod
    @abstractmethod
    def build(cls, config: ViTConfig, params: Params, *, seed: int) -> Self:
        """Make the objective with initial weights drawn from the seed."""

    @abstractmethod
    def forward(self, batch: CropBatch, state: StepState) -> Losses:
        """Compute the loss of a micro-batch."""

    @abstractmethod
    def ema_pairs(self) -> list[tuple[str, str]]:
        """(source, average) names of the parameters that follow others as a moving average."""

    def commit(self) -> None:
        """Apply the pending changes of centres; call after a finite step."""

    def reject(self) -> None:
        """Forget the pending changes of centres; call when the step was skipped."""
