"""Counted weights against real modules, and against the sizes that were published."""

import pytest
from planned import distill, pretrain

from components.models.presets import vit_config
from components.objectives.branch import Branch
from components.objectives.distillation import DistillationObjective
from components.training.planning.inventory import Inventory
from components.training.pretrain import build


def test_the_weights_of_pretraining_are_those_of_the_real_objective() -> None:
    params = pretrain()
    real = build(params)
    found = Inventory.of_pretraining(params)
    assert found == Inventory.of(real)
    assert found.parts["student", "backbone"] == sum(
        p.numel() for p in real.get_submodule("student.backbone").parameters()
    )
    assert found.trained == found.frozen == found.averaged


def test_the_weights_of_distillation_are_those_of_the_real_objective() -> None:
    params, teacher = distill(), pretrain()
    branch = build(teacher).get_submodule("teacher")
    assert isinstance(branch, Branch)
    real = DistillationObjective.from_teacher(params.model, params.objective, teacher=branch, seed=0)
    found = Inventory.of_distillation(params, teacher)
    assert found == Inventory.of(real)
    assert found.averaged == found.parts["student", "backbone"] == found.parts["spare", "backbone"]


@pytest.mark.parametrize(("size", "published"), [("S", 21e6), ("B", 86e6), ("L", 300e6), ("g", 1.1e9)])
def test_a_backbone_has_the_published_number_of_weights(size: str, published: float) -> None:
    params = pretrain(
        model=vit_config(size).model_dump(), views={"global_size": 224, "local_size": 98, "local_crops": 8}
    )
    assert Inventory.of_pretraining(params).parts["student", "backbone"] == pytest.approx(published, rel=0.04)
