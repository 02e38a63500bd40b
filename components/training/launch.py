"""A training stage: whether it can begin, which run it goes on from, and what is to be done for it."""

import os
from dataclasses import dataclass
from pathlib import Path

from components.data.tables import read_table
from components.errors import UserError
from components.models.backbone import artifact_hash
from components.settings import Settings
from components.training.checkpoint import CheckpointStore, forget_old_runs
from components.training.job import Job
from components.training.processes import run_job
from components.training.recipe import TrainingParams, code_digest, resumable, run_key

KEPT_RUNS = 3
"""Runs of a stage whose checkpoints stay."""


def check_processes(settings: Settings) -> str:
    """The device to train on.

    Raises:
        UserError: if there are more processes than cores or GPUs.
    """
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
        manifest: folder of the manifest.
        shards: folder of the shards.
        curated: folder with `ids.parquet`.
        teacher: folder of the teacher's artifact, for distillation.
    """

    manifest: Path
    shards: Path
    curated: Path
    teacher: Path | None = None


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
        params.share(settings.processes)
        self._ids: list[str] = read_table(inputs.curated / "ids.parquet")["id"].to_pylist()
        self._check_images()
        params.phases(params.total_steps(len(self._ids)))
        upstream = artifact_hash(inputs.teacher) if inputs.teacher else ""
        self._key = run_key(name, params, self._ids, upstream)
        self._checkpoints = settings.checkpoints / self._key

    def _check_images(self) -> None:
        processes, images = self._settings.processes, len(self._ids)
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
        state = CheckpointStore(self._checkpoints).peek()
        total = self._params.total_steps(len(self._ids))
        if state is None or not resumable(state, total_steps=total, code=code_digest()):
            return None
        return state["run_key"]  # type: ignore[no-any-return]

    def run(self, *, artifact: Path, history: Path, tracking: str | None) -> dict[str, float]:
        """Trains; see `run_job` for what it raises.

        Args:
            artifact: folder to write the backbone to.
            history: CSV file to write metrics to.
            tracking: run to log to.

        Returns:
            Metrics of the run.
        """
        job = Job(
            name=self._name,
            params=self._params.model_dump(mode="json", exclude_unset=True),
            manifest=self._inputs.manifest,
            shards=self._inputs.shards,
            curated=self._inputs.curated,
            teacher=self._inputs.teacher,
            artifact=artifact,
            history=history,
            checkpoints=self._checkpoints,
            lineage={"stage": self._name, "run": self._key},
            code=code_digest(),
            device=self._device,
            processes=self._settings.processes,
            threads=self._settings.thread_count(),
            run_key=tracking,
            stage_pid=os.getpid(),
        )
        metrics = run_job(job)
        forget_old_runs(self._settings.checkpoints, self._name, keep=KEPT_RUNS)
        return metrics
