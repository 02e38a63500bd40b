"""torchrun without its tracebacks: how a worker ended is told by its answer, not by the agent's log."""

import logging
import signal
import sys
from pathlib import Path
from typing import Any

from torch.distributed import run as torchrun
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import api as multiprocessing
from torch.distributed.elastic.multiprocessing.api import PContext, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig

from components.training.heartbeat import Watchdog
from components.training.job import SHUTDOWN_OPTION, Job
from components.training.parents import die_with


def main(arguments: list[str]) -> int:
    """Runs torchrun with the given arguments, the last of which is the job, until its workers have ended."""
    die_with([])
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    spec = Path(arguments[-1])
    if step_seconds := Job.read(spec).step_seconds:
        Watchdog(spec.parent, step_seconds).start()
    multiprocessing._get_default_signal = lambda: signal.SIGKILL
    LocalElasticAgent._stop_workers = _kill_workers  # type: ignore[method-assign]
    try:
        torchrun.main(understood(arguments))
    except (ChildFailedError, SignalException):
        return 1
    return 0


def _kill_workers(agent: Any, _group: object) -> None:
    """Ends the others when a worker has died: without it they can compute nothing, nor write a checkpoint.

    torchrun would ask them with SIGTERM and wait half a minute for one that hangs or is stopped; its default signal,
    which only this case uses, is set to SIGKILL as well.
    """
    left = agent._remaining_restarts
    sys.stderr.write(f"a training process died or hung; all are ended ({left} restarts left)\n")
    agent._shutdown(death_sig=signal.SIGKILL)


def understood(arguments: list[str]) -> list[str]:
    """Arguments that the installed torchrun understands.

    torch 2.11 does not know `SHUTDOWN_OPTION`: there the time is the default of an argument that nobody passes.
    """
    if hasattr(LaunchConfig, "shutdown_timeout"):
        return arguments
    given = {one for one in arguments if one.startswith(f"{SHUTDOWN_OPTION}=")}
    for one in given:
        PContext.close.__defaults__ = (None, int(one.partition("=")[2]))
    return [one for one in arguments if one not in given]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
