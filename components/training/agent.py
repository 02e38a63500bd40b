"""torchrun without its tracebacks: how a worker ended is told by its answer, not by the agent's log."""

import sys

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from components.training.parents import die_with


def main(arguments: list[str]) -> int:
    """Runs torchrun with the given arguments until its workers have ended."""
    die_with([])
    try:
        torchrun.main(arguments)
    except (ChildFailedError, SignalException):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
