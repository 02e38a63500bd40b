"""Leashed child processes: started, ended with all below them, and read from."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from flows.output import Output, open_terminal, pass_on

GRACE_SECONDS = 75.0
"""How long a stopped stage may write its checkpoint before it is killed: longer than it waits for that itself."""
POLL_SECONDS = 0.05
MARK = "SELFSIGHT_LEASH"


class Leashed:
    """A process tied to the life of this one, which waits for its instructions with its imports done.

    It gets a session of its own, so that a key pressed on the terminal reaches only this process, and a mark in its
    environment by which everything it starts is found again, even where a parent in between has died.

    Args:
        module: what it will run, as `python -m module`.
        environment: its environment.
        folder: its working folder.
        output: file descriptor for both of its output streams.
        imports: modules to import before the instructions come, because they take their time.
    """

    def __init__(
        self, module: str, *, environment: Mapping[str, str], folder: Path, output: int, imports: Sequence[str] = ()
    ) -> None:
        self._mark = uuid.uuid4().hex
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.leash", module, *imports],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**environment, "PATH": _path(environment), MARK: self._mark},
            start_new_session=True,
        )

    def go(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Gives the instructions: the module's arguments, and what to add to its environment."""
        pipe = self._process.stdin
        assert pipe is not None
        with suppress(BrokenPipeError):  # it has died, which whoever waits for it will find
            pipe.write(json.dumps({"arguments": [*arguments], "environment": {**(environment or {})}}).encode() + b"\n")
            pipe.flush()

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


class Prepared:
    """A leashed process with its own output, ready to run once.

    Args:
        module: what it will run, as `python -m module`.
        environment: its environment.
        folder: its working folder.
        imports: modules to import beforehand.
        terminal: give it a pseudo-terminal, so that it shows progress bars.
    """

    def __init__(
        self,
        module: str,
        *,
        environment: Mapping[str, str],
        folder: Path,
        imports: Sequence[str] = (),
        terminal: bool = False,
    ) -> None:
        self._reader, writer = open_terminal() if terminal else os.pipe()
        try:
            self._process = Leashed(module, environment=environment, folder=folder, output=writer, imports=imports)
        except BaseException:
            os.close(self._reader)
            raise
        finally:
            os.close(writer)

    def run(
        self,
        arguments: Sequence[str],
        on_output: Callable[[Output], None],
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Runs the module to its end, passing on what it prints.

        Args:
            arguments: of the module.
            on_output: called with each line, and each look of a progress bar, as it comes.
            environment: what to add to its environment.

        Returns:
            Its exit code, negative for a signal. Whatever interrupts the wait ends the process first, and is passed on.
        """
        try:
            self._process.go(arguments, environment)
            pass_on(self._reader, lambda: self._process.ended, on_output)
        finally:
            code = self.discard()
        return code

    def discard(self, grace: float = GRACE_SECONDS) -> int:
        """Ends the process, whether it ran or not; as `Leashed.end`."""
        try:
            return self._process.end(grace)
        finally:
            os.close(self._reader)
