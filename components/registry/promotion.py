"""Which version is the champion, and how that came about.

MLflow's aliases are last-writer-wins and have no history. Here every change is made under a lock, only if the champion
is still the one that the decision was made against, and is recorded as a tag of the registered model. The entry is
written before the alias moves: a kill in between leaves an entry that is not true, which the next change finds and
corrects. The lock is a file: it serialises processes that share `SELFSIGHT_HOME`, not machines.
"""

import json
import os
import pwd
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from components.errors import UserError
from components.registry.versions import (
    CHAMPION,
    RegisteredVersion,
    by_number,
    champion,
    registered_model,
    registry,
    registry_lock,
)
from components.settings import Settings

_TAG = "history."
JUDGEMENT_TAG = "gate"
Action = Literal["promote", "rollback", "refuse", "found"]


class PromotionConflict(UserError):
    """The champion is not the one that the decision was made against."""


@dataclass(frozen=True)
class HistoryEntry:
    """One change of the champion, or an attempt at one."""

    number: int
    action: Action
    """`found`: the champion was not what the history said: moved by hand, or a change was killed half-way."""
    version: str | None
    """Champion after the change; of `refuse` the version that was refused; None: no champion."""
    previous: str | None
    """Champion before."""
    by: str
    """user@host"""
    time: str
    """UTC, ISO 8601"""
    reason: str

    def __str__(self) -> str:
        change = f"{self.previous or '–'} → {self.version or '–'}"
        return f"{self.time}  {self.action:<8}  {change}  {self.by}  {self.reason}"


def current_champion(settings: Settings) -> str | None:
    """Version number of the champion; None while there is none. Pass it on to `promote` as what was decided against.

    Raises:
        RegistryUnavailable: if MLflow does not answer.
    """
    found = champion(settings)
    return found.version if found else None


def promote(version: str, settings: Settings, *, expected: str | None, reason: str) -> HistoryEntry:
    """Makes a version the champion.

    Args:
        version: number of a registered version.
        settings: where MLflow is.
        expected: the champion that the decision was made against, from `current_champion`.
        reason: why, for the history.

    Returns:
        What was recorded.

    Raises:
        PromotionConflict: if the champion is another one by now; the attempt is recorded as refused.
        UserError: if there is no such version, or it is the champion already.
        RegistryUnavailable: if MLflow does not answer.
    """
    by_number(version, settings)
    with registry_lock(settings):
        entries, current = _reconciled(settings)
        if current != expected:
            _record(settings, entries, "refuse", version, current, f"decided against {_named(expected)}: {reason}")
            raise PromotionConflict(
                f"version {version} is not promoted: champion is {_named(current)}, no longer {_named(expected)}",
                remedy="compare with the present champion and promote again",
            )
        if current == version:
            raise UserError(f"version {version} is the champion already", remedy="nothing is left to do")
        return _change(settings, entries, "promote", version, current, reason)


def record_judgement(version: RegisteredVersion, judgement: str, settings: Settings) -> None:
    """Notes on a version what the gate said of it, so that the loop does not ask again.

    Raises:
        RegistryUnavailable: if MLflow does not answer.
    """
    with registry(settings) as made:
        made.set_model_version_tag(version.name, version.version, JUDGEMENT_TAG, judgement[:1000])


def is_judged(version: RegisteredVersion) -> bool:
    """Whether the gate's word on a version is on record: a person who decides otherwise later is not overruled."""
    return JUDGEMENT_TAG in version.tags


def rollback(settings: Settings, *, reason: str) -> HistoryEntry:
    """Makes the champion before the present one champion again; a second call goes one further back.

    Args:
        settings: where MLflow is.
        reason: why, for the history.

    Returns:
        What was recorded.

    Raises:
        UserError: if there is no champion before this one.
        RegistryUnavailable: if MLflow does not answer.
    """
    with registry_lock(settings):
        entries, current = _reconciled(settings)
        earlier = champions(entries)[:-1]
        if current is None or not earlier:
            raise UserError(
                f"no champion came before {_named(current)}", remedy="`selfsight promote VERSION` makes another one"
            )
        by_number(earlier[-1], settings)
        return _change(settings, entries, "rollback", earlier[-1], current, reason)


def history(settings: Settings) -> list[HistoryEntry]:
    """All recorded changes and refusals, oldest first.

    Raises:
        RegistryUnavailable: if MLflow does not answer.
    """
    model = registered_model(settings)
    tags = model.tags if model else {}
    entries = [HistoryEntry(**json.loads(value)) for name, value in tags.items() if name.startswith(_TAG)]
    return sorted(entries, key=lambda entry: entry.number)


def champions(entries: list[HistoryEntry]) -> list[str]:
    """The versions a rollback walks back along; the last one is the champion.

    Args:
        entries: a history, oldest first.
    """
    stack: list[str] = []
    for entry in entries:
        if entry.action == "refuse":
            continue
        if entry.version is None:
            stack = []
        elif entry.action != "promote" and entry.version in stack:
            last = len(stack) - 1 - stack[::-1].index(entry.version)
            stack = stack[: last + 1]
        else:
            stack.append(entry.version)
    return stack


def _reconciled(settings: Settings) -> tuple[list[HistoryEntry], str | None]:
    """The history, made to agree with the champion that there is."""
    entries, current = history(settings), current_champion(settings)
    believed = champions(entries)
    if (believed[-1] if believed else None) != current:
        reason = "the alias was not where the history says"
        entries.append(_record(settings, entries, "found", current, believed[-1] if believed else None, reason))
    return entries, current


def _change(
    settings: Settings, entries: list[HistoryEntry], action: Action, version: str, previous: str | None, reason: str
) -> HistoryEntry:
    entry = _record(settings, entries, action, version, previous, reason)
    with registry(settings) as made:
        made.set_registered_model_alias(settings.model_name, CHAMPION, version)
    return entry


def _record(
    settings: Settings,
    entries: list[HistoryEntry],
    action: Action,
    version: str | None,
    previous: str | None,
    reason: str,
) -> HistoryEntry:
    number = entries[-1].number + 1 if entries else 1
    by = f"{_user()}@{socket.gethostname()}"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entry = HistoryEntry(number, action, version, previous, by, now, reason[:1000])
    with registry(settings) as made:
        made.set_registered_model_tag(settings.model_name, f"{_TAG}{number:06d}", json.dumps(asdict(entry)))
    return entry


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        return str(os.getuid())


def _named(version: str | None) -> str:
    return f"version {version}" if version else "none"
