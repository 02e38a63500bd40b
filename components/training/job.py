"""What a stage asks the training processes to do, and how they answer: small JSON files."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from components.errors import USER_ERROR_EXIT_CODE, UserError

PREEMPTED_EXIT_CODE = 75
"""EX_TEMPFAIL: stopped by SIGTERM after writing a checkpoint; run again to go on."""
SHUTDOWN_OPTION = "--shutdown-timeout"
"""torchrun's: seconds between SIGTERM, which it passes on, and SIGKILL of the training processes; 30 unless given."""
_SPEC = "job.json"
_ANSWER = "answer.json"


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        name: `pretrain` or `distill`.
        params: the section of params.yaml, plain values.
        locations: table of the manifest that says where in the shards an image is.
        shards: folder of the shards.
        curated: folder with `ids.parquet`, the images to train on.
        teacher: folder of the teacher to distil from.
        artifact: folder to write the backbone to.
        history: CSV file to write the metrics to.
        checkpoints: folder of this run's checkpoints.
        lineage: JSON values for the artifact.
        code: `code_digest` of the code that asks.
        device: `cpu` or `cuda`.
        processes: training processes on this machine.
        threads: CPU threads of each.
        restarts: times that the processes are started again after one died or hung.
        collective_seconds: that a process waits for the others.
        mirror: `s3://BUCKET/PREFIX` for copies of the checkpoints; None: there are none.
        s3_endpoint: URL of an S3-compatible server; None for AWS.
        run_key: tracking run to log to; None: nothing is logged.
        stage_pid: process that wants the result; without it training ends.
        initial: weights to begin with, written by `prepare_initial`; None: from the seed.
        nodes: machines, each with as many processes.
        node_rank: number of this one; process 0 is on machine 0.
        rendezvous: `HOST:PORT` of machine 0; None with one machine.
        step_seconds: without the end of a step, after which a process counts as hung; 0: never.
    """

    name: str
    params: dict[str, Any]
    locations: Path
    shards: Path
    curated: Path
    teacher: Path | None
    artifact: Path
    history: Path
    checkpoints: Path
    lineage: dict[str, Any]
    code: str
    device: str
    processes: int
    threads: int
    restarts: int
    collective_seconds: float
    mirror: str | None
    s3_endpoint: str | None
    run_key: str | None
    stage_pid: int
    initial: Path | None = None
    nodes: int = 1
    node_rank: int = 0
    rendezvous: str | None = None
    step_seconds: float = 0.0

    def write(self, folder: Path) -> Path:
        """Leaves the job in a folder for the training processes."""
        path = folder / _SPEC
        path.write_text(json.dumps(asdict(self), default=str))
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """The job that `write` left."""
        values = json.loads(path.read_text())
        for item in fields(cls):
            if "Path" in str(item.type) and values[item.name] is not None:
                values[item.name] = Path(values[item.name])
        return cls(**values)


@dataclass(frozen=True)
class Answer:
    """How training ended: torchrun swallows exit codes and messages of its workers.

    Attributes:
        code: exit code; 0 done, 2 a `UserError`, 75 preempted.
        metrics: of a run that is done.
        what: of the error.
        remedy: of the error.
    """

    code: int
    metrics: dict[str, float]
    what: str = ""
    remedy: str = ""

    def write(self, folder: Path) -> None:
        """Leaves the answer next to the job; the first answer stays."""
        path = folder / _ANSWER
        try:
            with path.open("x") as file:
                file.write(json.dumps(asdict(self)))
        except FileExistsError:
            return

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The answer, or None while there is none."""
        try:
            return cls(**json.loads((folder / _ANSWER).read_text()))
        except (FileNotFoundError, ValueError):
            return None

    @classmethod
    def of_error(cls, error: UserError) -> Self:
        """The answer to a job that the user has to mend."""
        return cls(USER_ERROR_EXIT_CODE, {}, error.what, error.remedy)
