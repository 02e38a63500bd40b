"""What became of the objects of a source between snapshots."""

from dataclasses import dataclass, replace

from components.data.lock import SourceLock, SourceObject
from components.data.named_sources import divided, named


@dataclass(frozen=True)
class Changes:
    """What became of the objects of a source from one lock to a later one of the same source."""

    new: tuple[SourceObject, ...]
    changed: tuple[SourceObject, ...]
    """As they are now."""
    removed: tuple[SourceObject, ...]
    """As they were."""

    @classmethod
    def between(cls, before: SourceLock, after: SourceLock) -> "Changes":
        """Compares two locks; an object is what has its role and name."""
        old = {(one.role, one.name): one for one in before.objects}
        now = {(one.role, one.name): one for one in after.objects}
        return cls(
            new=tuple(one for key, one in now.items() if key not in old),
            changed=tuple(one for key, one in now.items() if key in old and old[key] != one),
            removed=tuple(one for key, one in old.items() if key not in now),
        )


def removed_since(after: SourceLock, *earlier: SourceLock) -> SourceLock:
    """The objects that earlier locks of the same sources hold and the newest does not, as they were last.

    Of several sources each counts by itself: one that is added or left out changes nothing for the others.

    Args:
        after: the newest lock.
        earlier: others, the oldest first; one may be what this function returned for an earlier snapshot.
    """
    present = {(one.role, one.name) for one in after.objects}
    gone = {
        (one.role, one.name): one
        for lock in earlier
        for one in lock.objects
        if (one.role, one.name) not in present and _place(lock, one) == _place(after, one)
    }
    return replace(after, objects=tuple(sorted(gone.values(), key=lambda one: (one.role, one.name))))


def _place(lock: SourceLock, one: SourceObject) -> tuple[str, str | None]:
    """The source that an object of that name is in, by a lock's account: its name among several, and its URI."""
    uri = lock.uri(one.role)
    prefix, _ = divided(uri, one.name)
    return prefix, named(uri).get(prefix.rstrip("/")) if prefix else uri
