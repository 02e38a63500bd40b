"""Checkpoints that are there whole or not at all.

`ROOT/step-00000120/` holds safetensors files, `state.json` and `manifest.json` with the SHA-256 of each of them. It is
written as a temporary folder, flushed, read back against the manifest, marked with the file `verified`, and renamed;
only then `newest.json` is replaced and older checkpoints are deleted. What a kill leaves behind is either a temporary
folder, which nothing reads, or a whole checkpoint. Reading verifies again and takes the newest one that passes.

Steps order the checkpoints of one history only. A run that starts anew, or before a damaged checkpoint, therefore first
removes what lies above its start: it would pass for newer than whatever this run writes.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.durable import sync
from components.tracking.locking import file_lock

_log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
VERIFIED = "verified"
POINTER = "newest.json"
STATE = "state.json"
LOCK = ".lock"
"""Held by whoever trains."""
CHUNK_BYTES = 1 << 22
AHEAD_BYTES = 1 << 25
_PREFIX = "step-"
_PARTIAL = ".partial-"


class CheckpointError(Exception):
    """A checkpoint does not hold what its manifest says."""


class CheckpointStore:
    """The checkpoints of one training run.

    Args:
        folder: of this run, made on the first write.
        keep: how many whole checkpoints stay.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def partial(self, step: int) -> Path:
        """The temporary folder in which the checkpoint of a step is written; made by `begin`."""
        return self.folder / f"{_PARTIAL}{_name(step)}"

    def begin(self, step: int) -> Path:
        """An empty temporary folder; what earlier kills left behind is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self.partial(step).mkdir()
        return self.partial(step)

    def commit(self, step: int, digests: Mapping[str, str]) -> Path:
        """Makes the temporary folder of a step the newest checkpoint.

        Args:
            step: its step.
            digests: SHA-256 of each file, as computed from memory while writing.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: if what lies on the disk is not what was written.
            OSError: if there is no space; earlier checkpoints are untouched.
        """
        partial, final = self.partial(step), self.folder / _name(step)
        write_durably(partial / MANIFEST, json.dumps({"step": step, "files": dict(digests)}, indent=1).encode())
        _check_files(partial)
        write_durably(partial / VERIFIED, b"")
        sync(partial)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        sync(self.folder)
        self._point(step)
        self._retain(step)
        return final

    def abandon(self, step: int) -> None:
        """Removes the temporary folder of a step that could not be written: the disk may be full of it."""
        shutil.rmtree(self.partial(step), ignore_errors=True)

    def newest(self, *, at_most: int | None = None) -> Path | None:
        """The newest checkpoint that verifies; those that do not are named in the log and passed over.

        Args:
            at_most: pass over those of later steps as well.
        """
        found = self._found()
        pointed = self._pointed()
        if found and pointed != found[-1][0]:
            _log.warning("%s names step %s, the newest checkpoint is that of step %d", POINTER, pointed, found[-1][0])
        for step, folder in reversed(found):
            if at_most is not None and step > at_most:
                continue
            try:
                verify(folder)
            except CheckpointError as error:
                _log.warning("%s is damaged (%s); taking the one before", folder, error)
            else:
                return folder
        return None

    def peek(self) -> dict[str, Any] | None:
        """`state.json` of the newest checkpoint that has a readable one; nothing else is verified."""
        for _, folder in reversed(self._found()):
            try:
                return read_state(folder)
            except CheckpointError:
                continue
        return None

    def discard_above(self, step: int) -> None:
        """Removes every checkpoint of a later step, whole or damaged: the run is at `step`, they are of another one.

        Args:
            step: at which the run starts; 0: none of the checkpoints is its own.

        Raises:
            OSError: if the pointer cannot be set back.
        """
        obsolete = [(at, folder) for at, folder in self._folders() if at > step]
        # The newest goes last: a kill in between must not leave one that looks like that of an interrupted run.
        for _, folder in obsolete:
            _log.info("%s is not of this run, which stands at step %d: removed", folder, step)
            shutil.rmtree(folder, ignore_errors=True)
        pointed = self._pointed()
        if pointed is None or pointed <= step:
            return
        if step:
            self._point(step)
        else:
            (self.folder / POINTER).unlink()

    def _found(self) -> list[tuple[int, Path]]:
        return [(step, folder) for step, folder in self._folders() if (folder / VERIFIED).exists()]

    def _folders(self) -> list[tuple[int, Path]]:
        """All that is named like a checkpoint, by step."""
        named = [(step_of(path.name), path) for path in self.folder.glob(f"{_PREFIX}*")]
        return sorted((step, path) for step, path in named if step >= 0)

    def _pointed(self) -> int | None:
        try:
            return int(json.loads((self.folder / POINTER).read_bytes())["step"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _point(self, step: int) -> None:
        temporary = self.folder / f".{POINTER}"
        write_durably(temporary, json.dumps({"step": step}).encode())
        temporary.replace(self.folder / POINTER)
        sync(self.folder)

    def _retain(self, step: int) -> None:
        """Keeps the checkpoint of `step`, just committed, and the newest ones before it."""
        self.discard_above(step)
        kept = self._found()[-self.keep :]
        for one in self._folders():
            if one not in kept:  # what a kill has left of an earlier deletion as well
                shutil.rmtree(one[1], ignore_errors=True)


def verify(folder: Path) -> None:
    """Checks every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: naming the file.
    """
    if not (folder / VERIFIED).exists():
        raise CheckpointError(f"{VERIFIED} is missing")
    _check_files(folder)


def read_state(folder: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint.

    Raises:
        CheckpointError: if it is missing or no JSON object.
    """
    try:
        state = json.loads((folder / STATE).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{STATE}: {error}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{STATE} holds no object")
    return state


def write_durably(path: Path, content: bytes) -> str:
    """Writes and flushes to the disk.

    Returns:
        SHA-256 of the content, hexadecimal.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def _check_files(folder: Path) -> None:
    try:
        files = dict(json.loads((folder / MANIFEST).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{MANIFEST}: {type(error).__name__}") from None
    with ThreadPoolExecutor() as pool:
        found = {name: pool.submit(_sha256, folder / name) for name in files}
    for name, digest in files.items():
        try:
            same = found[name].result() == digest
        except OSError as error:
            raise CheckpointError(f"{name}: {error.strerror}") from None
        if not same:
            raise CheckpointError(f"{name}: its SHA-256 is not that of the manifest")


def _sha256(path: Path) -> str:
    """Of a file, hexadecimal; the disk reads the next chunks while one is hashed."""
    digest = hashlib.sha256()
    chunk = memoryview(bytearray(CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            os.posix_fadvise(file.fileno(), file.tell(), AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            digest.update(chunk[:count])
    return digest.hexdigest()


def forget_old_runs(root: Path, name: str, *, keep: int) -> None:
    """Removes the checkpoints of all but the newest runs of a stage; those in use stay.

    Args:
        root: holds a folder a run.
        name: of the stage.
        keep: runs that stay.
    """
    runs = sorted(root.glob(f"{name}-*"), key=lambda folder: folder.stat().st_mtime)
    for folder in runs[:-keep]:
        with file_lock(folder / LOCK, blocking=False) as mine:
            if mine:
                shutil.rmtree(folder, ignore_errors=True)


def _name(step: int) -> str:
    return f"{_PREFIX}{step:08d}"


def step_of(name: str) -> int:
    """The step in the name of a checkpoint; -1 for another name."""
    number = name.removeprefix(_PREFIX)
    return int(number) if name.startswith(_PREFIX) and number.isdecimal() else -1
