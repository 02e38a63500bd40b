"""Loss and kNN curves that must lie on top of each other: one process and two, the plain step and the fast one, fp32
and bf16; and one with another seed, to show how far apart is far.

Not one of the numbered targets: `python -m benchmarks.converging`, about ten minutes on two idle cores; `--tiny` for a
trial. Writes results/converging.json, docs/assets/converging.svg, and the table in docs/converging.md.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa

from benchmarks.converging_figure import draw, end_of
from benchmarks.converging_run import CURVE
from benchmarks.report import report
from benchmarks.workbench import ROOT
from components.data.ingest import IngestParams, build_manifest
from components.data.manifest import Manifest
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.tables import write_table
from components.settings import Settings
from components.training.job import Job
from components.training.nodes import Nodes

TINY = "--tiny" in sys.argv
SOURCE = "scenes?images={}&eval={}&copies=0&leaks=0&broken=0&off_topic=0"
IMAGES, EVALUATION = (160, 80) if TINY else (1600, 400)
STEPS, TURNS = (8, 2) if TINY else (200, 5)
CORES = 2
LOSS_BOUND = 0.01
"""Of the mean loss of the last tenth of the steps, relative to that of one process."""
HEAD = {"hidden": 256, "bottleneck": 64, "prototypes": 1024}
PARAMS: dict[str, Any] = {
    "steps": STEPS,
    "batch_size": 64,
    "model": {"image_size": 64, "patch_size": 8, "width": 96, "depth": 4, "heads": 3, "layer_scale": None},
    "views": {"global_size": 48, "local_size": 24, "local_crops": 4, "blur_kernel": 5, "blur_sigma": [0.1, 1.0]},
    "objective": {"dino_head": HEAD, "centring": "sinkhorn", "koleo_group": 32},
    "schedule": {"lr": 2e-3, "lr_reference_batch": None, "momentum": 0.99, "teacher_temperature_end": 0.06},
    "groups": {"patch_embedding_lr": 1.0},
    "checkpoint": {"seconds": 3600},
    "log_every": 1 if TINY else 5,
}
ONE = "one process, fp32, plain"
SEED = "another seed"
WAYS: dict[str, dict[str, Any]] = {
    ONE: {},
    "two processes": {"processes": 2},
    "tiled heads, compiled blocks": {"tile_rows": 64, "engine": {"compile": True}},
    "bf16": {"engine": {"precision": "bf16"}},
    "bf16, tiled heads, compiled blocks": {"tile_rows": 64, "engine": {"precision": "bf16", "compile": True}},
    SEED: {"seed": 1},
}
if TINY:
    PARAMS |= {"batch_size": 16, "model": {**PARAMS["model"], "width": 32, "depth": 2, "heads": 2}}
    PARAMS["objective"] = {**PARAMS["objective"], "koleo_group": 8, "drop_path_group": 8}
    WAYS = {name: WAYS[name] for name in (ONE, "two processes", SEED)}


def make_data(folder: Path) -> None:
    """Manifest and shards of scenes, every training image curated."""
    settings = Settings(root=folder, home=folder, _env_file=None)
    lock = take_snapshot(SnapshotParams(source=SOURCE.format(IMAGES, EVALUATION)), settings)
    build_manifest(lock, IngestParams(), folder / "manifest", folder / "shards", settings)
    (folder / "curated").mkdir()
    ids = Manifest.load(folder / "manifest").ids("train")
    write_table(pa.table({"id": sorted(ids)}), folder / "curated" / "ids.parquet")


def params_of(way: dict[str, Any]) -> dict[str, Any]:
    """The parameters of one way to train."""
    objective = {**PARAMS["objective"], "tile_rows": way.get("tile_rows")}
    changes = {name: way[name] for name in ("engine", "seed") if name in way}
    return {**PARAMS, "objective": objective, **changes}


def train(data: Path, own: Path, way: dict[str, Any]) -> dict[str, Any]:
    """Trains one way and brings back its curves."""
    own.mkdir()
    processes = way.get("processes", 1)
    job = Job(
        name="pretrain", params=params_of(way),
        locations=data / "manifest" / "locations.parquet", shards=data / "shards",
        curated=data / "curated", teacher=None, artifact=own / "teacher", history=own / "history.csv",
        checkpoints=own / "checkpoints", lineage={}, code="", device="cpu", processes=processes,
        threads=CORES // processes, restarts=0, collective_seconds=600.0, mirror=None, s3_endpoint=None, run_key=None,
        stage_pid=os.getpid(),
    )  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", *Nodes().torchrun_options()]
    command += [f"--nproc-per-node={processes}", "-m", "benchmarks.converging_run", str(job.write(own))]
    environment = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "GOMP_SPINCOUNT": "1000"}
    start = perf_counter()
    done = subprocess.run(
        [*command, str(STEPS // TURNS)], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, **environment, "OMP_NUM_THREADS": str(job.threads)},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    with job.history.open() as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    knn = json.loads((own / CURVE).read_text())
    return {"loss": rows, "knn": knn, "seconds": round(perf_counter() - start, 1)}


def main() -> None:
    """Trains every way and reports."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="selfsight-converging-") as temporary:
        make_data(Path(temporary))
        for number, (name, way) in enumerate(WAYS.items()):
            found[name] = train(Path(temporary), Path(temporary) / str(number), way)
            print(name, found[name]["seconds"], "s, loss", end_of(found[name]["loss"]), flush=True)
        if TINY:
            draw(found, ONE, SEED, Path(temporary) / "converging.svg", Path(temporary) / "converging.md")
        else:
            draw(found, ONE, SEED, ROOT / "docs" / "assets" / "converging.svg", ROOT / "docs" / "converging.md")
    truth = end_of(found[ONE]["loss"])
    apart = {name: abs(end_of(one["loss"]) / truth - 1) for name, one in found.items()}
    seed = apart.pop(SEED)
    worst = max(apart.values())
    report(
        "converging",
        "largest relative distance of a way's loss from that of one process in fp32, at the end of a training",
        ratio=worst,
        bound=f"<= {LOSS_BOUND}",
        holds=worst <= LOSS_BOUND,
        figures={
            "apart": {name: round(value, 5) for name, value in apart.items()},
            "another_seed": round(seed, 5),
            "knn": {name: one["knn"][-1][1] for name, one in found.items()},
            "images": IMAGES,
            "steps": STEPS,
            "curves": found,
        },
        keep=not TINY,
    )


if __name__ == "__main__":
    main()
