"""Child processes that never outlive the process that started them.

The child holds the reading end of a pipe whose writing end only its starter has. When the starter is gone, however it
went, the kernel closes the pipe, and the child kills itself and everything below it. This is the module that runs in
the child: `python -m flows.leash MODULE IMPORT…` imports what is named, waits for one line of instructions on the
pipe, and then runs MODULE as `python -m MODULE` would. It imports nothing slow itself.
"""

import importlib
import json
import os
import runpy
import signal
import sys
import threading
from types import FrameType

ORPHANED_EXIT_CODE = 137


def main() -> None:
    """Ties this process to the pipe on its standard input, then runs the module as told."""
    pipe = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    signal.signal(signal.SIGTERM, _on_sigterm)
    module, *imports = sys.argv[1:]
    for name in imports:
        importlib.import_module(name)
    told = json.loads(_first_line(pipe))
    threading.Thread(target=_follow, args=(pipe,), name="leash", daemon=True).start()
    os.environ.update(told["environment"])
    sys.argv = [module, *told["arguments"]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _first_line(pipe: int) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(pipe, 1)
        if not byte:
            os._exit(ORPHANED_EXIT_CODE)
        line += byte
    return bytes(line)


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
