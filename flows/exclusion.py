"""One pipeline at a time in a working tree: whoever changes parameters, locks or outs holds the tree."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import UserError
from components.tracking.locking import file_lock
from flows.dvc_locks import clear_stale_locks, mend_lock

_held: set[Path] = set()
"""Trees that this process holds: a flow that runs inside another one holds the same."""


@contextmanager
def sole_pipeline(root: Path) -> Iterator[None]:
    """Holds a working tree for the length of the block, rid of what a killed DVC left behind; may be nested.

    Args:
        root: the project's root.

    Raises:
        UserError: if another process holds it (nothing has been changed then), or a merge left marks in `dvc.lock`.
    """
    root = root.resolve()
    if root in _held:
        yield
        return
    with file_lock(root / ".dvc" / "tmp" / "selfsight.lock", blocking=False) as is_mine:
        if not is_mine:
            raise UserError("a pipeline runs in this working tree already", remedy="wait for it, or stop it")
        clear_stale_locks(root)
        mend_lock(root)
        _held.add(root)
        try:
            yield
        finally:
            _held.discard(root)
