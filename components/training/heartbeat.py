"""A training process shows that its steps end, and the agent above it ends one that does not.

With several processes the others wait for one that hangs, and their collective has a timeout. With one process nobody
waits. A heartbeat is an empty file, named by the process, whose time changes with every step.
"""

import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

_log = logging.getLogger(__name__)
START_SECONDS = 1800.0
"""How long the first step may take at least: before it come data, checkpoints, and what is compiled."""
PERIOD_SECONDS = 1.0
_PREFIX = "heartbeat-"


class Heartbeat:
    """Of this process.

    Args:
        folder: that the agent looks into.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{_PREFIX}{os.getpid()}"
        self._path.touch()

    def beat(self) -> None:
        """A step has ended."""
        try:
            os.utime(self._path)
        except OSError as error:
            _log.warning("%s: %s", self._path, error.strerror)

    def end(self) -> None:
        """No more steps will come: what is left to do has no rhythm."""
        self._path.unlink(missing_ok=True)


@dataclass
class _Seen:
    time_ns: int
    began: bool = False
    seconds: float = 0.0


class Watchdog:
    """Kills the training processes whose steps do not end; that they died is then noticed as ever.

    Time in which the agent itself does not run (it is stopped, the computer sleeps) does not count: its processes most
    likely did not run either.

    Args:
        folder: of the heartbeats.
        seconds: that a step may take, with the checkpoint after it.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._period = min(PERIOD_SECONDS, seconds / 4)
        self._seen: dict[int, _Seen] = {}

    def start(self) -> None:
        """Looks from now on, in a thread of its own."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def look(self, passed: float) -> None:
        """Kills who is too late.

        Args:
            passed: seconds since the last look.
        """
        for path in self._folder.glob(f"{_PREFIX}*"):
            pid = int(path.name.removeprefix(_PREFIX))
            try:
                time_ns = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
            seen = self._seen.setdefault(pid, _Seen(time_ns))
            if not _is_child(pid):
                path.unlink(missing_ok=True)
                del self._seen[pid]
            elif time_ns != seen.time_ns:
                self._seen[pid] = _Seen(time_ns, began=True)
            else:
                seen.seconds += passed
                self._judge(pid, seen)

    def _judge(self, pid: int, seen: _Seen) -> None:
        limit = self._seconds if seen.began else max(self._seconds, START_SECONDS)
        if seen.seconds < limit:
            return
        _log.error("training process %d has ended no step for %.0f s: it is taken for hung and killed", pid, limit)
        os.kill(pid, signal.SIGKILL)

    def _watch(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(self._period)
            now = time.monotonic()
            self.look(min(now - before, 2 * self._period))
            before = now


def _is_child(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.ppid() == os.getpid() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
