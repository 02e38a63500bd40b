"""The objective under the engine, in every way it can be computed; what `run_ranks` runs on each process."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from components.data.batch import CropBatch
from components.data.masking import draw_masks
from components.objectives import StepState
from components.training.clipping import GradientNorms
from components.training.ema import MovingAverage, gather_piece
from components.training.engine import Engine, join_processes
from components.training.fast_path import checkpoint_activations
from components.training.parameter_groups import parameter_groups
from components.training.pretrain import PretrainParams, build
from tests.tiny_training import HEAD, PRETRAIN

STEPS = 2
BATCH = 8


def batch_of(params: PretrainParams, step: int, first: int, count: int) -> CropBatch:
    """Some images of a global batch of noise."""
    generator = torch.Generator().manual_seed(step)
    sizes = ((2, params.views.global_size), (params.views.local_crops, params.views.local_size))
    crops = [torch.randn(views, BATCH, 3, size, size, generator=generator) for views, size in sizes]
    grid = params.views.global_size // params.model.patch_size
    masks = draw_masks(params.masks, seed=0, step=step, crops=2 * BATCH, grid=grid).view(2, BATCH, -1)
    mine = slice(first, first + count)
    return CropBatch(
        [part[:, mine].flatten(0, 1) for part in crops],
        masks[:, mine].flatten(0, 1),
        tuple(str(i) for i in range(first, first + count)),
        torch.arange(first, first + count),
        step,
    )


class PlainAdamW(torch.optim.AdamW):
    """Weight after weight, as the formulas say."""

    def __init__(self, *groups: Any, **options: Any) -> None:
        super().__init__(*groups, **{**options, "fused": False, "foreach": False})


def train(**changes: Any) -> dict[str, Any]:
    """A few steps; the losses of all processes and the whole weights and averages on process 0."""
    # KoLeo would divide by the distances of features that are next to equal at the start, and blow up any rounding
    objective = {**PRETRAIN["objective"], "koleo_weight": 0.0, **changes.pop("objective", {})}
    params = PretrainParams.model_validate({**PRETRAIN, **changes, "objective": objective})
    module = build(params)
    groups = parameter_groups(module.named_parameters(), params.groups, depth=params.model.depth)
    share = BATCH // dist.get_world_size()
    checkpoint_activations(module, params.engine)
    engine = Engine(module, groups, params.engine, images=share, device="cpu")
    average = MovingAverage(engine.layout, engine.shards, module.ema_pairs())
    norms = GradientNorms([shard.name for shard in engine.shards], params.clip)
    curve = []
    for step in range(STEPS):
        count = share // engine.micro_batches
        total = torch.zeros(())
        for micro in range(engine.micro_batches):
            batch = batch_of(params, step, dist.get_rank() * share + micro * count, count)
            losses = engine.forward(batch=batch, state=StepState(step, seed=0, teacher_temperature=0.05, measure=True))
            engine.backward(losses.loss, last=micro + 1 == engine.micro_batches)
            total += losses.loss.detach() / engine.micro_batches / dist.get_world_size()
        dist.all_reduce(total)
        gradients = engine.gradients()
        squares = norms.squares(gradients)
        dist.all_reduce(squares)
        norms.clip(gradients, squares.sqrt())
        engine.step(params.schedules(100).at(step + 20))
        average.update(0.9)
        module.commit()
        curve.append(torch.cat([total[None].double(), squares.sqrt()]))
    whole = {shard.name: gather_piece(shard, shard.weight, replicated=False) for shard in engine.shards}
    whole |= dict(average.gather())
    whole |= {name: value.clone() for name, value in module.named_buffers()}
    return {"curve": torch.stack(curve), "whole": {name: value for name, value in whole.items() if value is not None}}


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each plain way followed by those that must equal it."""
    gathered = {"persistence_threshold": 0}
    for centring, heads in (("softmax", "separate"), ("sinkhorn", "shared")):
        objective = {"centring": centring, "ibot_head": HEAD if heads == "separate" else None}
        yield f"plain {centring} {heads}", {"objective": objective, "engine": gathered}
        yield f"tiled {centring} {heads}", {"objective": {**objective, "tile_rows": 6}, "engine": gathered}
    yield "checkpointed softmax separate", {"engine": {**gathered, "activation_checkpointing": True}}
    tiles = {"tile_rows": 6}
    yield "tiled and checkpointed", {"objective": tiles, "engine": {**gathered, "activation_checkpointing": True}}
    yield "default hooks", {}
    yield "default hooks, checkpointed", {"engine": {"activation_checkpointing": True}}
    for precision in ("plain", "tiled"):
        objective = {"tile_rows": None if precision == "plain" else 6}
        yield f"bf16 {precision}", {"objective": objective, "engine": {"precision": "bf16"}}
    yield "micro-batches", {"engine": {"micro_batch": 4 if dist.get_world_size() == 1 else 2}}
    yield "micro-batches, tiled", {
        "engine": {"micro_batch": 4 if dist.get_world_size() == 1 else 2}, "objective": tiles,
    }  # fmt: skip


def main() -> None:
    """Runs every case and leaves the results of this process."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    join_processes("cpu")
    results = {name: train(**changes) for name, changes in cases()}
    with patch.object(torch.optim, "AdamW", PlainAdamW):
        results["plain AdamW"] = train()
    torch.save(results, folder / f"results-{dist.get_world_size()}-{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
