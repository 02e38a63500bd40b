"""Starts the training processes under torchrun and brings back how they ended."""

import logging
import math
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import USER_ERROR_EXIT_CODE, UserError, no_space_is_a_user_error
from components.settings import child_environment
from components.training.job import PREEMPTED_EXIT_CODE, SHUTDOWN_OPTION, Answer, Job
from components.training.nodes import Nodes

_log = logging.getLogger(__name__)
POLL_SECONDS = 0.1
GRACE_SECONDS = 60.0
"""How long a checkpoint may take after SIGTERM."""
STRAGGLER_SECONDS = 10.0
"""How long the other processes may take to end after one has answered."""
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "10000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
"""For glibc, which returns large freed blocks to the kernel, and the kernel hands them out again page by page, zeroed:
150,000 page faults in every step of a training on a CPU. With these it keeps them: 4,000, and 1.59 s a step instead of
1.85 s (measured on two Zen 4 cores, batch 128, width 128, depth 5)."""


def run_job(job: Job) -> dict[str, float]:
    """Trains in processes of their own until done.

    Their output goes where this process's goes. SIGTERM or Ctrl-C here becomes a checkpoint there. When one of them
    dies or hangs, all are started again, as often as the job allows, and go on from the last checkpoint.

    Returns:
        Metrics of the run.

    Raises:
        UserError: as raised by a training process.
        SystemExit: 75 after a checkpoint on SIGTERM; run again to go on.
        RuntimeError: if training failed otherwise; its traceback has been shown.
    """
    with tempfile.TemporaryDirectory(prefix="selfsight-job-") as temporary:
        folder = Path(temporary)
        with no_space_is_a_user_error(f"writing to {folder}"):
            spec = job.write(folder)
        process = subprocess.Popen(_command(job, spec), env=_environment(job), process_group=0)
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
            f"a {job.name} process died, see above for its error (none: it was killed, perhaps for want of memory"
            f"{', or another machine never came or died' if job.nodes > 1 else ''}); "
            "run again to go on from the last checkpoint"
        )
    if answer.code == USER_ERROR_EXIT_CODE:
        raise UserError(answer.what, remedy=answer.remedy)
    if answer.code:
        raise SystemExit(answer.code)
    return answer.metrics


def _command(job: Job, spec: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "components.training.agent",
        *Nodes(job.nodes, job.node_rank, job.rendezvous).torchrun_options(),
        f"--nproc-per-node={job.processes}",
        # with several machines each agent knows only its own processes: the scheduler starts all of them again
        f"--max-restarts={job.restarts if job.nodes == 1 else 0}",
        f"{SHUTDOWN_OPTION}={math.ceil(GRACE_SECONDS)}",
        "-m",
        "components.training.worker",
        str(spec),
    ]


def _environment(job: Job) -> dict[str, str]:
    own = {"OMP_NUM_THREADS": str(job.threads), "LOGLEVEL": "CRITICAL"}  # of torchrun's own chatter
    # torch 2.13 gives processes that it starts again the store of the dead ones, with their addresses in it
    own["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    defaults: dict[str, str] = {}
    if job.device == "cpu":
        # Threads that wait spin for milliseconds by default, on the very core that the loader or a neighbour needs:
        # measured with both cores taken, that costs a factor of four.
        own["GOMP_SPINCOUNT"] = "1000"
        own["DS_ACCELERATOR"] = "cpu"
        own["CUDA_VISIBLE_DEVICES"] = ""
        defaults = KEEP_FREED_MEMORY
    return defaults | child_environment() | own


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
    """Asks for a checkpoint and gives time to write it; Ctrl-C ends the wait, another SIGTERM does not."""
    with _sigterm_ignored():
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        return Answer.read(folder)


@contextmanager
def _sigterm_ignored() -> Iterator[None]:
    """A service manager signals every process, and so does whoever passes a signal on: one stop, several signals."""
    if threading.current_thread() is not threading.main_thread():  # where Python neither handles nor sets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Ends torchrun; its workers die with it."""
    if process.poll() is None:
        process.kill()
    process.wait()
