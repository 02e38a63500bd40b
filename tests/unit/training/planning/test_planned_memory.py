"""What a forward pass keeps, planned against what autograd saves while the real objective runs."""

from typing import Any

import pytest
import torch
from planned import CASES, HEAD, MODEL, PRETRAIN, STATE, VIEWS, batch_of, pretrain, with_patch_rows
from torch.autograd.graph import saved_tensors_hooks

from components.training.engine_config import EngineParams
from components.training.planning.inventory import Inventory
from components.training.planning.memory import memory, saved_by_backbone, saved_by_heads
from components.training.planning.workload import pretraining
from components.training.pretrain import PretrainParams, build

IMAGES = 4
TOLERANCE = 0.02
LARGE = {"image_size": 48}
"""145 tokens: above 128 the attention of a CPU is a flash kernel in fp32 too, as on a GPU."""

LARGE_HEADS = {"objective": {"dino_head": {**HEAD, "prototypes": 8192}, "ibot_head": {**HEAD, "prototypes": 6144}}}
"""As in real training, where logits are much of the memory."""


def enlarged(case: dict[str, Any]) -> PretrainParams:
    views = {**VIEWS, **case.get("views", {}), "global_size": 48, "local_size": 24}
    objective = {**PRETRAIN["objective"], **case.get("objective", {}), "koleo_group": IMAGES, "drop_path_group": IMAGES}
    changes = {**case, "model": {**MODEL, **case.get("model", {}), **LARGE}, "views": views, "objective": objective}
    return pretrain(**changes, batch_size=IMAGES)


def saved_bytes(params: PretrainParams) -> tuple[int, float]:
    """Distinct memory that autograd holds after a forward pass, weights apart, and the masked patches of an image."""
    objective, batch = build(params), batch_of(params, IMAGES)
    own = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        objective(batch=batch, state=STATE)
    return sum(storage.nbytes() for storage in kept.values()), int(batch.masks.sum()) / IMAGES


@pytest.mark.parametrize("case", [*CASES, "large heads"])
def test_activations_heads_and_losses_keep_what_autograd_saves(case: str) -> None:
    params = enlarged(CASES.get(case, LARGE_HEADS))
    found, rows = saved_bytes(params)
    student = with_patch_rows(pretraining(params), 0.0 if "no iBOT" in case else rows).student
    planned = IMAGES * saved_by_backbone(student, 4) + saved_by_heads(student, 4, IMAGES)
    assert planned == pytest.approx(found, rel=TOLERANCE)


@pytest.mark.parametrize("gpus", [2, 8])
def test_zero3_divides_what_stays_by_the_number_of_gpus(gpus: int) -> None:
    params = pretrain()
    inventory, work = Inventory.of_pretraining(params), pretraining(params)
    engine = EngineParams(precision="bf16")
    one, several = (memory(inventory, work, engine, gpus=count, images=4) for count in (1, gpus))
    assert several.optimizer == one.optimizer / gpus
    assert several.averages == one.averages / gpus
    assert (several.activations, several.heads) == (one.activations, one.heads)
