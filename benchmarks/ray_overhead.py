"""Embedding on Ray Data against embedding in this process, on the same cores: seconds, and that the bits are the same.

`python -m benchmarks.ray_overhead`: 1,024 small pictures by a small backbone; `--tiny` for a trial. Not one of the
numbered targets. Start and stop of Ray are timed with it, and also apart, by embedding a single part. How it scales
where cores lack is shown by workers that wait instead of computing; `--simulated` measures that alone anew.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.P9_growth import make_shards
from benchmarks.report import RESULTS, report
from benchmarks.training_step import clock
from components.curation.embedder import EmbedderLock
from components.curation.embedding import EmbedParams, Resources, embed
from components.curation.on_ray import describe_on_ray
from components.curation.parts import plan_parts
from components.data.shards import ShardReader
from components.models.backbone import Preprocess, load_backbone, save_backbone
from components.models.vit import VisionTransformer, ViTConfig

TINY = "--tiny" in sys.argv
IMAGES = 64 if TINY else 1024
WORKERS = (1, 2)
REPEATS = 1 if TINY else 5
SIMULATED_WORKERS = (1, 2) if TINY else (1, 2, 4, 8)
SIMULATED_PARTS, PART_SECONDS = (16, 0.2) if TINY else (64, 2.0)


def main() -> None:
    """Measures and reports."""
    if "--simulated" in sys.argv:
        file = RESULTS / "ray_overhead.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "simulated": simulated()}, indent=2) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="selfsight-ray-") as temporary:
        found = measure(Path(temporary))
    ratio = found["seconds"]["ray, 2 workers"] / found["seconds"]["local, 2 workers"]
    report(
        "ray",
        "time to embed on Ray Data on 2 cores, its start and stop included, of that in this process",
        ratio=ratio,
        bound="the same bits; the time is reported only",
        holds=found["same"],
        figures={**found, "simulated": simulated(), "images": IMAGES, "repeats": REPEATS},
        name="ray_overhead",
        keep=not TINY,
    )


def measure(folder: Path) -> dict[str, Any]:
    """Seconds of each engine with one worker and with two."""
    (folder / "shards").mkdir()
    ids, _, locations = make_shards(folder / "shards", IMAGES)
    config = ViTConfig(image_size=64, patch_size=8, width=32 if TINY else 192, depth=2 if TINY else 12, heads=2)
    save_backbone(
        VisionTransformer(config), Preprocess(image_size=64, resize=64), folder / "backbone", lineage={}, card=""
    )
    uri = str(folder / "backbone")
    lock = EmbedderLock(uri, "", load_backbone(uri).digest)
    seconds: dict[str, list[float]] = {}
    answers: dict[str, np.ndarray] = {}
    with ShardReader(folder / "shards", locations) as reader:

        def run(engine: str, threads: int, some: list[str]) -> np.ndarray:
            params = EmbedParams(embedder=uri, engine=engine, batch_size=64)
            return embed(lock, reader, some, params, resources=Resources(threads=threads), locations=locations)

        for _ in range(REPEATS):
            for threads in WORKERS:
                for engine in ("local", "ray"):
                    name = f"{engine}, {threads} workers"
                    taken = clock(lambda: answers.update({name: run(engine, threads, ids)}))  # noqa: B023
                    seconds.setdefault(name, []).append(taken)
            seconds.setdefault("ray, one part", []).append(clock(lambda: run("ray", 1, ids[:8])))
    medians = {name: round(statistics.median(taken), 2) for name, taken in seconds.items()}
    first = answers["local, 1 workers"]
    working = medians["ray, 2 workers"] - medians["ray, one part"]
    return {
        "seconds": medians,
        "ratio_without_start_and_stop": round(working / medians["local, 2 workers"], 3),
        "same": all(np.array_equal(first, one) for one in answers.values()),
    }


def simulated() -> dict[str, float]:
    """Seconds for the second half of parts that wait, by number of workers: all of them are up by then."""
    parts = plan_parts([str(number) for number in range(512 * SIMULATED_PARTS)], None, "simulated")
    found = {}
    for workers in SIMULATED_WORKERS:
        ends: list[float] = []
        describe_on_ray(
            wait,
            parts,
            lambda part, vectors: ends.append(time.perf_counter()),  # noqa: B023
            address=None,
            workers=workers,
            gpu=False,
        )
        found[f"{workers} workers"] = round(ends[-1] - ends[len(ends) // 2 - 1], 2)
    return found


def wait(ids: Sequence[str]) -> np.ndarray:
    """Vectors of a part, after a while."""
    time.sleep(PART_SECONDS)
    return np.zeros((len(ids), 8), np.float32)


if __name__ == "__main__":
    main()
