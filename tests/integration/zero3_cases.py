"""What `run_ranks` runs on each process; a module of its own, because DeepSpeed is imported here."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.training.checkpoint import CheckpointStore
from components.training.clipping import ClipParams, GradientNorms
from components.training.ema import MovingAverage, gather_piece
from components.training.engine import Engine, join_processes
from components.training.engine_config import EngineParams
from components.training.parameter_groups import GroupParams, parameter_groups
from components.training.training_state import TrainingState
from tests.integration.pair import BATCH, CLIP, MOMENTUM, VALUES, Pair, batch_of

PERSISTENT = 10**9
STEPS = 50
FEW_STEPS = 15


class Trainer:
    """An engine and its average."""

    def __init__(self, **params: Any) -> None:
        module = Pair()
        groups = parameter_groups(module.named_parameters(), GroupParams(), depth=1)
        share = BATCH // dist.get_world_size()
        self.engine = Engine(module, groups, EngineParams(**params), images=share, device="cpu")
        self.average = MovingAverage(self.engine.layout, self.engine.shards, module.ema_pairs())
        self.norms = GradientNorms([shard.name for shard in self.engine.shards], ClipParams(max_norm=CLIP))

    def step(self, number: int, *, poisoned_rank: int | None = None) -> tuple[float, float]:
        """One step, clipped; loss and mean output of the teacher over processes."""
        mine = batch_of(number).chunk(dist.get_world_size())[dist.get_rank()]
        means = torch.zeros(2, dtype=torch.float64)
        parts = mine.chunk(self.engine.micro_batches)
        for micro, part in enumerate(parts):
            result = self.engine.forward(x=part)
            loss = result.loss * torch.nan if poisoned_rank == dist.get_rank() else result.loss
            self.engine.backward(loss, last=micro + 1 == len(parts))
            means += torch.stack([result.loss.detach(), result.teacher]).double() / len(parts)
        dist.all_reduce(means)
        gradients = self.engine.gradients()
        squares = self.norms.squares(gradients)
        dist.all_reduce(squares)
        if self.engine.layout.replicated:
            squares /= dist.get_world_size()
        if squares.isfinite().all():
            self.norms.clip(gradients, squares.sqrt())
            self.engine.step(VALUES)
            self.average.update(MOMENTUM)
        else:
            self.engine.skip()
        loss, teacher = (means / dist.get_world_size()).tolist()
        return loss, teacher

    def whole(self) -> dict[str, Tensor]:
        """Every weight, moment and average, whole, on process 0."""
        replicated = self.engine.layout.replicated
        found = {}
        for shard in self.engine.shards:
            found[shard.name] = gather_piece(shard, shard.weight, replicated=replicated)
            for name, moment in shard.moments.items():
                found[f"{name}/{shard.name}"] = gather_piece(shard, moment, replicated=replicated)
        found |= dict(self.average.gather())
        return {name: value for name, value in found.items() if value is not None}

    def state(self, folder: Path) -> TrainingState:
        return TrainingState(self.engine, self.average, CheckpointStore(folder))


def follow(steps: int = FEW_STEPS, **params: Any) -> dict[str, Any]:
    """Trains for a while."""
    trainer = Trainer(**params)
    curve = [trainer.step(number) for number in range(steps)]
    module = trainer.engine.module
    return {"curve": curve, "whole": trainer.whole(), "centre": module.get_buffer("centre")}


def exact_average_of_bf16() -> dict[str, Tensor]:
    """The average beside an average of the fp32 weights made here, on this process's shards."""
    trainer = Trainer(precision="bf16")
    expected = {shard.name: shard.weight.clone() for shard in trainer.engine.shards}
    for number in range(FEW_STEPS):
        trainer.step(number)
        for shard in trainer.engine.shards:
            expected[shard.name].lerp_(shard.weight, 1 - MOMENTUM)
    averages = trainer.average.averages
    error = [(averages[n.replace("student", "teacher")] - e).abs().max().item() for n, e in expected.items() if len(e)]
    names = list(trainer.average.shards)
    module_sees = [trainer.engine.layout.piece(name, trainer.average.shards[name]) for name in names]
    cast = [torch.equal(seen, averages[name].bfloat16()) for seen, name in zip(module_sees, names, strict=True)]
    return {"error": torch.tensor(error), "cast": torch.tensor(cast)}


def skip_a_step(**params: Any) -> dict[str, Any]:
    """A step in which the loss of the last process alone is not a number, and the steps after it."""
    trainer = Trainer(**params)
    trainer.step(0)
    before, steps = trainer.whole(), trainer.engine.optimizer_steps
    trainer.step(1, poisoned_rank=dist.get_world_size() - 1)
    after, steps_after = trainer.whole(), trainer.engine.optimizer_steps
    trainer.step(2)
    straight = Trainer(**params)
    straight.step(0)
    straight.step(2)
    return {
        "before": before, "after": after, "steps": (steps, steps_after),
        "went on": trainer.whole(), "never saw it": straight.whole(),
    }  # fmt: skip


def save_and_go_on(folder: Path) -> dict[str, Any]:
    """Trains, saves, trains on; the same again from the checkpoint; and what a checkpoint of others holds."""
    trainer = Trainer()
    for number in range(5):
        trainer.step(number)
    here = folder / f"world-{dist.get_world_size()}"
    trainer.engine.module.get_buffer("centre").fill_(0.25)
    trainer.state(here).save(5, {"note": "kept"})
    saved = trainer.whole()
    curve = [trainer.step(number) for number in range(5, 10)]
    again = Trainer()
    loaded = again.state(here).load(here / "step-00000005")
    restored = again.whole()
    centre = again.engine.module.get_buffer("centre").clone()
    for number in range(5, 10):
        again.step(number)
    found: dict[str, Any] = {
        "saved": saved, "restored": restored, "centre": centre, "values": loaded,
        "straight": trainer.whole(), "resumed": again.whole(), "curve": curve,
    }  # fmt: skip
    return found


def go_on_from(other: Path) -> dict[str, Any]:
    """Trains on from the checkpoint of another number of processes."""
    elastic = Trainer()
    elastic.state(other).load(other / "step-00000005")
    restored = elastic.whole()
    curve = [elastic.step(number) for number in range(5, 10)]
    return {"restored": restored, "resumed": elastic.whole(), "curve": curve}


def cases(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """All, by name, for any number of processes."""
    yield "stage 3", lambda: follow(STEPS)
    yield "stage 3, nothing persistent", lambda: follow(persistence_threshold=0)
    yield "stage 3, all persistent", lambda: follow(persistence_threshold=PERSISTENT)
    yield "stage 3, micro-batches", lambda: follow(micro_batch=3)
    for stage in (0, 1, 2):
        yield f"stage {stage}", lambda stage=stage: follow(zero_stage=stage)
    for stage in (1, 2, 3):
        yield f"bf16 stage {stage}", lambda stage=stage: follow(zero_stage=stage, precision="bf16")
    yield "exact average", exact_average_of_bf16
    for stage in (0, 1, 2, 3):
        yield f"skip stage {stage}", lambda stage=stage: skip_a_step(zero_stage=stage)
    yield "skip bf16", lambda: skip_a_step(precision="bf16")
    yield "checkpoint", lambda: save_and_go_on(folder)


def main() -> None:
    """Runs every case, or goes on from given checkpoints, and leaves the results of this process."""
    folder, *others = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    join_processes("cpu")
    own = cases(folder) if not others else ((other.name, lambda other=other: go_on_from(other)) for other in others)
    results = {name: case() for name, case in own}
    name = "elastic" if others else "results"
    torch.save(results, folder / f"{name}-{dist.get_world_size()}-{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
