"""`python -m tests.faults.kill_writes FOLDER`: kills a training twenty times while it writes checkpoints."""

import json
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

from components.training.checkpoint import CheckpointStore
from components.training.job import Job
from tests.faults.forks import begin, finish, import_what_it_imported, job_in
from tests.tiny_training import PRETRAIN, make_data

KILLS = 20
STEPS = 50
PARAMS = {**PRETRAIN, "steps": STEPS, "checkpoint": {"seconds": 1e-6, "keep": 2}}
SECONDS = 60.0


def write_begins(checkpoints: Path, since_ns: int) -> bool:
    """Whether a temporary folder has been made since then."""
    for partial in checkpoints.glob(".partial-*"):
        try:
            if partial.stat().st_ctime_ns > since_ns:
                return True
        except FileNotFoundError:
            continue
    return False


def kill_while_writing(job: Job, rest: float) -> dict[str, object]:
    """Starts a training, lets it write, and kills it `rest` seconds later."""
    began = time.time_ns()
    pid = begin(job)
    deadline = time.monotonic() + SECONDS
    while not write_begins(job.checkpoints, began):
        if os.waitpid(pid, os.WNOHANG)[0] or time.monotonic() > deadline:
            raise SystemExit((job.artifact.parent / "log.txt").read_text())
        time.sleep(0.0005)
    time.sleep(rest)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    newest = CheckpointStore(job.checkpoints).newest()
    return {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "half written": bool(list(job.checkpoints.glob(".partial-*"))),
        "newest": newest.name if newest else None,
    }


def main(folder: Path) -> None:
    """Leaves what was found in found.json."""
    logging.disable(logging.CRITICAL)
    make_data(folder / "data")
    alone, killed = (job_in(folder / "data", folder / name, PARAMS) for name in ("alone", "killed"))
    began = time.monotonic()
    found: dict[str, object] = {"alone": finish(alone)}
    turn = (time.monotonic() - began) / STEPS
    import_what_it_imported(alone)
    moments = random.Random(0)
    found["kills"] = [kill_while_writing(killed, moments.uniform(0, 0.7 * turn)) for _ in range(KILLS)]
    found["killed"] = finish(killed)
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
