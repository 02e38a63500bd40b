"""A training stage: whether it can begin, which run it goes on from, and what is to be done for it."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.tables import read_table
from components.errors import UserError
from components.models.backbone import artifact_hash
from components.settings import Settings
from components.tracking.locking import file_lock
from components.training.bucket_copies import BucketCopies
from components.training.checkpoint import LOCK, CheckpointStore, forget_old_runs
from components.training.initial import Beginning, InitialLock, prepare_initial
from components.training.job import Job
from components.training.nodes import Nodes
from components.training.processes import run_job
from components.training.recipe import TrainingParams, code_digest, resumable, run_key

KEPT_RUNS = 3
"""Runs of a stage whose checkpoints stay."""


def check_processes(settings: Settings) -> str:
    """The device to train on.

    Raises:
        UserError: if there are more processes than cores or GPUs, or machines that would not find each other.
    """
    Nodes.of(settings)
    device = settings.torch_device()
    if device == "cuda":
        import torch

        available, what = torch.cuda.device_count(), "GPUs"
    else:
        available, what = len(os.sched_getaffinity(0)), "cores"
    if settings.processes > available:
        raise UserError(
            f"SELFSIGHT_PROCESSES={settings.processes}, but there are {available} {what}",
            remedy=f"set it to at most {available}",
        )
    return device


@dataclass(frozen=True)
class TrainingInputs:
    """What a training stage depends on.

    Attributes:
        locations: table of the manifest that says where in the shards an image is.
        shards: folder of the shards.
        curated: folder with `ids.parquet`.
        teacher: folder of the teacher's artifact, for distillation.
        initial: the backbone that pretraining begins with; None: weights are drawn from the seed.
    """

    locations: Path
    shards: Path
    curated: Path
    teacher: Path | None = None
    initial: InitialLock | None = None


class Training:
    """A training stage: which run it is, and what is to be done for it.

    Args:
        name: of the stage.
        params: its section.
        inputs: what it depends on.
        settings: where checkpoints are, and on what to train.

    Raises:
        UserError: if parameters, inputs and machine do not go together.
    """

    def __init__(self, name: str, params: TrainingParams, inputs: TrainingInputs, settings: Settings) -> None:
        self._name = name
        self._params = params
        self._inputs = inputs
        self._settings = settings
        self._device = check_processes(settings)
        params.share(settings.all_processes)
        self._ids: list[str] = read_table(inputs.curated / "ids.parquet")["id"].to_pylist()
        self._check_images()
        self._initial = inputs.initial or InitialLock()
        upstream = artifact_hash(inputs.teacher) if inputs.teacher else self._initial.digest
        params.phases(params.total_steps(len(self._ids)))
        self._key = run_key(name, params, self._ids, upstream)
        self._checkpoints = settings.checkpoints / self._key
        self._copies = self._bucket_copies()

    def _check_images(self) -> None:
        processes, images = self._settings.all_processes, len(self._ids)
        if self._params.batch_size <= images:
            return
        most = images // processes * processes
        smaller = f"set {self._name}.batch_size to at most {most}, or " if most >= 2 * processes else ""
        raise UserError(
            f"{self._name}.batch_size {self._params.batch_size}, but {images} curated images to train on",
            remedy=f"{smaller}take more images (snapshot.source), or keep more of them (retrieve)",
        )

    def resume_key(self) -> str | None:
        """Tracking run of the interrupted training that this one goes on from; None: it starts afresh."""
        self._fetch_copy()
        state = CheckpointStore(self._checkpoints).peek()
        return state["run_key"] if state is not None and self._resumable(state) else None

    def _resumable(self, state: Mapping[str, Any]) -> bool:
        total, health = self._params.total_steps(len(self._ids)), self._params.health.model_dump(mode="json")
        return resumable(state, total_steps=total, code=code_digest(), health=health)

    def _bucket_copies(self) -> BucketCopies | None:
        address, keep = self._settings.checkpoint_mirror, self._params.checkpoint.keep
        if address is None:
            return None
        return BucketCopies(address, self._key, endpoint=self._settings.s3_endpoint, keep=keep)

    def _fetch_copy(self) -> None:
        """Gets a newer checkpoint than this machine has, before the processes start: they would wait for each other.

        Raises:
            UserError: if the bucket cannot be read.
        """
        if self._copies is None:
            return
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        with file_lock(self._checkpoints / LOCK, blocking=False) as mine:
            if mine:
                self._copies.fetch(
                    CheckpointStore(self._checkpoints, keep=self._params.checkpoint.keep), self._resumable
                )

    def run(self, *, artifact: Path, history: Path, tracking: str | None) -> dict[str, float]:
        """Trains; see `run_job` for what else it raises.

        Args:
            artifact: folder to write the backbone to.
            history: CSV file to write metrics to.
            tracking: run to log to.

        Returns:
            Metrics of the run.

        Raises:
            UserError: if copies of checkpoints are wanted and the bucket cannot be read.
        """
        metrics = self._run(artifact, history, tracking)
        forget_old_runs(self._settings.checkpoints, self._name, keep=KEPT_RUNS)
        return metrics

    def assist(self) -> None:
        """Trains with machine 0, which logs and writes the result; see `run_job` for what it raises."""
        nowhere = Path(os.devnull)
        self._run(nowhere, nowhere, None)

    def _run(self, artifact: Path, history: Path, tracking: str | None) -> dict[str, float]:
        self._fetch_copy()
        with tempfile.TemporaryDirectory(prefix="selfsight-initial-") as folder:
            initial = prepare_initial(self._initial, self._params.model, Path(folder))
            return run_job(self._job(artifact, history, tracking, initial))

    def _job(self, artifact: Path, history: Path, tracking: str | None, initial: Beginning | None) -> Job:
        nodes = Nodes.of(self._settings)
        lineage: dict[str, Any] = {"stage": self._name, "run": self._key}
        if initial is not None:
            lineage["initial"] = initial.lineage
        return Job(
            name=self._name,
            params=self._params.model_dump(mode="json", exclude_unset=True),
            locations=self._inputs.locations,
            shards=self._inputs.shards,
            curated=self._inputs.curated,
            teacher=self._inputs.teacher,
            artifact=artifact,
            history=history,
            checkpoints=self._checkpoints,
            lineage=lineage,
            code=code_digest(),
            device=self._device,
            processes=self._settings.processes,
            threads=self._settings.thread_count(),
            restarts=self._settings.restarts,
            collective_seconds=self._settings.collective_seconds,
            mirror=self._settings.checkpoint_mirror,
            s3_endpoint=self._settings.s3_endpoint,
            run_key=tracking,
            stage_pid=os.getpid(),
            initial=None if initial is None else initial.path,
            nodes=nodes.count,
            node_rank=nodes.rank,
            rendezvous=nodes.rendezvous,
            step_seconds=self._settings.step_seconds,
        )
