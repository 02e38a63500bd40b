"""Several sources as one."""

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from components.data.lock import Annotation, SourceObject
from components.data.sources.protocol import CHANGED, Source
from components.errors import UserError

_NAMES = ("name", "original")
"""Columns of the ground truth that name objects."""


class SeveralSources:
    """Every image of several sources; its name is `NAME/name`, with the name that its source has.

    Args:
        uri: of all of them, see `components.data.named_sources`.
        members: the sources by name.
    """

    def __init__(self, uri: str, members: Mapping[str, Source]) -> None:
        self.uri = uri
        self._members = {name: members[name] for name in sorted(members, key=lambda one: f"{one}/")}

    def list(self) -> Iterator[SourceObject]:
        """Yields every image as its source lists it, sorted by name."""
        for name, member in self._members.items():
            for one in member.list():
                yield SourceObject(one.role, f"{name}/{one.name}", one.size, one.digest, one.annotation)

    def read(self, name: str, digest: str | None = None) -> bytes:
        """Returns the bytes of an image from its source, see `Source.read`."""
        member, inner = self.member(name)
        return member.read(inner, digest)

    def annotation(self, name: str) -> Annotation:
        """What its source knows; the name of a source is no label."""
        member, inner = self.member(name)
        return member.annotation(inner)

    def truth(self) -> pa.Table | None:
        """The ground truth of those sources that have it."""
        tables = [
            _prefixed(table, f"{name}/")
            for name, member in self._members.items()
            if (table := member.truth()) is not None
        ]
        return pa.concat_tables(tables) if tables else None

    def member(self, name: str) -> tuple[Source, str]:
        """The source of an image, and its name in there.

        Raises:
            UserError: if there is no source of that name.
        """
        key, _, inner = name.partition("/")
        member = self._members.get(key)
        if member is None:
            raise UserError(f"'{name}': there is no source '{key}'", remedy=CHANGED)
        return member, inner


def _prefixed(table: pa.Table, prefix: str) -> pa.Table:
    for column in _NAMES:
        if column in table.column_names:
            names = pc.binary_join_element_wise(prefix, table[column], "")
            table = table.set_column(table.column_names.index(column), column, names)
    return table
