"""P6: what of a training step is waiting for data, and how fast it is against one on crops that are there already.

`python -m benchmarks.P6_waiting`; with `--tiny`, a small model to see that it runs. Images are read from shards,
decoded anew at each visit, and cropped on the device of the model. Without a GPU, model and loader share the cores: the
figure is then what the loader costs, not what it keeps waiting.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.photos import Photos
from benchmarks.report import report
from benchmarks.training_step import DEVICE, TrainingStep, clock, params_of
from components.data.batch import CropBatch
from components.data.loader import CropLoader
from components.data.shard_writer import ShardWriter
from components.data.shards import ShardReader
from components.models.presets import vit_config
from components.settings import Settings
from components.training.pretrain import PretrainParams

TINY = "--tiny" in sys.argv
GPU = DEVICE == "cuda"
IMAGES, BATCH, STEPS, REPEATS = (16, 4, 2, 2) if TINY else (512, 64, 20, 5) if GPU else (64, 8, 2, 5)
BOUNDS = {"waiting": 0.01, "speed": 0.97}


def params() -> PretrainParams:
    """ViT-S/14 with the published crops; bf16 on a GPU."""
    model = vit_config("S").model_dump()
    head = {"hidden": 2048, "bottleneck": 256, "prototypes": 65536 if GPU else 4096}
    if TINY:
        model |= {"image_size": 56, "width": 32, "depth": 2, "heads": 2}
        head = {"hidden": 32, "bottleneck": 16, "prototypes": 64}
    engine = {"precision": "bf16" if GPU else "fp32"}
    return params_of(
        model, batch=BATCH, local_size=28 if TINY else 98, heads={"dino_head": head, "ibot_head": head}, engine=engine
    )


def written(photos: Photos, folder: Path) -> ShardReader:
    """The photos in shards."""
    folder.mkdir()
    with ShardWriter(folder) as writer:
        for one, data in photos.files.items():
            writer.write(one, "jpg", data)
    return ShardReader(folder, writer.locations())


def whole_steps(loader: CropLoader, start: int, micros: int) -> Iterator[list[CropBatch]]:
    """The parts of each step, made ahead as in training."""
    parts: list[CropBatch] = []
    for batch in loader.iterate(start, start + STEPS, micros=micros):
        parts.append(batch)
        if len(parts) == micros:
            yield parts
            parts = []


def main() -> None:
    """Measures both in turn, and reports."""
    threads = Settings(_env_file=None).thread_count()
    torch.set_num_threads(threads)
    made = params()
    step = TrainingStep(made)
    synthetic = step.batches
    photos = Photos(IMAGES)
    speeds, shares = [], []
    with tempfile.TemporaryDirectory() as folder, written(photos, Path(folder) / "shards") as reader:
        loader = CropLoader(
            reader, list(photos.files), views=made.views, masks=made.masks, global_batch=BATCH, seed=0,
            patch_size=made.model.patch_size, device="cuda:0" if GPU else DEVICE, cache_bytes=0,
            workers=threads if GPU else 1,
        )  # fmt: skip

        def fed(start: int) -> None:
            for parts in whole_steps(loader, start, step.engine.micro_batches):
                step.batches = [parts]
                step()
            if GPU:
                torch.cuda.synchronize()

        for turn in range(REPEATS + 1):
            step.batches = synthetic
            ready = STEPS * clock(step, STEPS)
            waited, start = loader.waited_s, time.perf_counter()
            fed(turn * STEPS)
            taken = time.perf_counter() - start
            if turn:
                speeds.append(ready / taken)
                shares.append((loader.waited_s - waited) / taken)
        loader.close()
    speed, waiting = statistics.median(speeds), statistics.median(shares)
    report(
        "P6",
        "training on images from shards against the same on crops that are there" + ("" if GPU else ", all on a CPU"),
        ratio=speed,
        bound=f">= {BOUNDS['speed']}, and <= {BOUNDS['waiting']} of the time spent waiting, on a GPU",
        holds=speed >= BOUNDS["speed"] and waiting <= BOUNDS["waiting"],
        figures={
            "waiting_share": round(waiting, 4),
            "images_a_second": round(BATCH * STEPS / taken, 2),
            "batch": BATCH,
            "steps": STEPS,
            "repeats": REPEATS,
            "threads": threads,
            "real_photos": photos.real,
        },
        keep=not TINY,
    )


if __name__ == "__main__":
    main()
