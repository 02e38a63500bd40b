"""The append-only journal and its sender.

A journal file holds JSON lines: a head (what the run is), then metrics, tags, artifacts and an end. The byte
offset up to which MLflow has everything is kept beside it and replaced atomically. A line that was sent but not yet
marked is sent again after a crash; MLflow ignores it, because it carries the same key, step, time and value.
"""

import errno
import json
import logging
import os
import shutil
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from components.settings import Settings, get_settings
from components.tracking.locking import file_lock
from components.tracking.mlflow_store import client, find_or_create_run

_log = logging.getLogger(__name__)
BATCH_LINES = 900
PERIOD_SECONDS = 1.0
BACK_OFF_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
REFUSED = ".refused"
LATER = (401, 403, 408, 429)
"""Statuses that say nothing of what was sent: credentials to mend, or a server to wait for."""


class Journal:
    """One writer's journal of one run.

    Args:
        key: identity of the run; several journals (a stage and its worker) may share it.
        head: name, params, tags and parent of the run, used when MLflow does not know it yet.
        settings: where journals and MLflow are.
    """

    def __init__(self, key: str, head: dict[str, Any], settings: Settings) -> None:
        settings.journals.mkdir(parents=True, exist_ok=True)
        self.key = key
        self.path = settings.journals / f"{key}.{uuid.uuid4().hex[:8]}.jsonl"
        self.spool = self.path.with_suffix(".files")
        self._settings = settings
        # before the journal exists, so that no replay takes it for that of a dead process
        self._alive = file_lock(self.path.with_suffix(".alive"))
        self._alive.__enter__()
        self._file = self.path.open("ab", buffering=0)
        self._lossy = False
        self._write_lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self.failed = threading.Event()
        self.append({"kind": "head", **head})
        self._thread = threading.Thread(target=self._send_forever, name="tracking", daemon=True)
        self._thread.start()

    def append(self, record: dict[str, Any]) -> None:
        """Adds one line; returns as soon as the operating system has it.

        Where it cannot be written (a full disk), it is dropped with a warning: the work that is tracked goes on.
        """
        line = json.dumps({"time": int(time.time() * 1000), **record}, default=float).encode() + b"\n"
        with self._write_lock:
            whole = self._file.seek(0, os.SEEK_END)
            try:
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self._file.truncate(whole)
                self._warn(error)

    def keep_file(self, path: Path) -> Path | None:
        """A copy of `path` that stays until it is sent; None, with a warning, where there is no room for it."""
        target = self.spool / uuid.uuid4().hex / path.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copy2(path, target)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(target.parent, ignore_errors=True)
            self._warn(error)
            return None
        return target

    def _warn(self, error: Exception) -> None:
        if not self._lossy:
            self._lossy = True
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            _log.warning("the journal %s cannot be written (%s); metrics are lost meanwhile", self.path, reason)

    def close(self, patience: float) -> bool:
        """Sends what is left, for at most `patience` seconds; the rest stays for a replay.

        Returns:
            Whether MLflow has everything.
        """
        self._stop.set()
        self._wake.set()
        self._thread.join(patience)
        self._file.close()
        complete = not self._thread.is_alive() and _sent_offset(self.path) == self.path.stat().st_size
        self._alive.__exit__(None, None, None)
        if complete:
            _remove(self.path)
        return complete

    def _send_forever(self) -> None:
        failures = 0
        while True:
            stopping = self._stop.is_set()
            try:
                send(self.path, self._settings)
                failures = 0
                self.failed.clear()
            except LookupError:
                failures = 0  # the process that opened the run has not sent its head yet
            except Exception as error:  # MLflow may fail in any way; training must not notice
                log = _log.warning if failures == 0 else _log.debug
                log("MLflow is away (%s); the journal keeps what is logged", type(error).__name__)
                failures += 1
                self.failed.set()
            if stopping:
                return
            wait = BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS)) - 1] if failures else PERIOD_SECONDS
            self._wake.wait(wait)
            self._wake.clear()


def send(path: Path, settings: Settings) -> None:
    """Sends the unsent lines of one journal, in order.

    Raises:
        Exception: whatever MLflow raised; what had been sent before is marked as sent.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        head = json.loads(file.readline())
        run_id = find_or_create_run(path.name.split(".")[0], head, settings)
        file.seek(max(_sent_offset(path), file.tell()))
        while lines := _whole_lines(file, BATCH_LINES):
            _send_records(run_id, [json.loads(line) for line in lines], settings)
            _mark_sent(path, file.tell())
        _mark_sent(path, file.tell())


def replay_journals(settings: Settings | None = None) -> int:
    """Sends the journals that dead processes left behind, and ends the runs that nobody ended.

    A journal that MLflow refuses (its run was deleted) is set aside under the ending `.refused`. One that cannot be
    sent for another reason waits for the next replay. Neither stops the others.

    Returns:
        How many journals were sent completely. Journals of living processes are left alone.
    """
    settings = settings or get_settings()
    replayed: list[Path] = []
    for path in sorted(settings.journals.glob("*.jsonl"), key=_written):
        with file_lock(path.with_suffix(".alive"), blocking=False) as mine:
            if not mine or not path.exists():
                continue
            try:
                head, last = _first_and_last(path)
                if head is not None:
                    send(path, settings)
                    _end_run_of_the_dead(path, head, last, settings)
            except LookupError:
                continue  # the journal of the process that opened the run has not been sent yet
            except Exception as error:  # MLflow and its artifact stores may fail in any way
                if _is_refused(error):
                    _set_aside(path, error)
                    continue
                _log.warning("cannot replay %s: %s", path.name, type(error).__name__)
                if _is_away(error):
                    break
                continue
            _remove(path)
            replayed.append(path)
    return len(replayed)


def _is_refused(error: Exception) -> bool:
    """Whether MLflow answered that it will not take this, now or later."""
    return (status := _status(error)) is not None and 400 <= status < 500 and not _is_away(error)


def _is_away(error: Exception) -> bool:
    """Whether nothing can be sent for now: no server, one that is ill or overloaded, or that does not know who asks."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    status = _status(error)
    return status is not None and (status >= 500 or status in LATER)


def _status(error: Exception) -> int | None:
    """HTTP status of what MLflow raised; None of anything else."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return None
    # an address without MLflow's interface is not MLflow's
    return 503 if error.error_code == "ENDPOINT_NOT_FOUND" else int(error.get_http_status_code())


def _set_aside(path: Path, error: Exception) -> None:
    """Keeps a journal, with its files, where no replay looks."""
    kept = path.with_suffix(REFUSED)
    path.replace(kept)
    path.with_suffix(".alive").unlink(missing_ok=True)
    reason = (str(error).splitlines() or [""])[0][:200]
    _log.warning("MLflow refuses what a killed run left (%s); it is kept as %s", reason, kept)


def _written(path: Path) -> float:
    """When a journal was last written; its owner may have sent and removed it meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _first_and_last(path: Path) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The first and the last whole record; None for a process that was killed before it could say what run it is."""
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return (json.loads(lines[0]), json.loads(lines[-1])) if lines else (None, {})


def _end_run_of_the_dead(path: Path, head: dict[str, Any], last: dict[str, Any], settings: Settings) -> None:
    """Marks the run of a killed process as killed, unless it is over or a living process goes on with it."""
    key = path.name.split(".")[0]
    others = [one for one in path.parent.glob(f"{key}.*.jsonl") if one != path]
    if last["kind"] == "end" or any(_is_alive(one) for one in others):
        return
    made, run_id = client(settings), find_or_create_run(key, head, settings)
    if made.get_run(run_id).info.status == "RUNNING":
        made.set_terminated(run_id, "KILLED", last["time"])


def _is_alive(path: Path) -> bool:
    with file_lock(path.with_suffix(".alive"), blocking=False) as mine:
        return not mine


def _send_records(run_id: str, records: list[dict[str, Any]], settings: Settings) -> None:
    from mlflow.entities import Metric, RunTag

    made = client(settings)
    metrics = [
        Metric(name, value, record["time"], record["step"] or 0)
        for record in records
        if record["kind"] == "metrics"
        for name, value in record["values"].items()
    ]
    tags = {name: value for r in records if r["kind"] == "tags" for name, value in r["values"].items()}
    for start in range(0, len(metrics), BATCH_LINES):
        made.log_batch(run_id, metrics=metrics[start : start + BATCH_LINES])
    if tags:
        made.log_batch(run_id, tags=[RunTag(name, str(value)[:5000]) for name, value in tags.items()])
    for record in records:
        if record["kind"] == "artifact":
            file = Path(record["path"])
            log = made.log_artifacts if file.is_dir() else made.log_artifact
            folder = f"{record['folder']}/{file.name}".strip("/") if file.is_dir() else record["folder"]
            log(run_id, str(file), folder or None)
        elif record["kind"] == "start":
            made.update_run(run_id, status="RUNNING")
        elif record["kind"] == "end":
            made.set_terminated(run_id, record["status"], record["time"])


def _whole_lines(file: Any, limit: int) -> list[bytes]:
    """Up to `limit` complete lines; a half-written last line is left for later."""
    lines: list[bytes] = []
    while len(lines) < limit:
        position = file.tell()
        line = file.readline()
        if not line.endswith(b"\n"):
            file.seek(position)
            break
        lines.append(line)
    return lines


def _sent_offset(path: Path) -> int:
    mark = path.with_suffix(".sent")
    return int(mark.read_text()) if mark.exists() else 0


def _mark_sent(path: Path, offset: int) -> None:
    mark = path.with_suffix(".sent")
    temporary = mark.with_name(f"{mark.name}.{os.getpid()}")
    temporary.write_text(str(offset))
    temporary.replace(mark)


def _remove(path: Path) -> None:
    shutil.rmtree(path.with_suffix(".files"), ignore_errors=True)
    for leftover in (path, path.with_suffix(".sent"), path.with_suffix(".alive")):
        leftover.unlink(missing_ok=True)
