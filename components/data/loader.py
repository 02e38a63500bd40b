"""From ids to the crops of a step. What a step sees is a pure function of the step: resuming needs no state."""

import queue
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from components.data.batch import CropBatch
from components.data.colour import augment
from components.data.decoding import decode_stored
from components.data.masking import MaskParams, draw_masks
from components.data.order import Visit, visits
from components.data.reading import Reader
from components.data.resampling import resampled
from components.data.views import Draws, ViewParams, draw_views, kinds
from components.errors import UserError

CACHE_BYTES = 2 * 1024**3
PREFETCHED = 2
"""Batches that are made ahead."""
ANNOUNCED = 2
"""Batches whose bytes are asked for before the one that is made."""


class MadeAhead(NamedTuple):
    """A batch on its way from the thread that makes it.

    Attributes:
        batch: its tensors may still be in the making.
        done: when they are made; None: they are.
    """

    batch: CropBatch
    done: torch.cuda.Event | None

    def received(self) -> CropBatch:
        """The batch, for the stream that is current here; that one waits, this thread does not."""
        if self.done is not None:
            stream = torch.cuda.current_stream(self.batch.masks.device)
            stream.wait_event(self.done)
            for tensor in (*self.batch.crops, self.batch.masks):
                tensor.record_stream(stream)  # else its memory could be taken again while it is read
        return self.batch


class CropLoader:
    """Crops and masks of one process's share of each step.

    Args:
        reader: gives the bytes of an image.
        ids: images to train on; their order does not matter.
        views: the crop recipe.
        masks: the mask recipe.
        global_batch: images of a step over all processes.
        seed: seed of the run.
        rank: this process; it gets the images `[rank * B / W, (rank + 1) * B / W)` of the global batch.
        world_size: number of processes.
        workers: decoding threads; 0: no thread at all, batches are made when asked for.
        patch_size: side of a patch, pixels.
        device: where crops are made, such as `cpu` or `cuda:1`; `cuda` would be another one in each thread.
        cache_bytes: decoded images of at most so many bytes are kept in memory.

    Raises:
        ValueError: when a GPU is given without its number.
        UserError: when there are fewer than two images, or fewer than in a batch.
    """

    def __init__(
        self,
        reader: Reader,
        ids: Sequence[str],
        *,
        views: ViewParams,
        masks: MaskParams,
        global_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
        patch_size: int,
        device: str = "cpu",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if len(ids) < max(global_batch, 2):
            raise UserError(
                f"{len(ids)} images to train on, and a batch of {global_batch}",
                remedy=f"take a batch_size of at most {max(len(ids), 2)}, or more images",
            )
        self.device = torch.device(device)
        """Where the batches are."""
        if self.device.type == "cuda" and self.device.index is None:
            raise ValueError("a GPU without its number: it would be the first one in the thread that makes batches")
        self.waited_s = 0.0
        """Seconds that `iterate` has waited for a batch."""
        self._reader = reader
        self._ids = sorted(ids)
        self._views = views
        self._masks = masks
        self._global_batch = global_batch
        self._seed = seed
        self._share = global_batch // world_size
        self._first = rank * self._share
        self._workers = workers
        self._grid = views.global_size // patch_size
        self._cache: dict[str, np.ndarray] = {}
        self._cache_left = cache_bytes
        self._cache_lock = threading.Lock()
        self._min_side = _least_side(views)
        self._pool = ThreadPoolExecutor(workers, "decode") if workers > 1 else None

    def batch(self, step: int, *, micro: int = 0, micros: int = 1) -> CropBatch:
        """Crops of this process's share of a step, or of one of its equal, contiguous parts.

        Args:
            step: optimizer step.
            micro: which part.
            micros: number of parts.
        """
        first, seen = self._part(step, micro, micros)
        count = len(seen)
        crops = 2 * self._global_batch
        rows = [view * self._global_batch + place for view in (0, 1) for place in range(first, first + count)]
        masks = draw_masks(self._masks, seed=self._seed, step=step, crops=crops, grid=self._grid, rows=rows)
        return CropBatch(
            crops=self._crops(seen),
            masks=masks.to(self.device),
            ids=tuple(self._ids[visit.place] for visit in seen),
            positions=torch.arange(first, first + count),
            step=step,
        )

    def iterate(self, start: int, stop: int, *, micros: int = 1) -> Generator[CropBatch, None, None]:
        """Batches of the steps from `start` to before `stop`, each in `micros` parts, made ahead in the background."""
        wanted = [(step, micro) for step in range(start, stop) for micro in range(micros)]
        if self._workers == 0:
            for step, micro in wanted:
                began = time.perf_counter()
                made = self.batch(step, micro=micro, micros=micros)
                self.waited_s += time.perf_counter() - began
                yield made
            return
        ready: queue.Queue[MadeAhead | BaseException] = queue.Queue(PREFETCHED)
        stopping = threading.Event()
        thread = threading.Thread(
            target=self._make_ahead, args=(wanted, micros, ready, stopping), name="loader", daemon=True
        )
        thread.start()
        try:
            for _ in wanted:
                began = time.perf_counter()
                item = ready.get()
                self.waited_s += time.perf_counter() - began
                if isinstance(item, BaseException):
                    raise item
                yield item.received()
        finally:
            stopping.set()
            while thread.is_alive():
                _drain(ready)
                thread.join(0.02)

    def close(self) -> None:
        """Ends the decoding threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _part(self, step: int, micro: int, micros: int) -> tuple[int, list[Visit]]:
        """Place of the first image of a part in its global batch, and its images."""
        count = self._share // micros
        first = self._first + micro * count
        start = step * self._global_batch + first
        return first, visits(self._seed, len(self._ids), start, start + count)

    def _make_ahead(
        self,
        wanted: list[tuple[int, int]],
        micros: int,
        ready: "queue.Queue[MadeAhead | BaseException]",
        stopping: threading.Event,
    ) -> None:
        # on the stream that all threads share, every copy to the device would wait for the step that trains
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        try:
            for place, (step, micro) in enumerate(wanted):
                if stopping.is_set():
                    return
                for later in wanted[place + 1 if place == 0 else place + ANNOUNCED : place + ANNOUNCED + 1]:
                    self._announce(*later, micros)
                with nullcontext() if stream is None else torch.cuda.stream(stream):
                    made = self.batch(step, micro=micro, micros=micros)
                ready.put(MadeAhead(made, None if stream is None else stream.record_event()))
        except BaseException as error:  # handed to the consumer, which raises it
            ready.put(error)

    def _announce(self, step: int, micro: int, micros: int) -> None:
        _, seen = self._part(step, micro, micros)
        ids = [self._ids[visit.place] for visit in seen]
        self._reader.prefetch([one for one in ids if one not in self._cache])

    def _crops(self, seen: list[Visit]) -> list[torch.Tensor]:
        ids = [self._ids[visit.place] for visit in seen]
        images = list(self._pool.map(self._decoded, ids)) if self._pool else [self._decoded(one) for one in ids]
        drawn = [
            draw_views(self._views, seed=self._seed, epoch=visit.epoch, image_id=one, width=w, height=h)
            for visit, one, (h, w, _) in zip(seen, ids, (image.shape for image in images), strict=True)
        ]
        crops = []
        for number, kind in enumerate(kinds(self._views)):
            draws = Draws.stack([one[number] for one in drawn])
            made = resampled(images, draws.boxes, kind.size, self.device)
            crops.append(augment(made, draws, self._views.blur_kernel))
        return crops

    def _decoded(self, image_id: str) -> np.ndarray:
        """UInt8[height, width, 3], no larger than the crops need."""
        if (cached := self._cache.get(image_id)) is not None:
            return cached
        image = np.array(_shrunk(decode_stored(self._reader.read, image_id, min_side=self._min_side), self._min_side))
        with self._cache_lock:  # several threads decode
            if image.nbytes <= self._cache_left:
                self._cache_left -= image.nbytes
                self._cache[image_id] = image
        return image


def _least_side(views: ViewParams) -> int:
    """Short side at which the smallest box still has as many pixels as its crop."""
    return int(np.ceil(max(kind.size / np.sqrt(kind.scale[0]) for kind in kinds(views))))


def _shrunk(image: Image.Image, least: int) -> Image.Image:
    """Averages whole blocks of pixels as long as both sides keep `least`: for the formats whose decoder cannot scale.

    One photo as PNG would else take a hundred megabytes, in memory and again for each of its crops.
    """
    factor = min(image.size) // least
    return image.reduce(factor) if factor > 1 else image


def _drain(ready: "queue.Queue[MadeAhead | BaseException]") -> None:
    while True:
        try:
            ready.get_nowait()
        except queue.Empty:
            return
