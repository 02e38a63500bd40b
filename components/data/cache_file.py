"""Tables in one SQLite file that only save time: whatever becomes of the file, work goes on."""

import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_log = logging.getLogger(__name__)
Statement = tuple[str, Sequence[tuple[object, ...]]]
"""SQL, and the rows that it is executed with."""


class CacheFile:
    """Tables in a file; use as a context. Where the file cannot be used they are in memory.

    A damaged file is removed, whether the damage shows at once or with a later page.

    Args:
        path: SQLite file, made where it is absent.
        tables: `CREATE TABLE IF NOT EXISTS …` statements.
    """

    def __init__(self, path: Path, tables: str) -> None:
        self._path = path
        self._tables = tables
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = _opened(str(path), tables)
        except (sqlite3.DatabaseError, OSError) as error:
            self._remove_damaged(error)
            self._database = _opened(":memory:", tables)

    def rows(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """The rows of a query; none where the file cannot be read."""
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            self._replace_damaged(error)
            return []

    def write(self, *statements: Statement) -> None:
        """Executes all of the statements or none, each with its rows; a file that takes none is a warning."""
        try:
            with self._database:
                for statement, rows in statements:
                    self._database.executemany(statement, rows)
        except sqlite3.DatabaseError as error:
            self._replace_damaged(error)

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def _replace_damaged(self, error: sqlite3.DatabaseError) -> None:
        if _is_damage(error):
            self._database.close()
            self._database = _opened(":memory:", self._tables)
        self._remove_damaged(error)

    def _remove_damaged(self, error: Exception) -> None:
        _log.warning("%s cannot be used (%s): what it remembers is found out anew", self._path, error)
        if _is_damage(error):
            for ending in ("", "-wal", "-shm"):  # a log that was left would be played back into the next file
                self._path.with_name(self._path.name + ending).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_damage(error: Exception) -> bool:
    """Whether a file is damaged, not merely locked or out of reach: SQLite has no class of its own for that."""
    return type(error) is sqlite3.DatabaseError


def _opened(path: str, tables: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60)
    try:
        # the write-ahead log keeps a second process from waiting; a power cut may lose rows, never damage
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute("PRAGMA cache_size=-32768")  # KiB: rows in the order of digests touch most pages
        database.executescript(tables)
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database
