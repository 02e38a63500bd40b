"""What a checkpoint holds, and how it is put back, on the same or on another number of processes.

Each process writes its shards, in two files: weights and averages, and Adam's moments, by parameter name, unpadded,
with the place of each piece in the flattened parameter. A reader therefore needs no knowledge of who wrote: it
copies the overlap of every stored piece with its own. Process 0 adds the buffers (centres) and `state.json`.
"""

import errno
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.errors import UserError
from components.training.checkpoint import STATE, CheckpointError, CheckpointStore, read_state, write_durably
from components.training.ema import MovingAverage
from components.training.engine import Engine
from components.training.layouts import MOMENTS
from components.training.mirror import Mirror
from components.training.tensor_files import TensorFile, write_tensors

FORMAT = 2
WEIGHTS, MOMENTS_OF = "shard", "moments"
"""Kinds of files: weights, averages and the generator's state; Adam's moments. Both are hashed at the same time."""
BUFFERS = "buffers.safetensors"
RNG = "rng"
READERS = 4
"""Threads that put a checkpoint's tensors back."""
_STARTS = "pieces"
T = TypeVar("T")
Piece = tuple[int, Tensor]
"""Where it starts in the flattened whole, and its elements."""


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
        pieces = StoredPieces(files_of(folder, WEIGHTS) + files_of(folder, MOMENTS_OF))
        wanted = [*self._weights(), *self._moments(), *self._averages()]
        with ThreadPoolExecutor(READERS) as beside:
            for done in [beside.submit(pieces.read, *one) for one in sorted(wanted, key=lambda one: -one[2].numel())]:
                done.result()
        self._engine.optimizer_steps = state["optimizer_steps"]
        self._engine.publish_weights()
        self._average.publish()
        load_buffers(self._engine.module, folder / BUFFERS)
        if (rng := pieces.of_process(dist.get_rank(), RNG)) is not None:
            torch.set_rng_state(rng)
        pieces.close()
        return dict(state)

    def _write_files(self, partial: Path, step: int, values: Mapping[str, Any]) -> dict[str, str]:
        rank, world = dist.get_rank(), dist.get_world_size()
        own = [(f"{kind}-{rank:05d}-of-{world:05d}.safetensors", pieces) for kind, pieces in self._own_pieces().items()]
        with ThreadPoolExecutor() as beside:
            written = {name: beside.submit(write_pieces, partial / name, pieces) for name, pieces in own}
        digests = {name: digest.result() for name, digest in written.items()}
        if rank == 0:
            buffers = {name: value.cpu() for name, value in self._engine.module.named_buffers()}
            digests[BUFFERS] = write_durably(partial / BUFFERS, safetensors.torch.save(buffers))
            state = {"format": FORMAT, **values, "step": step, "optimizer_steps": self._engine.optimizer_steps}
            digests[STATE] = write_durably(partial / STATE, json.dumps(state).encode())
        return digests

    def _own_pieces(self) -> dict[str, "dict[str, Piece]"]:
        """What this process writes, by kind of file: where each piece starts in the flattened whole, and the piece."""
        own: dict[str, dict[str, Piece]] = {WEIGHTS: {}, MOMENTS_OF: {}}
        if dist.get_rank() == 0 or not self._engine.layout.replicated:
            for kind, (name, start, tensor) in itertools.chain(
                ((WEIGHTS, piece) for piece in (*self._weights(), *self._averages())),
                ((MOMENTS_OF, piece) for piece in self._moments()),
            ):
                own[kind][name] = (start, tensor)
        own[WEIGHTS][RNG] = (0, torch.get_rng_state())
        return own

    def _weights(self) -> Iterator[tuple[str, int, Tensor]]:
        for shard in self._engine.shards:
            yield f"weight/{shard.name}", shard.start, shard.weight

    def _moments(self) -> Iterator[tuple[str, int, Tensor]]:
        for shard in self._engine.shards:
            for moment in MOMENTS:
                yield f"{moment}/{shard.name}", shard.start, shard.moments[moment]

    def _averages(self) -> Iterator[tuple[str, int, Tensor]]:
        averages = self._average.averages
        for name, shard in self._average.shards.items():
            yield f"average/{name}", shard.start, averages[name]


def write_pieces(path: Path, pieces: Mapping[str, Piece]) -> str:
    """Writes pieces with their starts, and flushes to the disk.

    Returns:
        SHA-256 of the file, hexadecimal.
    """
    starts = {name: start for name, (start, _) in pieces.items()}
    tensors = {name: tensor for name, (_, tensor) in pieces.items()}
    return write_tensors(path, tensors, metadata={_STARTS: json.dumps(starts)})


def files_of(folder: Path, kind: str) -> list[Path]:
    """The files of a kind in a checkpoint, by the process that wrote them."""
    return sorted(folder.glob(f"{kind}-*.safetensors"))


class StoredPieces:
    """The shard files of a checkpoint, read piece by piece."""

    def __init__(self, files: list[Path]) -> None:
        self._open = [TensorFile(file) for file in files]
        self._starts: list[dict[str, int]] = [json.loads(file.metadata[_STARTS]) for file in self._open]

    @torch.no_grad()
    def read(self, name: str, start: int, target: Tensor) -> None:
        """Fills `target`, elements `start` and following of the flattened tensor, from every overlapping piece."""
        missing, stop = target.numel(), start + target.numel()
        for file, starts in zip(self._open, self._starts, strict=True):
            if name not in starts or missing == 0:
                continue
            offset = starts[name]
            low, high = max(start, offset), min(stop, offset + file.numel(name))
            if low < high:
                file.read(name, low - offset, target[low - start : high - start])
                missing -= high - low
        if missing:
            raise CheckpointError(f"{name}: {missing} elements are missing, it is the checkpoint of another model")

    def of_process(self, rank: int, name: str) -> Tensor | None:
        """Bytes that one process alone wrote; None if there was no such process."""
        if rank >= len(self._open) or name not in self._starts[rank]:
            return None
        found = torch.empty(self._open[rank].numel(name), dtype=torch.uint8)
        self._open[rank].read(name, 0, found)
        return found

    def close(self) -> None:
        """Lets go of the files."""
        for file in self._open:
            file.close()


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
