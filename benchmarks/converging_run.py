"""One training process of `benchmarks.converging`: trains as a stage does, and scores the teacher every few steps.

`python -m benchmarks.converging_run JOB.json STEPS`, started by torchrun. Each time the training is stopped with a
checkpoint, its teacher is scored by nearest neighbours, and it is resumed.
"""

import gc
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from components.data.manifest import Manifest
from components.data.shards import ShardReader
from components.data.tables import read_table
from components.evaluation.scores import knn_scores
from components.evaluation.split import labelled_split
from components.features.extraction import extract
from components.models.vit import VisionTransformer
from components.training.checkpoint import CheckpointStore, step_of
from components.training.job import Job
from components.training.loop import Preempted
from components.training.training_run import job_params, train
from components.training.training_state import StoredPieces

CURVE = "knn.json"


class After:
    """Asks to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        """Whether that was the last of them."""
        self.left -= 1
        return self.left <= 0


def teacher_of(checkpoint: Path, model: VisionTransformer) -> VisionTransformer:
    """The averaged teacher that a checkpoint holds."""
    pieces = StoredPieces(sorted(checkpoint.glob("shard-*.safetensors")))
    for name, parameter in model.named_parameters():
        pieces.read(f"average/teacher.backbone.{name}", 0, parameter.data.view(-1))
    pieces.close()
    return model


def knn(job: Job, checkpoint: Path) -> float:
    """Share of the evaluation images that their 20 nearest training images classify right."""
    params, manifest = job_params(job), Manifest.load(job.locations.parent)
    kept = read_table(job.curated / "ids.parquet")["id"].to_pylist()
    split = labelled_split(manifest, set(kept), seed=0)
    assert split is not None
    model = teacher_of(checkpoint, VisionTransformer(params.model))
    with ShardReader(job.shards, manifest.locations) as reader:
        bank, queries = (extract(model, reader, ids, params.preprocess()).last for ids in (split.bank, split.queries))
    return knn_scores(bank, queries, split)["knn.top1"]


def main() -> None:
    """Trains to the end; process 0 leaves the curve beside the artifact."""
    job, every = Job.read(Path(sys.argv[1])), int(sys.argv[2])
    curve: list[tuple[int, float]] = []
    done = False
    while not done:
        try:
            train(job, After(every))
            done = True
        except Preempted:
            gc.collect()  # the engine that was stopped
        if dist.get_rank() == 0:
            newest = CheckpointStore(job.checkpoints).newest()
            assert newest is not None
            curve.append((step_of(newest.name), knn(job, newest)))
            job.history.with_name(CURVE).write_text(json.dumps(curve))
        dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # threads of an engine may wait for ever


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
