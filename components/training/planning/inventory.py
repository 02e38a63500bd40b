"""How many weights there are and what becomes of them, counted on the objective itself, which takes no memory here."""

from collections import Counter
from dataclasses import dataclass
from typing import Self

import torch

from components.objectives import Objective
from components.objectives.branch import Branch
from components.objectives.distillation import DistillationObjective
from components.training.distill import DistillParams
from components.training.pretrain import PretrainParams, build

BACKBONE = "backbone"


@dataclass(frozen=True)
class Inventory:
    """Numbers of weights.

    Attributes:
        parts: by (branch, part), such as `("student", "dino_head")`.
        trained: weights that the optimizer changes.
        frozen: weights that it does not: teacher and averages.
        averaged: weights that follow others as a moving average.
    """

    parts: dict[tuple[str, str], int]
    trained: int
    frozen: int
    averaged: int

    @classmethod
    def of_pretraining(cls, params: PretrainParams) -> Self:
        """Of pretraining."""
        with torch.device("meta"):
            return cls.of(build(params))

    @classmethod
    def of_distillation(cls, params: DistillParams, teacher: PretrainParams) -> Self:
        """Of distillation from the teacher that a pretraining gives."""
        with torch.device("meta"):
            branch = build(teacher).get_submodule("teacher")
            assert isinstance(branch, Branch)
            return cls.of(
                DistillationObjective.from_teacher(params.model, params.objective, teacher=branch, seed=params.seed)
            )

    @classmethod
    def of(cls, objective: Objective) -> Self:
        """Of an objective."""
        parts: Counter[tuple[str, str]] = Counter()
        named = dict(objective.named_parameters())
        for name, parameter in named.items():
            branch, part, *_ = name.split(".")
            parts[branch, part] += parameter.numel()
        trained = sum(parameter.numel() for parameter in named.values() if parameter.requires_grad)
        return cls(
            parts=dict(parts),
            trained=trained,
            frozen=sum(parts.values()) - trained,
            averaged=sum(named[average].numel() for _, average in objective.ema_pairs()),
        )
