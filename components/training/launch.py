"""Starts the training processes under torchrun and brings back how they ended."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from components.data.tables import read_table
from components.errors import USER_ERROR_EXIT_CODE, UserError
from components.models.backbone import artifact_hash
from components.settings import Settings, child_environment
from components.training.checkpoint import CheckpointStore, forget_old_runs
from components.training.job import PREEMPTED_EXIT_CODE, Answer, Job
from components.training.recipe import TrainingParams, code_digest, resumable, run_key

_log = logging.getLogger(__name__)
POLL_SECONDS = 0.1
GRACE_SECONDS = 60.0
"""How long a checkpoint may take after SIGTERM."""
KEPT_RUNS = 3
"""Runs of a stage whose checkpoints stay."""
STRAGGLER_SECONDS = 10.0
"""How long the other processes may take to end after one has answered."""


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


def run_job(job: Job) -> dict[str, float]:
    """Trains in processes of their own until done.

    Their output goes where this process's goes. SIGTERM or Ctrl-C here becomes a checkpoint there.

    Returns:
        Metrics of the run.

    Raises:
        UserError: as raised by a training process.
        SystemExit: 75 after a checkpoint on SIGTERM; run again to go on.
        RuntimeError: if training failed otherwise; its traceback has been shown.
    """
    with tempfile.TemporaryDirectory(prefix="selfsight-job-") as temporary:
        folder = Path(temporary)
        process = subprocess.Popen(_command(job, job.write(folder)), env=_environment(job), process_group=0)
        try:
            _wait(process, folder)
        except BaseException as error:
            answer = _stop(process, folder)
            if answer is not None and answer.code == PREEMPTED_EXIT_CODE:
                _log.info("stopped after a checkpoint; run again to go on")
                raise SystemExit(PREEMPTED_EXIT_CODE) from error
            raise
        finally:
            _kill(process)
        answer = Answer.read(folder)
    if answer is None:
        raise RuntimeError(
            f"a {job.name} process died, see above for its error (none: it was killed, perhaps for want of memory); "
            "run again to go on from the last checkpoint"
        )
    if answer.code == USER_ERROR_EXIT_CODE:
        raise UserError(answer.what, remedy=answer.remedy)
    if answer.code:
        raise SystemExit(answer.code)
    return answer.metrics


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
        upstream = artifact_hash(inputs.teacher) if inputs.teacher else ""
        self._key = run_key(name, params, self._ids, upstream)
        self._checkpoints = settings.checkpoints / self._key

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


def _command(job: Job, spec: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "components.training.agent",
        "--nnodes=1",
        f"--nproc-per-node={job.processes}",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
        "--local-addr=127.0.0.1",
        "--max-restarts=0",
        "-m",
        "components.training.worker",
        str(spec),
    ]


def _environment(job: Job) -> dict[str, str]:
    own = {"OMP_NUM_THREADS": str(job.threads), "LOGLEVEL": "CRITICAL"}  # of torchrun's own chatter
    if job.device == "cpu":
        # Threads that wait spin for milliseconds by default, on the very core that the loader or a neighbour needs:
        # measured with both cores taken, that costs a factor of four.
        own["GOMP_SPINCOUNT"] = "1000"
        own["DS_ACCELERATOR"] = "cpu"
        own["CUDA_VISIBLE_DEVICES"] = ""
    return child_environment() | own


def _wait(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Until torchrun has ended, or one process has answered and the others had time to."""
    answered: float | None = None
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        if answered is None and Answer.read(folder) is not None:
            answered = time.monotonic()
        if answered is not None and time.monotonic() - answered > STRAGGLER_SECONDS:
            return


def _stop(process: "subprocess.Popen[bytes]", folder: Path) -> Answer | None:
    """Asks for a checkpoint and gives time to write it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    return Answer.read(folder)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Ends torchrun; its workers die with it."""
    if process.poll() is None:
        process.kill()
    process.wait()
