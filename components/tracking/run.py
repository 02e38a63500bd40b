"""A run as the rest of the system sees it."""

import math
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from components.settings import Settings, get_settings
from components.tracking.journal import Journal, replay_journals
from components.tracking.mlflow_store import flatten

FLUSH_SECONDS = 60.0
AWAY_SECONDS = 3.0


class Run:
    """Logs to the journal; never raises because MLflow is away.

    Args:
        journal: where records go.
        settings: where MLflow is.
    """

    def __init__(self, journal: Journal, settings: Settings) -> None:
        self._journal = journal
        self._settings = settings

    @property
    def key(self) -> str:
        """The local identity of the run, valid whether MLflow is there or not; pass it to `attach_run`."""
        return self._journal.key

    @property
    def run_id(self) -> str:
        """The MLflow run id; while MLflow is away, `journal:KEY`, and the MLflow run will carry KEY as a tag."""
        known = self._settings.journals / f"{self.key}.id"
        deadline = time.monotonic() + FLUSH_SECONDS
        while not known.exists() and not self._journal.failed.is_set() and time.monotonic() < deadline:
            time.sleep(0.02)
        return known.read_text() if known.exists() else f"journal:{self.key}"

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Records numbers; non-finite ones are left out, because no store agrees on them.

        Args:
            values: metric name to value.
            step: training step, or None for a value of the whole run.
        """
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self._journal.append({"kind": "metrics", "values": finite, "step": step})

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Sets tags of the run."""
        self._journal.append({"kind": "tags", "values": dict(values)})

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Stores a file or a folder with the run.

        Args:
            path: what to store; it is copied at once and may change afterwards.
            folder: folder inside the run's artifacts.
        """
        kept = self._journal.keep_file(path)
        if kept is not None:
            self._journal.append({"kind": "artifact", "path": str(kept), "folder": folder})

    def log_text(self, text: str, name: str) -> None:
        """Stores `text` as the artifact `name` (may contain folders)."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(name).name
            file.write_text(text, encoding="utf-8")
            self.log_artifact(file, str(Path(name).parent).removeprefix("."))

    def _end(self, status: str) -> None:
        self._journal.append({"kind": "end", "status": status})


@contextmanager
def start_run(
    name: str,
    *,
    params: Mapping[str, object],
    tags: Mapping[str, str] | None = None,
    resume_key: str | None = None,
    settings: Settings | None = None,
) -> Iterator[Run]:
    """Opens a run for the length of the block; it ends as FINISHED, KILLED or FAILED with the block.

    Meanwhile, what dead processes have left in their journals is sent too.

    Args:
        name: name of the run, for a stage its own name.
        params: parameters, nested or flat.
        tags: tags beside those of the code version.
        resume_key: key of an earlier run to go on with.
        settings: where MLflow is; default: this process's settings.
    """
    settings = settings or get_settings()
    key = resume_key or uuid.uuid4().hex
    head = {
        "name": name,
        "params": flatten(dict(params)),
        "tags": dict(tags or {}),
        "parent": settings.parent_run_id,
    }
    journal = Journal(key, head, settings)
    run = Run(journal, settings)
    if resume_key:
        journal.append({"kind": "start"})
    replay = threading.Thread(target=replay_journals, args=(settings,), name="replay", daemon=True)
    replay.start()
    try:
        yield run
    except BaseException as error:
        run._end("KILLED" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "FAILED")
        _close(journal)
        raise
    run._end("FINISHED")
    _close(journal)
    replay.join(AWAY_SECONDS if journal.failed.is_set() else FLUSH_SECONDS)


@contextmanager
def attach_run(key: str, *, settings: Settings | None = None) -> Iterator[Run]:
    """Joins a run that another process opened (a training worker joins its stage's); it does not end it."""
    settings = settings or get_settings()
    journal = Journal(key, {"attached": True}, settings)
    try:
        yield Run(journal, settings)
    finally:
        _close(journal)


def _close(journal: Journal) -> None:
    journal.close(AWAY_SECONDS if journal.failed.is_set() else FLUSH_SECONDS)
