"""Gathers the rows of a manifest while objects stream by."""

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components.data.inspection import Inspection
from components.data.lock import FRAMES, Role, SourceLock, SourceObject
from components.data.manifest import IMAGES, SOURCES, Manifest
from components.data.named_sources import divided, named, prefixes, readable
from components.data.sources import object_uri
from components.data.splits import held_out
from components.errors import UserError

LEAST_IMAGES = 2
FRAME_DIGITS = 100
"""Python refuses to read numbers of thousands of digits."""


class ManifestBuilder:
    """Takes inspections in any order and gives the same manifest.

    Args:
        lock: the snapshot the inspections come from.
        group_pattern: regular expression whose parts `group` and `frame` are found in names, see `IngestParams`.

    Raises:
        UserError: if what is found as `frame` in a name is no number of a frame.
    """

    def __init__(self, lock: SourceLock, group_pattern: str | None = None) -> None:
        self._lock = lock
        self._pattern = re.compile(group_pattern) if group_pattern else None
        self._images = _Rows(IMAGES)
        self._sources = _Rows(SOURCES)
        self._seen: set[bytes] = set()
        for one in lock.objects if self._pattern else ():
            self._grouped(one)  # before an hour of work, not after it

    def add(self, found: Inspection) -> bool:
        """Notes an object; returns whether its image is new, so that its bytes must be stored."""
        source = found.source
        uri = self._lock.uri(source.role)
        assert uri is not None
        group, frame = self._grouped(source) or (found.annotation.group, found.annotation.frame)
        if group is not None:
            group = divided(uri, source.name)[0] + group  # two sources may have a clip-1 each
        label = found.annotation.label
        self._sources.append((found.id, object_uri(uri, source.name), source.name, source.role, label, group, frame))
        key = bytes.fromhex(found.id)
        if key in self._seen:
            return False
        self._seen.add(key)
        *found_out, reason = found.verdict
        self._images.append((found.id, *found_out, "ok" if found.ok else "quarantined", reason))
        return True

    def _grouped(self, one: SourceObject) -> tuple[str | None, int | None] | None:
        """Group and frame that the pattern finds in a name; None if it does not match."""
        _, name = divided(self._lock.uri(one.role), one.name)
        match = self._pattern.search(name) if self._pattern else None
        if self._pattern is None or match is None:
            return None
        digits = match.groupdict().get("frame") or ""
        if not digits.isdecimal():
            return match["group"], None
        if len(digits) > FRAME_DIGITS or int(digits) >= FRAMES:
            message = f"'{one.name}': frame {digits}, as ingest.group_pattern '{self._pattern.pattern}' finds it"
            raise UserError(message, remedy=f"let (?P<frame>…) match a number below {FRAMES}")
        return match["group"], int(digits)

    def build(self, locations: pa.Table, truth: Mapping[Role, pa.Table], *, fraction: float, seed: int) -> Manifest:
        """Puts the tables together.

        A source in which all labels are the same says nothing about classes: its labels are left out, also where it is
        one of several.

        Args:
            locations: index of the shards.
            truth: ground truth of the sources that have it, with a column `name`.
            fraction: share to hold out where the lock has no evaluation source.
            seed: of the held-out draw.

        Raises:
            UserError: if fewer than two different images decode, or none can be held out.
        """
        images, sources = self._images.table(), self._sources.table()
        ok = images.filter(pc.equal(images["status"], "ok"))["id"]
        if len(ok) < LEAST_IMAGES:
            raise UserError(
                f"{readable(self._lock.train_uri)}: {_verdict(images)}", remedy="give a source with more good images"
            )
        sources = _without_lone_labels(sources, self._lock)
        roles = sources["split"]
        if self._lock.eval_uri is None:
            sources = _with_held_out(sources, ok, fraction, seed)
        truth = {role: _of_evaluation(table, self._lock) if role == "train" else table for role, table in truth.items()}
        return Manifest(images, sources, locations, _joined(truth, sources, roles) if truth else None)


class _Rows:
    """Rows kept as Arrow batches: a tenth of what they take as Python objects."""

    BATCH = 8192

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[tuple[Any, ...]] = []
        self._batches: list[pa.RecordBatch] = []

    def append(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        if len(self._rows) == self.BATCH:
            self._flush()

    def table(self) -> pa.Table:
        self._flush()
        return pa.Table.from_batches(self._batches, schema=self._schema)

    def _flush(self) -> None:
        if self._rows:
            columns = [
                pa.array(values, type=field.type)
                for values, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
            ]
            self._batches.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
            self._rows = []


def _verdict(images: pa.Table) -> str:
    reasons = pc.value_counts(images["reason"].drop_null()).to_pylist()
    listed = ", ".join(f"{one['counts']} {one['values']}" for one in sorted(reasons, key=lambda one: -one["counts"]))
    ok = len(images) - sum(one["counts"] for one in reasons)
    return f"{ok} of {len(images)} different files is an image that decodes" + (f" ({listed})" if listed else "")


def _without_lone_labels(sources: pa.Table, lock: SourceLock) -> pa.Table:
    labels = sources["label"]
    roles: tuple[Role, ...] = ("train", "eval")
    for role in roles:
        of_role = pc.equal(sources["split"], role)
        for prefix in prefixes(lock.uri(role)):
            of_source = pc.and_(of_role, pc.starts_with(sources["name"], prefix))
            if pc.count_distinct(labels.filter(of_source), mode="only_valid").as_py() < 2:
                labels = pc.if_else(of_source, pa.scalar(None, pa.string()), labels)
    return sources.set_column(sources.column_names.index("label"), "label", labels)


def _with_held_out(sources: pa.Table, ok: pa.ChunkedArray, fraction: float, seed: int) -> pa.Table:
    """Moves part of the rows to `eval`. Both sides get at least one image that decodes."""
    keys = pc.coalesce(pc.binary_join_element_wise("group", sources["group"], "\0"), sources["id"])
    usable = keys.filter(pc.is_in(sources["id"], value_set=ok.combine_chunks()))
    chosen = held_out(pc.unique(usable).to_pylist(), fraction=fraction, seed=seed)
    held = pc.is_in(keys, value_set=pa.array(sorted(chosen), pa.string()))
    split = pc.if_else(held, "eval", sources["split"])
    return sources.set_column(sources.column_names.index("split"), "split", split)


def _of_evaluation(truth: pa.Table, lock: SourceLock) -> pa.Table:
    """The truth of training objects; the original of a leak is named as in the evaluation source it is of.

    A leak of what no evaluation source has is none, and is left out.
    """
    if not named(lock.train_uri) and not named(lock.eval_uri):
        return truth
    evaluation = {uri: prefix for prefix, uri in prefixes(lock.eval_uri).items()}
    original, known = truth["original"], pc.not_equal(truth["kind"], "leak")
    for prefix, uri in prefixes(lock.train_uri).items():
        if uri in evaluation:
            own = pc.and_(pc.equal(truth["kind"], "leak"), pc.starts_with(truth["name"], prefix))
            inner = pc.utf8_slice_codeunits(original, start=len(prefix))
            original = pc.if_else(own, pc.binary_join_element_wise(evaluation[uri], inner, ""), original)
            known = pc.or_(known, own)
    return truth.set_column(truth.column_names.index("original"), "original", original).filter(known)


def _joined(truth: Mapping[Role, pa.Table], sources: pa.Table, roles: pa.ChunkedArray) -> pa.Table:
    """The truth of the objects of the lock, with id and split of each, sorted by role and name."""
    known = sources.select(["id", "name", "split"])
    tables = []
    for role, table in sorted(truth.items()):
        rows = known.filter(pc.equal(roles, role)).sort_by("name")
        table = table.filter(pc.is_in(table["name"], value_set=rows["name"].combine_chunks())).sort_by("name")
        rows = rows.filter(pc.is_in(rows["name"], value_set=table["name"].combine_chunks()))
        tables.append(table.add_column(0, "id", rows["id"]).add_column(1, "split", rows["split"]))
    return pa.concat_tables(tables)
