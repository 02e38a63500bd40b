"""Mends what a killed DVC leaves behind and its successors stumble over."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import psutil

from components.errors import UserError
from components.tracking.locking import file_lock

_log = logging.getLogger(__name__)
CLOCK_SLACK_SECONDS = 2.0
MERGE_MARK = "<<<<<<<"
BUSY = "another DVC works in this working tree"
BUSY_REMEDY = "wait until it is done, or stop it"
BUSY_SIGNS = ("is busy, it is being blocked by", "Unable to acquire lock")
"""What DVC says when it waits in vain for a lock."""


def clear_stale_locks(root: Path) -> None:
    """Removes claims on outs that no living DVC holds, and an unreadable record of claims.

    DVC's own lock files are advisory and die with their holder. Its record of who reads and writes which out,
    `.dvc/tmp/rwlock`, is a plain file: DVC forgets the claims of pids that do not exist, but believes those of a pid
    that another program has by now (always so in a restarted container), and refuses a record cut short by a kill.

    Args:
        root: the project's root. Nothing happens while another DVC edits the record.
    """
    record = root / ".dvc" / "tmp" / "rwlock"
    if not record.exists():
        return
    with file_lock(record.with_name("rwlock.lock"), blocking=False) as is_mine:
        if not is_mine:
            return
        claims = _read(record)
        living = None if claims is None else _keep_living(claims, record.stat().st_mtime)
        if living is None or living != claims:
            _log.warning("%s: removed what a killed DVC left behind", record)
            _replace(record, living or {})


def mend_lock(root: Path) -> None:
    """Sets a `dvc.lock` aside that a kill has cut short: DVC writes it in place and refuses a damaged one.

    DVC's run cache then gives back the outs of every stage that has run, so that nothing runs again for it.

    Args:
        root: the project's root.

    Raises:
        UserError: if git has left the marks of a merge in it.
    """
    lock = root / "dvc.lock"
    try:
        text = lock.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    if _is_lock(text):
        return
    if MERGE_MARK in text:
        raise UserError(f"{lock}: the marks of a merge are in it", remedy="`git checkout --ours dvc.lock`, or --theirs")
    aside = root / ".dvc" / "tmp" / "dvc.lock.damaged"
    _log.warning("%s was cut short: it is set aside as %s", lock, aside)
    lock.replace(aside)


def _is_lock(text: str) -> bool:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from ruamel.yaml import YAML, YAMLError
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe", pure=True).load(text) or {})
    except (YAMLError, Invalid):
        return False
    return True


def _read(record: Path) -> dict[str, Any] | None:
    try:
        claims = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None


def _keep_living(claims: dict[str, Any], written: float) -> dict[str, Any]:
    readers = {
        path: [claim for claim in found if _is_living_dvc(claim, written)]
        for path, found in claims.get("read", {}).items()
    }
    writers = {path: claim for path, claim in claims.get("write", {}).items() if _is_living_dvc(claim, written)}
    kept = {"read": {path: found for path, found in readers.items() if found}, "write": writers}
    return {mode: kept[mode] for mode in claims if mode in kept}


def _is_living_dvc(claim: dict[str, Any], written: float) -> bool:
    try:
        process = psutil.Process(int(claim["pid"]))
        is_older_than_claim = process.create_time() <= written + CLOCK_SLACK_SECONDS
        return is_older_than_claim and any("dvc" in part or "selfsight" in part for part in process.cmdline())
    except (psutil.Error, KeyError, ValueError):
        return False


def _replace(record: Path, claims: dict[str, Any]) -> None:
    temporary = record.with_name(f"{record.name}.{os.getpid()}")
    temporary.write_text(json.dumps(claims), encoding="utf-8")
    temporary.replace(record)
