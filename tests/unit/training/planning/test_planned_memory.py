"""What a forward pass keeps, planned against what autograd saves while the real objective runs."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from planned import CASES, HEAD, MODEL, PRETRAIN, STATE, VIEWS, batch_of, pretrain, with_patch_rows
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from components.models import vit
from components.training.engine_config import EngineParams
from components.training.fast_path import checkpoint_activations
from components.training.planning.inventory import Inventory
from components.training.planning.memory import (
    memory,
    saved_by_backbone,
    saved_by_heads,
    transient_in_heads,
)
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


def graph_of(loss: torch.Tensor) -> set[Any]:
    """All nodes that the backward pass goes through."""
    found: set[Any] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [before for before, _ in node.next_functions]
    return found


def saved_bytes(params: PretrainParams) -> tuple[int, float]:
    """Distinct memory that autograd holds after a forward pass, weights apart, and the masked patches of an image.

    What is kept out of autograd's sight counts, too: inputs of blocks that are computed again, gradients of tiles.
    """
    objective, batch = build(params), batch_of(params, IMAGES)
    checkpoint_activations(objective, params.engine)
    own = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    def again(call: Callable[..., torch.Tensor], packed: torch.Tensor, **options: Any) -> torch.Tensor:
        return checkpoint(call, pack(packed), **options)

    with saved_tensors_hooks(pack, lambda tensor: tensor), patch.object(vit, "checkpoint", again):
        losses = objective(batch=batch, state=STATE)
    for node in graph_of(losses.loss):
        for gradient in getattr(node, "gradients", ()):
            pack(gradient)
    return sum(storage.nbytes() for storage in kept.values()), int(batch.masks.sum()) / IMAGES


@pytest.mark.parametrize("case", [*CASES, "large heads"])
def test_activations_heads_and_losses_keep_what_autograd_saves(case: str) -> None:
    params = enlarged(CASES.get(case, LARGE_HEADS))
    found, rows = saved_bytes(params)
    student = with_patch_rows(pretraining(params, params.views), 0.0 if "no iBOT" in case else rows).student
    planned = IMAGES * saved_by_backbone(student, 4) + saved_by_heads(student, 4, IMAGES)
    assert planned == pytest.approx(found, rel=TOLERANCE)


@pytest.mark.parametrize("case", ["one head, MLP", "stochastic depth, no LayerScale"])
def test_activation_checkpointing_keeps_the_inputs_of_blocks_and_needs_one_whole_block(case: str) -> None:
    params = enlarged(CASES[case])
    deeper = params.model_copy(update={"model": params.model.model_copy(update={"depth": params.model.depth + 1})})
    block = saved_bytes(deeper)[0] - saved_bytes(params)[0]
    again = params.model_copy(update={"engine": EngineParams(activation_checkpointing=True)})
    found, rows = saved_bytes(again)
    student = with_patch_rows(pretraining(again, again.views), rows).student
    planned = IMAGES * saved_by_backbone(student, 4) + saved_by_heads(student, 4, IMAGES)
    assert planned == pytest.approx(found + block, rel=TOLERANCE)


@pytest.mark.parametrize("case", ["one head, MLP", "large heads"])
def test_tiles_keep_gradients_instead_of_logits(case: str) -> None:
    params = enlarged(CASES.get(case, LARGE_HEADS))
    tiled = params.model_copy(update={"objective": params.objective.model_copy(update={"tile_rows": 16})})
    found, rows = saved_bytes(tiled)
    student = with_patch_rows(pretraining(tiled, tiled.views), rows).student
    planned = IMAGES * saved_by_backbone(student, 4) + saved_by_heads(student, 4, IMAGES)
    assert planned == pytest.approx(found, rel=TOLERANCE)
    assert transient_in_heads(student, 4, 256) == transient_in_heads(student, 4, 512), (
        "a tile does not grow with the batch"
    )


@pytest.mark.parametrize("gpus", [2, 8])
def test_zero3_divides_what_stays_by_the_number_of_gpus(gpus: int) -> None:
    params = pretrain()
    inventory, work = Inventory.of_pretraining(params), pretraining(params, params.views)
    engine = EngineParams(precision="bf16")
    one, several = (memory(inventory, work, engine, gpus=count, images=4) for count in (1, gpus))
    assert several.optimizer == one.optimizer / gpus
    assert several.averages == one.averages / gpus
    assert (several.activations, several.heads) == (one.activations, one.heads)
