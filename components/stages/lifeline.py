"""Ends a stage when the process that asked for it is gone, so that no orphan keeps writing."""

import logging
import os
import threading
import time
from contextlib import suppress

import psutil

_log = logging.getLogger(__name__)
PERIOD_SECONDS = 0.5
ORPHANED_EXIT_CODE = 137


def follow_parents(extra_pid: int | None = None) -> None:
    """Watches `dvc` above this process, all between, and `extra_pid`; when one dies, so does this process tree.

    A parent-death signal would not do: it follows the thread that forked, and orchestrators fork from worker
    threads. Nothing is watched when no `dvc` is above (a stage started by hand may outlive its shell).

    Args:
        extra_pid: another process to follow, the orchestrator; None for none.
    """
    watched = _ancestors_up_to_dvc()
    if extra_pid is not None:
        try:
            watched.append(psutil.Process(extra_pid))
        except psutil.NoSuchProcess:
            _end_tree(f"process {extra_pid}")
    if watched:
        threading.Thread(target=_watch, args=(watched,), name="lifeline", daemon=True).start()


def _ancestors_up_to_dvc() -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for ancestor in psutil.Process().parents():
        found.append(ancestor)
        try:
            if any(_names_dvc(part) for part in ancestor.cmdline()[:4]):
                return found
        except psutil.Error:
            break
    return []


def _names_dvc(argument: str) -> bool:
    return argument == "dvc" or argument.endswith(("/dvc", "/dvc/__main__.py"))


def _watch(watched: list[psutil.Process]) -> None:
    while True:
        for process in watched:
            # is_running() compares creation times, so that a reused pid does not count
            if not process.is_running() or _is_zombie(process):
                _end_tree(f"process {process.pid}")
        time.sleep(PERIOD_SECONDS)


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _end_tree(gone: str) -> None:
    # the reader of the log may be gone too, and rich answers a broken pipe with SystemExit
    with suppress(Exception, SystemExit):
        _log.error("%s is gone: ending this stage", gone)
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.Error:
            continue
    os._exit(ORPHANED_EXIT_CODE)
