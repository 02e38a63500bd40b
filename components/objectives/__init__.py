"""What is learnt: the zoo of objectives, one file per method."""

from components.objectives.base import Losses, Objective, StepState
from components.objectives.dinov2 import DINOObjective, DINOv2Objective

OBJECTIVES: dict[str, type[Objective]] = {"dinov2": DINOv2Objective, "dino": DINOObjective}
"""Objectives that pretraining can choose from, by name."""

__all__ = ["OBJECTIVES", "Losses", "Objective", "StepState"]
