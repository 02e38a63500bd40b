"""P6: training on images from shards against the same steps on crops that are on the device already.

`python -m benchmarks.P6_loader` on a machine with a GPU: ViT-L/14 in bf16, JPEGs of 500 x 375 that are decoded anew in
every epoch, published crops. `--tiny` for a trial of a small model, on a CPU too.
"""

import hashlib
import io
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.report import report
from benchmarks.training_step import DEVICE, TrainingStep, clock, params_of
from components.data.loader import CropLoader
from components.data.shards import ShardReader, ShardWriter
from components.models.presets import vit_config
from components.training.pretrain import PretrainParams

TINY = "--tiny" in sys.argv
SPEED_BOUND, WAIT_BOUND = 0.97, 0.01
BATCH = 4 if TINY else 32
IMAGES = 2 * BATCH if TINY else 16 * BATCH
STEPS = 2 if TINY else 12
ROUNDS = 2 if TINY else 5
WIDTH, HEIGHT = 500, 375


def params() -> PretrainParams:
    """The published step of ViT-L/14 as one process makes it."""
    model = vit_config("L", drop_path=0.0).model_dump()
    head = {"bottleneck": 384, "prototypes": 131072}
    if TINY:
        model |= {"image_size": 56, "width": 32, "depth": 2, "heads": 2}
        head = {"hidden": 32, "bottleneck": 16, "prototypes": 64}
    precision = "bf16" if DEVICE == "cuda" else "fp32"
    return params_of(
        model, batch=BATCH, local_size=28 if TINY else 98, heads={"dino_head": head}, engine={"precision": precision}
    )


def photo(number: int) -> bytes:
    """A JPEG with the detail of a photo: coarse and fine noise."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
    made = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(made).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_shards(folder: Path) -> tuple[ShardReader, list[str]]:
    """The images, and a reader of them."""
    ids = []
    with ShardWriter(folder) as writer:
        for number in range(IMAGES):
            data = photo(number)
            ids.append(hashlib.sha256(data).hexdigest())
            writer.write(ids[-1], "jpg", data)
    return ShardReader(folder, writer.locations()), ids


def main() -> None:
    """Measures in turn and reports."""
    if DEVICE == "cpu" and not TINY:
        raise SystemExit("no GPU here: run it on one, or try it with --tiny")
    made = params()
    step = TrainingStep(made)
    synthetic = step.batches
    step()
    workers = len(os.sched_getaffinity(0)) if DEVICE == "cuda" else 1
    with tempfile.TemporaryDirectory(prefix="selfsight-bench-") as temporary:
        folder = Path(temporary) / "shards"
        folder.mkdir()
        reader, ids = write_shards(folder)
        loader = CropLoader(
            reader, ids, views=made.views, masks=made.masks, global_batch=BATCH, seed=0, workers=workers,
            patch_size=made.model.patch_size, device=DEVICE, cache_bytes=0,
        )  # fmt: skip
        shares, speeds = [], []
        for number in range(ROUNDS + 1):
            first = number * STEPS

            def loaded(first: int = first) -> None:
                for batch in loader.iterate(first, first + STEPS):
                    step.batches = [[batch], [batch]]
                    step()

            step.batches = synthetic
            plain = clock(step, repeats=STEPS) * STEPS
            waited = loader.waited_s
            seconds = clock(loaded)
            if number:  # the first one warms up
                shares.append((loader.waited_s - waited) / seconds)
                speeds.append(plain / seconds)
        loader.close()
        reader.close()
    speed, share = statistics.median(speeds), statistics.median(shares)
    report(
        "P6",
        "speed of training on images from shards over that on crops that are there already",
        ratio=speed,
        bound=f">= {SPEED_BOUND}, waiting for data <= {WAIT_BOUND:.0%} of the time",
        holds=speed >= SPEED_BOUND and share <= WAIT_BOUND,
        figures={
            "wait_share": round(share, 4),
            "step_seconds": round(plain / STEPS, 4),
            "batch": BATCH,
            "model": made.model.name,
            "decoding_threads": workers,
            "device": DEVICE,
            "rounds": ROUNDS,
        },
        name="P6_gpu",
        keep=not TINY,
    )


if __name__ == "__main__":
    main()
