"""`selfsight forget`: images that must never be used again, and the way back."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from components.data.forgotten import ID, read_forgotten, write_forgotten
from components.data.tables import read_table
from components.errors import UserError
from components.redaction import redact_text
from components.registry.sightings import Sightings, who_saw
from components.registry.versions import RegistryUnavailable
from components.settings import Settings
from components.stages import paths
from flows.exclusion import sole_pipeline
from flows.naming import ImageNames

NEXT = "next       `selfsight run`, then `git add dvc.lock data metrics` and commit"
NEXT_COPIES = "next       the same with --copies, or the near-copies will be trained on"


def forget(images: Sequence[str], settings: Settings, *, reason: str, copies: bool, undo: bool) -> list[str]:
    """Puts images on the list of those that must never be used, or takes them off it.

    Args:
        images: as `ImageNames.identify` takes them.
        settings: where the project is.
        reason: kept in the log.
        copies: also their near-copies, as the last deduplication finds them, or one from before they were forgotten.
        undo: take them off the list.

    Returns:
        What was done and who has seen them, in lines.

    Raises:
        UserError: if an image is unknown or ambiguous, or is not on the list that it is to be taken off; nothing is
            changed then.
    """
    with sole_pipeline(settings.root):
        lock = settings.root / paths.FORGOTTEN_LOCK
        before = read_forgotten(lock)
        names = ImageNames(settings, before)
        ids = frozenset[str]().union(*(names.identify(one) for one in images))
        known = known_copies(settings)
        near = near_copies(ids, known)
        remaining = frozenset() if undo or copies else near - before
        ids |= near if copies else frozenset()
        if undo and not ids & before:
            raise UserError(f"{', '.join(images)}: not forgotten", remedy="`selfsight forget --list` shows which are")
        changed = ids & before if undo else ids - before
        if changed:
            found = {} if undo else {one: sorted(near_copies([one], known)) for one in changed}
            _log(changed, settings, action="undo" if undo else "forget", given=images, reason=reason, copies=found)
            write_forgotten(before - ids if undo else before | ids, lock)
    verb = "usable" if undo else "forgotten"
    coming = "" if undo else ": left out if it ever comes"
    lines = [f"{verb:<10} {_named(one, names, coming)}" for one in sorted(changed)]
    lines += [f"{'already':<10} {_named(one, names)}" for one in sorted(ids - changed) if not undo]
    lines += [f"near-copy  {_named(one, names)}: not forgotten" for one in sorted(remaining)]
    if remaining:
        lines.append(NEXT_COPIES)
    return [*lines, *(() if undo else seen_lines(ids, settings)), NEXT]


def _named(image_id: str, names: ImageNames, coming: str = "") -> str:
    """An id with its name, or with a note where the snapshot does not hold the image."""
    return f"{image_id} {names.name(image_id) or f'(not in the snapshot{coming})'}"


def known_copies(settings: Settings) -> dict[str, set[str]]:
    """Near-copies by image, both ways: as the last deduplication found them, and as the log tells.

    The last deduplication knows nothing of the images that were forgotten before it.
    """
    pairs = _logged_copies(settings)
    table = settings.root / paths.DEDUP / "pairs.parquet"
    if table.exists():
        found = read_table(table, ["first", "second"])
        pairs += zip(found["first"].to_pylist(), found["second"].to_pylist(), strict=True)
    copies: dict[str, set[str]] = {}
    for first, second in pairs:
        copies.setdefault(first, set()).add(second)
        copies.setdefault(second, set()).add(first)
    return copies


def near_copies(ids: Collection[str], copies: Mapping[str, Collection[str]]) -> frozenset[str]:
    """The near-copies of images over any number of steps, without the images themselves."""
    found, waiting = set(ids), list(ids)
    while waiting:
        new = set(copies.get(waiting.pop(), ())) - found
        found |= new
        waiting += new
    return frozenset(found - set(ids))


def seen_lines(ids: Collection[str], settings: Settings) -> list[str]:
    """Which registered versions have seen images, in lines; the registry being away is a line, too."""
    try:
        found = who_saw(ids, settings)
    except RegistryUnavailable as error:
        return [f"seen by    unknown: {error}"]
    return [f"seen by    {line}" for line in sighting_lines(found, len(ids))]


def sighting_lines(found: Sightings, count: int) -> list[str]:
    """One line for each version that has seen one of `count` images, or may have."""
    which = "it" if count == 1 else f"{{}} of {count}"
    lines = []
    for one in found.seen:
        said = [f"trained on {which.format(len(one.images))}"] if one.images else []
        said += [f"began with the weights of version {one.ancestor}"] if one.ancestor is not None else []
        carried = f" ({', '.join(one.aliases)})" if one.aliases else ""
        lines.append(f"version {one.version}{carried}: {', '.join(said)}")
    lines += [f"version {one.version}: unknown, {one.reason}" for one in found.unknown]
    return lines or ["no registered version"]


def forgotten_lines(settings: Settings) -> list[str]:
    """The list as it stands, with date and reason of each."""
    forgotten, latest = read_forgotten(settings.root / paths.FORGOTTEN_LOCK), _latest(settings)
    names = ImageNames(settings)
    lines = []
    for one in sorted(forgotten):
        entry = latest.get(one, {})
        lines.append(f"{entry.get('date', ''):<10} {one} {names.name(one)} {entry.get('reason', '')}".rstrip())
    return lines or ["no image is forgotten"]


def standing_lines(settings: Settings) -> list[str]:
    """What a run says about forgotten images; nothing where there are none."""
    try:
        forgotten = read_forgotten(settings.root / paths.FORGOTTEN_LOCK)
    except UserError:  # a stage that needs the list has said so
        return []
    if not forgotten:
        return []
    return [
        f"forgotten     {len(forgotten)} images, left out",
        *(f"  {line}" for line in seen_lines(forgotten, settings)),
    ]


def warning_lines(version: str, settings: Settings) -> list[str]:
    """What is said when a version becomes champion that has seen forgotten images, or may have; else nothing."""
    try:
        forgotten = read_forgotten(settings.root / paths.FORGOTTEN_LOCK)
        found = who_saw(forgotten, settings) if forgotten else Sightings((), ())
    except UserError as error:  # the version is champion by now
        return [f"warning: whether it has seen forgotten images is unknown: {error}"]
    of_it = Sightings(
        tuple(one for one in found.seen if one.version.version == version),
        tuple(one for one in found.unknown if one.version.version == version),
    )
    if of_it == Sightings((), ()):
        return []
    return [f"warning: forgotten images: {line}" for line in sighting_lines(of_it, len(forgotten))]


def _log(
    ids: Collection[str],
    settings: Settings,
    *,
    action: str,
    given: Sequence[str],
    reason: str,
    copies: Mapping[str, Sequence[str]],
) -> None:
    """Appends to the log before the list is changed: what is on the list has an entry, with its near-copies."""
    date = datetime.now(UTC).date().isoformat()
    entry = {
        "date": date,
        "action": action,
        "reason": redact_text(reason),
        "given": [redact_text(one) for one in given],
    }
    with (settings.root / paths.FORGOTTEN_LOG).open("a", encoding="utf-8") as file:
        for one in sorted(ids):
            more = {"copies": list(copies[one])} if copies.get(one) else {}
            file.write(json.dumps({"id": one, **entry, **more}, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _logged_copies(settings: Settings) -> list[tuple[str, str]]:
    return [(entry["id"], copy) for entry in _entries(settings) for copy in entry.get("copies", ())]


def _latest(settings: Settings) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in _entries(settings)}


def _entries(settings: Settings) -> list[dict[str, Any]]:
    path = settings.root / paths.FORGOTTEN_LOG
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
            if ID.fullmatch(entry["id"]) and all(map(ID.fullmatch, entry.get("copies", ()))):
                found.append(entry)
        except (ValueError, KeyError, TypeError):
            continue  # cut short by a kill, or marks of a merge: the list is what counts
    return found
