"""What a checkpoint holds, and how it is put back, on the same or on another number of processes.

Each process writes its shards: weights, Adam's moments and averages by parameter name, unpadded, with the place of
each piece in the flattened parameter. A reader therefore needs no knowledge of who wrote: it copies the overlap of
every stored piece with its own. Process 0 adds the buffers (centres) and `state.json`.
"""

import errno
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.errors import UserError
from components.training.checkpoint import STATE, CheckpointError, CheckpointStore, read_state, write_durably
from components.training.ema import MovingAverage
from components.training.engine import Engine
from components.training.layouts import MOMENTS, Shard
from components.training.mirror import Mirror
from components.training.tensor_files import write_tensors

FORMAT = 1
BUFFERS = "buffers.safetensors"
RNG = "rng"
_PIECES = "pieces"
T = TypeVar("T")


class TrainingState:
    """The tensors of a run and their checkpoints.

    Args:
        engine: trained weights and moments.
        average: their averages.
        store: where checkpoints are.
        mirror: makes copies of them, on process 0; None: there are none.
    """

    def __init__(
        self, engine: Engine, average: MovingAverage, store: CheckpointStore, mirror: Mirror | None = None
    ) -> None:
        self._engine = engine
        self._average = average
        self._store = store
        self._mirror = mirror

    def save(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes a checkpoint at a step boundary. A collective.

        Args:
            step: steps done.
            values: JSON values beside the tensors, those of process 0.

        Raises:
            UserError: on every process, if a disk is full; earlier checkpoints are untouched.
        """
        first = dist.get_rank() == 0
        try:
            _together(lambda: self._store.begin(step) if first else None)
            digests: dict[str, str] = {}
            for part in _together(lambda: self._write_files(self._store.partial(step), step, values)):
                digests.update(part)
            folder, *_ = _together(lambda: self._store.commit(step, digests) if first else None)
        except (UserError, RuntimeError):
            if first:
                self._store.abandon(step)
            raise
        if self._mirror is not None and folder is not None:
            self._mirror.put(folder)

    def newest(self, accept: Callable[[dict[str, Any]], bool]) -> Path | None:
        """The newest checkpoint that verifies, if its `state.json` is accepted."""
        found = self._store.newest()
        return found if found is not None and accept(read_state(found)) else None

    def newest_before(self, step: int) -> Path | None:
        """The newest checkpoint that verifies and does not hold a step or any after it. A collective."""
        chosen: list[Path | None] = [None]
        if dist.get_rank() == 0:
            chosen[0] = self._store.newest(at_most=step)
        dist.broadcast_object_list(chosen)
        return chosen[0]

    def start_at(self, step: int) -> None:
        """Removes the checkpoints above the step at which a run starts, on process 0, before its first `save`.

        Args:
            step: of the checkpoint that was loaded; 0: the run starts anew.
        """
        if dist.get_rank() == 0:
            self._store.discard_above(step)
        if self._mirror is not None:
            self._mirror.start_at(step)

    def load(self, folder: Path) -> dict[str, Any]:
        """Puts a verified checkpoint back. A collective.

        Returns:
            The values given to `save`, with `step`.

        Raises:
            CheckpointError: if it belongs to another model.
        """
        state = read_state(folder)
        if state.get("format") != FORMAT:
            raise CheckpointError(f"format {state.get('format')} is unknown to this version")
        pieces = StoredPieces(sorted(folder.glob("shard-*.safetensors")))
        for prefix, shard, tensor in self._tensors():
            pieces.read(f"{prefix}/{shard.name}", shard.start, tensor)
        self._engine.optimizer_steps = state["optimizer_steps"]
        self._engine.publish_weights()
        for (prefix, name), (shard, tensor) in self._averages().items():
            pieces.read(f"{prefix}/{name}", shard.start, tensor)
        self._average.publish()
        load_buffers(self._engine.module, folder / BUFFERS)
        if (rng := pieces.of_process(dist.get_rank(), RNG)) is not None:
            torch.set_rng_state(rng)
        pieces.close()
        return dict(state)

    def _write_files(self, partial: Path, step: int, values: Mapping[str, Any]) -> dict[str, str]:
        rank, world = dist.get_rank(), dist.get_world_size()
        name = f"shard-{rank:05d}-of-{world:05d}.safetensors"
        tensors, starts = self._own_pieces()
        digests = {name: write_tensors(partial / name, tensors, metadata={_PIECES: json.dumps(starts)})}
        if rank == 0:
            buffers = {name: value.cpu() for name, value in self._engine.module.named_buffers()}
            digests[BUFFERS] = write_durably(partial / BUFFERS, safetensors.torch.save(buffers))
            state = {"format": FORMAT, **values, "step": step, "optimizer_steps": self._engine.optimizer_steps}
            digests[STATE] = write_durably(partial / STATE, json.dumps(state).encode())
        return digests

    def _own_pieces(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """What this process writes, and where each piece starts in the flattened whole."""
        tensors: dict[str, Tensor] = {}
        starts: dict[str, int] = {}
        if dist.get_rank() == 0 or not self._engine.layout.replicated:
            named = [(f"{prefix}/{shard.name}", shard, tensor) for prefix, shard, tensor in self._tensors()]
            named += [(f"{p}/{name}", shard, tensor) for (p, name), (shard, tensor) in self._averages().items()]
            for name, shard, tensor in named:
                tensors[name] = tensor
                starts[name] = shard.start
        tensors[RNG] = torch.get_rng_state()
        return tensors, starts

    def _tensors(self) -> Iterator[tuple[str, Shard, Tensor]]:
        for shard in self._engine.shards:
            yield "weight", shard, shard.weight
            for moment in MOMENTS:
                yield moment, shard, shard.moments[moment]

    def _averages(self) -> dict[tuple[str, str], tuple[Shard, Tensor]]:
        averages = self._average.averages
        return {("average", name): (shard, averages[name]) for name, shard in self._average.shards.items()}


class StoredPieces:
    """The shard files of a checkpoint, read piece by piece."""

    def __init__(self, files: list[Path]) -> None:
        self._open: list[Any] = [safetensors.safe_open(file, framework="pt") for file in files]
        self._starts: list[dict[str, int]] = [json.loads(file.metadata()[_PIECES]) for file in self._open]

    @torch.no_grad()
    def read(self, name: str, start: int, target: Tensor) -> None:
        """Fills `target`, elements `start` and following of the flattened tensor, from every overlapping piece."""
        missing, stop = target.numel(), start + target.numel()
        for file, starts in zip(self._open, self._starts, strict=True):
            if name not in starts or missing == 0:
                continue
            piece = file.get_slice(name)
            offset, count = starts[name], piece.get_shape()[0]
            low, high = max(start, offset), min(stop, offset + count)
            if low < high:
                target[low - start : high - start] = piece[low - offset : high - offset]
                missing -= high - low
        if missing:
            raise CheckpointError(f"{name}: {missing} elements are missing, it is the checkpoint of another model")

    def of_process(self, rank: int, name: str) -> Tensor | None:
        """A tensor that one process alone wrote; None if there was no such process."""
        found: Tensor | None = self._open[rank].get_tensor(name) if rank < len(self._open) else None
        return found

    def close(self) -> None:
        """Lets go of the files."""
        self._open.clear()


def load_buffers(module: nn.Module, path: Path) -> None:
    """Copies buffers from a file.

    Raises:
        CheckpointError: if they are not those of the module.
    """
    stored = safetensors.torch.load_file(path)
    buffers = dict(module.named_buffers())
    if stored.keys() != buffers.keys() or any(stored[name].shape != value.shape for name, value in buffers.items()):
        raise CheckpointError(f"{path.name}: buffers of another model")
    with torch.no_grad():
        for name, value in buffers.items():
            value.copy_(stored[name])


def _together(work: Callable[[], T]) -> list[T]:
    """Does the work of every process; if it fails on one, it raises on all, so that none waits for another.

    Returns:
        The result of each process.
    """
    result, failure = None, None
    try:
        result = work()
    except OSError as error:
        failure = error
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, (result, failure))
    for rank, (_, failed) in enumerate(outcomes):
        if failed is not None and failed.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError("no space left for a checkpoint", remedy="free some space and run again: it resumes")
        if failed is not None:
            raise RuntimeError(f"process {rank} could not write its part of a checkpoint: {failed}") from failure
    return [found for found, _ in outcomes]
