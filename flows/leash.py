"""Child processes that never outlive the process that started them.

The child holds the reading end of a pipe whose writing end only its starter has. When the starter is gone, however it
went, the kernel closes the pipe, and the child kills itself and everything below it. This is the module that runs in
the child: `python -m flows.leash MODULE ARGUMENTS…` runs MODULE as `python -m MODULE` would. It imports nothing slow.
"""

import os
import runpy
import signal
import sys
import threading
from types import FrameType


def main() -> None:
    """Ties this process to the pipe on its standard input, then runs the module named by the arguments."""
    pipe = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    threading.Thread(target=_follow, args=(pipe,), name="leash", daemon=True).start()
    signal.signal(signal.SIGTERM, _on_sigterm)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _follow(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    _kill_everything()


def _kill_everything() -> None:
    import psutil

    try:
        below = psutil.Process().children(recursive=True)
    except psutil.Error:
        below = []
    for process in below:
        try:
            process.kill()
        except psutil.Error:
            continue
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    """The whole group is told to stop: wait for a working child, which may be writing a checkpoint, else exit."""
    import psutil

    if not psutil.Process().children():
        raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
