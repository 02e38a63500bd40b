"""One DVC stage as a child process: what it printed, whether DVC skipped it, and how it failed."""

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import USER_ERROR_EXIT_CODE, UserError
from components.redaction import redact_text
from components.settings import child_environment
from flows.dvc_locks import BUSY, BUSY_REMEDY, BUSY_SIGNS
from flows.output import Output
from flows.processes import Prepared

DVC_CHATTER = (
    "Running stage ",
    "Generating lock file ",
    "Updating lock file ",
    "To track the changes with git, run:",
    "git add ",
    "To enable auto staging, run:",
    "dvc config core.autostage true",
    "Use `dvc push` to send your updates to remote storage.",
    "Data and pipelines are up to date.",
    "Stage '",
    "> ",
)
"""How lines begin that DVC writes around a stage and that say nothing to who watches the pipeline."""


class StageError(Exception):
    """A stage failed for a reason that the user did not cause.

    Args:
        stage: its name.
        code: exit code of the stage itself, or of `dvc repro` if the stage never ran.
        message: what it said, one line.
    """

    def __init__(self, stage: str, code: int, message: str) -> None:
        super().__init__(redact_text(f"{stage}: {message}"))
        self.stage = stage
        self.code = code

    @property
    def may_pass_next_time(self) -> bool:
        """Whether it crashed or was killed; every other exit code is a decision that a second try repeats."""
        return self.code == 1 or (self.code > 128 and self.code not in (130, 143))


@dataclass(frozen=True)
class Reproduced:
    """A stage that is up to date now."""

    stage: str
    is_cached: bool
    """DVC found nothing to do, or took the outs from its run cache."""
    seconds: float


DVC_IMPORTS = ("dvc.cli.parser", "dvc.repo", "dvc.stage", "dvc.output", "dvc.repo.reproduce")
"""What makes the start of DVC slow."""


class Reproducer:
    """Runs stages, each as `dvc repro --single-item STAGE` in a child that ends when this process does.

    A next DVC is started, and has done its imports, while a stage works: nine stages would wait for five seconds.

    Args:
        root: the project's root.
        terminal: let stages show progress bars.
    """

    def __init__(self, root: Path, *, terminal: bool = False) -> None:
        self._root = root
        self._terminal = terminal
        self._next: Prepared | None = None

    def __enter__(self) -> "Reproducer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._next is not None:
            self._next.discard(grace=0)
            self._next = None

    def prepare(self) -> None:
        """Starts the next DVC."""
        if self._next is None:
            self._next = Prepared(
                "dvc", environment=child_environment(), folder=self._root, imports=DVC_IMPORTS, terminal=self._terminal
            )

    def repro(
        self,
        stage: str,
        on_output: Callable[[Output], None],
        *,
        parent_run_id: str | None = None,
        is_last: bool = False,
    ) -> Reproduced:
        """Brings one stage up to date.

        Args:
            stage: its name in dvc.yaml.
            on_output: called with what the stage prints, as it comes, without DVC's own lines.
            parent_run_id: MLflow run that the stage's own run belongs to.
            is_last: no other stage follows, so that no next DVC is started.

        Raises:
            UserError: if the stage ended with one; its message is the stage's.
            StageError: if it failed otherwise.
        """
        start = time.monotonic()
        self.prepare()
        dvc, self._next = self._next, None
        assert dvc is not None
        with tempfile.TemporaryDirectory(prefix="selfsight-") as folder:
            exit_file = Path(folder) / "exit.json"
            listener = _Listener(stage, exit_file, on_output, _nothing if is_last else self.prepare)
            told = {"EXIT_FILE": str(exit_file), "LIFELINE": str(os.getpid()), "PARENT_RUN_ID": parent_run_id}
            environment = {f"SELFSIGHT_{name}": value for name, value in told.items() if value is not None}
            code = dvc.run(["repro", "--single-item", stage], listener, environment)
            listener.release()
            if code != 0:
                raise _failure(stage, code, _read_exit_file(exit_file), listener.error)
        return Reproduced(stage, listener.is_cached, time.monotonic() - start)


def _nothing() -> None:
    return


class _Listener:
    """Passes on what the stage prints, and notes what DVC says about it.

    `on_start` is called when the stage begins to work. A line that the stage's exit file turns out to repeat is held
    back: whoever handles the error shows it.
    """

    def __init__(
        self, stage: str, exit_file: Path, pass_on: Callable[[Output], None], on_start: Callable[[], None]
    ) -> None:
        self._stage = stage
        self._on_start = on_start
        self._exit_file = exit_file
        self._pass_on = pass_on
        self._held: Output | None = None
        self._has_started = False
        self.is_cached = False
        self.error = ""

    def __call__(self, output: Output) -> None:
        if output.is_progress:
            # DVC's own bars, before and after the stage, flicker by
            if self._has_started and not self._exit_file.exists():
                self._pass_on(output)
            return
        line = output.text
        self.release()
        if line.startswith("ERROR: "):
            self.error = line.removeprefix("ERROR: ")
            return
        if line.startswith(f"Stage '{self._stage}' ") and ("didn't change" in line or "is cached" in line):
            self.is_cached = True
        if line == f"Running stage '{self._stage}':":
            self._has_started = True
            self._on_start()
        if line.lstrip().startswith(DVC_CHATTER):
            return
        if line.startswith(f"{self._stage}: "):
            self._held = output
            return
        self._pass_on(output)

    def release(self) -> None:
        """Passes on the line that was held back, unless the exit file repeats it."""
        held, self._held = self._held, None
        if held is not None and held.text != f"{self._stage}: {_read_exit_file(self._exit_file).get('message')}":
            self._pass_on(held)


def _failure(stage: str, dvc_code: int, told: dict[str, Any], dvc_error: str) -> Exception:
    """The error to raise: the stage's own exit code where it left one, else what DVC said."""
    message = str(told.get("message", ""))
    code = int(told.get("code", 0))
    if code == USER_ERROR_EXIT_CODE:
        what, _, remedy = message.rpartition(": ")
        return UserError(f"{stage}: {what}", remedy=remedy)
    if code:
        return StageError(stage, code, message)
    if dvc_code < 0:
        return StageError(stage, 128 - dvc_code, f"dvc repro was killed by signal {-dvc_code}")
    if any(sign in dvc_error for sign in BUSY_SIGNS):
        return UserError(f"{stage}: {BUSY}", remedy=BUSY_REMEDY)
    cause = dvc_error.removeprefix(f"failed to reproduce '{stage}': ") or f"dvc repro ended with exit code {dvc_code}"
    return StageError(stage, _exit_code_in(cause) or 1, cause)


def _exit_code_in(cause: str) -> int | None:
    """The stage's exit code in DVC's `failed to run: CMD, exited with N`, for stages that leave no exit file."""
    _, found, code = cause.rpartition(", exited with ")
    if not found or not code.lstrip("-").isdigit():
        return None
    return int(code) if int(code) >= 0 else 128 - int(code)


def _read_exit_file(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
