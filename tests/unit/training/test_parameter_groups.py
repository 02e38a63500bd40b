import pytest
from torch import nn

from components.models.vit import ViTConfig
from components.objectives.branch import HeadParams
from components.objectives.dinov2 import DINOv2Objective, DINOv2Params
from components.training.parameter_groups import GroupParams, ParameterGroup, parameter_groups

HEAD = HeadParams(hidden=8, bottleneck=4, prototypes=6)
CONFIG = ViTConfig(image_size=8, patch_size=4, width=8, depth=2, heads=2, registers=1)


@pytest.fixture(scope="module")
def objective() -> nn.Module:
    return DINOv2Objective.build(CONFIG, DINOv2Params(dino_head=HEAD, ibot_head=HEAD), seed=0)


def group_of(groups: list[ParameterGroup], name: str) -> ParameterGroup:
    (found,) = [group for group in groups if name in group.parameters]
    return found


def test_every_trained_parameter_is_in_exactly_one_group_and_the_teacher_in_none(objective: nn.Module) -> None:
    groups = parameter_groups(objective.named_parameters(), GroupParams(layer_decay=0.9), depth=2)
    grouped = [name for group in groups for name in group.parameters]
    trained = [name for name, parameter in objective.named_parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trained)
    assert trained
    assert all(name.startswith("student.") for name in grouped)
    assert len({group.name for group in groups}) == len(groups)


@pytest.mark.parametrize(
    ("name", "decayed"),
    [
        ("backbone.embedding.projection.weight", True),
        ("backbone.embedding.projection.bias", False),
        ("backbone.embedding.cls_token", True),
        ("backbone.embedding.position", True),
        ("backbone.embedding.mask_token", True),
        ("backbone.embedding.registers", True),
        ("backbone.blocks.0.norm1.weight", False),
        ("backbone.blocks.0.scale1.gamma", False),
        ("backbone.blocks.1.ffn.fc1.weight", True),
        ("backbone.norm.weight", False),
        ("dino_head.mlp.0.weight", True),
        ("dino_head.mlp.0.bias", False),
    ],
)
def test_only_biases_norms_and_gains_escape_weight_decay(objective: nn.Module, name: str, decayed: bool) -> None:
    groups = parameter_groups(objective.named_parameters(), GroupParams(), depth=2)
    assert group_of(groups, f"student.{name}").decayed is decayed


def test_layer_decay_counts_from_the_top_and_the_patch_embedding_learns_slower(objective: nn.Module) -> None:
    params = GroupParams(layer_decay=0.5, patch_embedding_lr=0.2)
    groups = parameter_groups(objective.named_parameters(), params, depth=2)
    scales = {
        "backbone.embedding.projection.weight": 0.5**3 * 0.2,
        "backbone.embedding.cls_token": 0.5**3,
        "backbone.blocks.0.ffn.fc1.weight": 0.5**2,
        "backbone.blocks.1.ffn.fc1.weight": 0.5,
        "backbone.norm.weight": 1.0,
        "ibot_head.mlp.0.weight": 1.0,
    }
    assert {name: group_of(groups, f"student.{name}").lr_scale for name in scales} == pytest.approx(scales)


def test_prototypes_are_the_last_layer(objective: nn.Module) -> None:
    groups = parameter_groups(objective.named_parameters(), GroupParams(), depth=2)
    last = {name for group in groups if group.last_layer for name in group.parameters}
    assert last == {"student.dino_head.prototypes.weight", "student.ibot_head.prototypes.weight"}
