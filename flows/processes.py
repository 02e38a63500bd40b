"""Starting leashed child processes, reading what they print as it comes, and ending them with all below them."""

import codecs
import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import tty
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

GRACE_SECONDS = 30.0
"""How long a stopped stage may write its checkpoint before it is killed."""
POLL_SECONDS = 0.2
CHUNK_BYTES = 65536
MARK = "SELFSIGHT_LEASH"


@dataclass(frozen=True)
class Output:
    """A piece of what a process prints: a whole line, or the present look of a progress bar."""

    text: str
    is_progress: bool = False


class LineSplitter:
    """Turns bytes into lines and progress; a carriage return starts a line over, as on a terminal."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def feed(self, data: bytes, *, final: bool = False) -> list[Output]:
        """What has become complete by `data`; with `final`, also what was left without an end of line."""
        *lines, self._rest = (self._rest + self._decoder.decode(data, final)).split("\n")
        found = [Output(_last_look(line)) for line in lines]
        if final:
            found += [Output(_last_look(self._rest))] if self._rest.strip() else []
            self._rest = ""
        elif "\r" in self._rest:
            self._rest = "\r" + _last_look(self._rest)
            found.append(Output(self._rest[1:], is_progress=True))
        return found


def _last_look(line: str) -> str:
    return line.rstrip("\r").rsplit("\r", 1)[-1].rstrip()


class Leashed:
    """A process started as `python -m module arguments…`, tied to the life of this one.

    It gets a session of its own, so that a key pressed on the terminal reaches only this process, and a mark in its
    environment by which everything it starts is found again, even where a parent in between has died.

    Args:
        module: what to run.
        arguments: its arguments.
        environment: the whole environment of the child.
        folder: its working folder.
        output: file descriptor for both of its output streams.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        output: int,
    ) -> None:
        self._mark = uuid.uuid4().hex
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.leash", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**environment, "PATH": _path(environment), MARK: self._mark},
            start_new_session=True,
        )

    @property
    def ended(self) -> bool:
        """Whether the process itself is gone. It is not reaped yet, so that its group cannot be another's."""
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self, grace: float = GRACE_SECONDS) -> int:
        """Ends the process and everything it started, and waits until all of it is gone.

        Args:
            grace: seconds between asking (SIGTERM) and killing; interrupting the wait kills at once.

        Returns:
            Its exit code, negative for a signal.
        """
        if self._process.returncode is not None:
            return self._process.returncode
        try:
            if not self.ended:
                os.killpg(self._process.pid, signal.SIGTERM)
                self._wait(grace)
        finally:
            self._kill_all()
        return self._process.wait()

    def _wait(self, grace: float) -> None:
        """Waits for the process itself: it waits for its child, and what that one leaves behind has no purpose."""
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and not self.ended:
            time.sleep(POLL_SECONDS)

    def _kill_all(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        while below := self._descendants():
            for process in below:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(below, timeout=1)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _descendants(self) -> list[psutil.Process]:
        return [
            process for process in psutil.process_iter() if process.pid != self._process.pid and self._is_mine(process)
        ]

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            return False


def _path(environment: Mapping[str, str]) -> str:
    """PATH with this interpreter's folder first: dvc.yaml says `python`, and the venv need not be active."""
    return os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])


def run_leashed(
    module: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    on_output: Callable[[Output], None],
    terminal: bool = False,
) -> int:
    """Runs a leashed module to its end, passing on what it prints.

    Args:
        module: what to run.
        arguments: its arguments.
        environment: the whole environment of the child.
        folder: its working folder.
        on_output: called with each line, and each look of a progress bar, as it comes.
        terminal: give the child a pseudo-terminal, so that it shows progress bars.

    Returns:
        Its exit code, negative for a signal. Whatever interrupts the wait ends the process first, and is passed on.
    """
    reader, writer = _open_terminal() if terminal else os.pipe()
    try:
        try:
            process = Leashed(module, arguments, environment=environment, folder=folder, output=writer)
        finally:
            os.close(writer)
        try:
            _pump(process, reader, on_output)
        finally:
            code = process.end()
        return code
    finally:
        os.close(reader)


def _pump(process: Leashed, reader: int, on_output: Callable[[Output], None]) -> None:
    """Reads until the process has ended; a descendant that keeps the stream open does not hold this up."""
    splitter = LineSplitter()
    while True:
        ended = process.ended
        readable = select.select([reader], [], [], 0 if ended else POLL_SECONDS)[0]
        data = _read(reader) if readable else b""
        for output in splitter.feed(data) if data else ():
            on_output(output)
        if not data and ended:
            break
        if not data and readable:  # it has closed its output, and goes on
            time.sleep(POLL_SECONDS)
    for output in splitter.feed(b"", final=True):
        on_output(output)


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, CHUNK_BYTES)
    except OSError:  # a pseudo-terminal answers EIO when its last writer is gone
        return b""


def _open_terminal() -> tuple[int, int]:
    reader, writer = pty.openpty()
    tty.setraw(writer)
    size = shutil.get_terminal_size()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", size.lines, size.columns, 0, 0))
    return reader, writer
