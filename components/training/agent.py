"""torchrun without its tracebacks: how a worker ended is told by its answer, not by the agent's log."""

import sys

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import PContext, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig

from components.training.job import SHUTDOWN_OPTION
from components.training.parents import die_with


def main(arguments: list[str]) -> int:
    """Runs torchrun with the given arguments until its workers have ended."""
    die_with([])
    try:
        torchrun.main(understood(arguments))
    except (ChildFailedError, SignalException):
        return 1
    return 0


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
