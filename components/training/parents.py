"""A training process ends with whoever asked for it: no orphan keeps a core busy or writes a checkpoint."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Sequence

import psutil

PERIOD_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1


def die_with(pids: Sequence[int]) -> None:
    """Ends this process when its parent, or one of `pids`, is gone; also when it already is.

    The kernel's parent-death signal is exact but follows one thread of one generation; the poll sees every process
    named, whoever started it. torchrun gives each worker its own session, so that killing a group is not enough.

    Args:
        pids: processes to follow beside the parent.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = os.getppid()
    try:
        followed = [psutil.Process(pid) for pid in {parent, *pids}]
    except psutil.NoSuchProcess:
        os._exit(1)
    threading.Thread(target=_watch, args=(followed,), name="parents", daemon=True).start()


def _watch(followed: Sequence[psutil.Process]) -> None:
    while all(_alive(process) for process in followed):
        time.sleep(PERIOD_SECONDS)
    os._exit(1)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
