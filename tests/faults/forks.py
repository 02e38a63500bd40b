"""Trainings in forks of one process that has imported everything: one starts in tenths of a second, not in seconds.

Each is a real process that runs what a training process runs, on a process group of its own, and can be killed.
"""

import importlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.training.job import PREEMPTED_EXIT_CODE, Job
from components.training.loop import Preempted
from components.training.training_run import train

MODULES = "modules.txt"


def job_in(data: Path, own: Path, params: dict[str, Any]) -> Job:
    """A pretraining on the pictures in `data`, all else in `own`."""
    return Job(
        name="pretrain",
        params=params,
        locations=data / "manifest" / "locations.parquet",
        shards=data / "shards",
        curated=data / "curated",
        teacher=None,
        artifact=own / "pretrain",
        history=own / "pretrain.csv",
        checkpoints=own / "checkpoints",
        lineage={},
        code="code",
        device="cpu",
        processes=1,
        threads=1,
        restarts=0,
        collective_seconds=60.0,
        mirror=None,
        s3_endpoint=None,
        run_key=None,
        stage_pid=os.getpid(),
    )


def begin(job: Job, *, prepare: Callable[[], None] = lambda: None, stop: Callable[[], bool] = lambda: False) -> int:
    """Starts a training.

    Args:
        job: what to do.
        prepare: what to change in the process before it does it.
        stop: whether to stop after the step that runs.

    Returns:
        The process id. It ends with 0, leaving `metrics.json`; with 2, leaving `error.txt`; with 75; or with 1, leaving
        a traceback in `log.txt`.
    """
    own = job.artifact.parent
    own.mkdir(parents=True, exist_ok=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    if pid := os.fork():
        return pid
    code = 1
    try:
        log = os.open(own / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ.update(place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
        prepare()
        (own / "metrics.json").write_text(json.dumps(train(job, stop)))
        (own / MODULES).write_text("\n".join(sys.modules))
        code = 0
    except UserError as error:
        (own / "error.txt").write_text(str(error))
        code = 2
    except Preempted:
        code = PREEMPTED_EXIT_CODE
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(job: Job, **options: Any) -> int:
    """Trains to the end; the exit code."""
    _, status = os.waitpid(begin(job, **options), 0)
    return os.waitstatus_to_exitcode(status)


def import_what_it_imported(job: Job) -> None:
    """Of a training that is done: much is imported where it is first used, and would be in every fork anew."""
    for name in (job.artifact.parent / MODULES).read_text().splitlines():
        if name not in sys.modules:
            with suppress(Exception):
                importlib.import_module(name)
