"""The source lock: every object of a snapshot, to images what `dvc.lock` is to files."""

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from components.data.named_sources import prefixes
from components.durable import sync
from components.errors import UserError

Role = Literal["train", "eval"]
T = TypeVar("T")
VERSION = 1
FRAMES = 1 << 63
"""Numbers of frames are below it: they may be times in nanoseconds, and fit a column of the manifest."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|(?!sha256:).*", re.DOTALL)
REMEDY = "take a new one with `selfsight snapshot`"


@dataclass(frozen=True)
class Annotation:
    """What a source knows about an object without looking at its pixels. Never used in training."""

    label: str | None = None
    """Class, for evaluation."""
    group: str | None = None
    """Video or instance: images of one group never fall on both sides of a held-out split."""
    frame: int | None = None
    """Position within the group, from 0 to 2⁶³ - 1."""

    def __post_init__(self) -> None:
        for text in (self.label, self.group):
            if text is not None:
                text.encode("utf-8")  # half a surrogate pair is no text, and no table takes it
        if self.frame is not None and not 0 <= self.frame < FRAMES:
            raise ValueError(self.frame)


@dataclass(frozen=True)
class SourceObject:
    """One file of a source."""

    role: Role
    """`train`, or `eval` for the evaluation source."""
    name: str
    """Path inside the source, with `/`, relative."""
    size: int | None
    """Bytes, where the source knows them without reading."""
    digest: str
    """What identifies the content: `sha256:…` of the bytes, `etag:…` on S3, `scenes:…` or `video:…` of a recipe."""
    annotation: Annotation | None = None
    """What the source says about it besides its name, so that a changed label is a changed object; None: nothing."""


@dataclass(frozen=True)
class SourceLock:
    """All objects of a training source and, where there is one, of an evaluation source."""

    train_uri: str
    """Where the training images are: see `components.data.sources.open_source`; several as `named_sources.joined`."""
    eval_uri: str | None = None
    """Where the labelled evaluation images are."""
    include: tuple[str, ...] = ()
    """Patterns the names had to match."""
    exclude: tuple[str, ...] = ()
    """Patterns the names must not match."""
    objects: tuple[SourceObject, ...] = field(default=(), repr=False)
    """Sorted by role and name."""

    def uri(self, role: Role) -> str | None:
        """The source of that role."""
        return self.train_uri if role == "train" else self.eval_uri

    def of_role(self, role: Role) -> tuple[SourceObject, ...]:
        """The objects of that role, sorted by name."""
        return tuple(one for one in self.objects if one.role == role)


def same_lock(a: SourceLock, b: SourceLock) -> bool:
    """Whether two locks name the same sources with the same objects."""
    return _header(a) == _header(b) and _ordered(a.objects) == _ordered(b.objects)


def write_lock(lock: SourceLock, path: Path) -> None:
    """Writes a lock as JSON lines: a header, then one line an object sorted by (role, name).

    The file is replaced whole; its bytes depend on the lock only.
    """
    lines = [json.dumps(_header(lock))]
    for one in _ordered(lock.objects):
        lines.append(json.dumps(_values(one)))
    write_whole("\n".join(lines) + "\n", path)


def read_lock(path: Path) -> SourceLock:
    """Reads a lock.

    Raises:
        UserError: if the file is absent, a line is not what `write_lock` writes, or an object is of no source of the
            header.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", remedy=REMEDY) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a source lock", remedy=REMEDY) from None
    if not lines:
        raise UserError(f"{path}: empty", remedy=REMEDY)
    header = _parsed(lines[0], path, 1, _check_header)
    build = partial(_object, {"train": prefixes(header["train"]), "eval": prefixes(header["eval"])})
    objects = [_parsed(line, path, number, build) for number, line in enumerate(lines[1:], start=2)]
    return SourceLock(
        train_uri=header["train"],
        eval_uri=header["eval"],
        include=tuple(header["include"]),
        exclude=tuple(header["exclude"]),
        objects=_ordered(objects),
    )


def write_resolved(lock: Any, path: Path) -> None:
    """Writes a lock that names what a parameter was resolved to, replacing the file whole.

    Args:
        lock: a dataclass of plain values.
        path: JSON file to write.
    """
    write_whole(json.dumps(asdict(lock), indent=2) + "\n", path)


def read_resolved(kind: type[T], path: Path) -> T:
    """Reads a lock that `write_resolved` wrote.

    Raises:
        UserError: if it is absent or damaged.
    """
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        raise UserError(f"{path}: absent or damaged", remedy="write it with `selfsight snapshot`") from None


def write_whole(text: str, path: Path) -> None:
    """Replaces a file whole, for good: after a power cut it holds what was there before, or this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-lock")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)  # the rename, too


def _parsed(line: str, path: Path, number: int, build: Callable[[Any], T]) -> T:
    try:
        return build(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: line {number} is damaged", remedy=REMEDY) from None


def _check_header(values: dict[str, Any]) -> dict[str, Any]:
    if values["version"] != VERSION:
        raise ValueError(values["version"])
    return {key: values[key] for key in ("train", "eval", "include", "exclude")}


def _header(lock: SourceLock) -> dict[str, object]:
    return {
        "version": VERSION,
        "train": lock.train_uri,
        "eval": lock.eval_uri,
        "include": list(lock.include),
        "exclude": list(lock.exclude),
    }


def _values(one: SourceObject) -> dict[str, Any]:
    size = {} if one.size is None else {"size": one.size}
    said = {} if one.annotation is None else {"annotation": _without_nones(one.annotation)}
    return {"role": one.role, "name": one.name, **size, "digest": one.digest, **said}


def _without_nones(annotation: Annotation) -> dict[str, Any]:
    return {key: value for key, value in asdict(annotation).items() if value is not None}


def _object(begin: Mapping[str, Collection[str]], values: dict[str, Any]) -> SourceObject:
    """An object of one of the sources of its role, whose names begin so."""
    role, name, size, digest = values["role"], values["name"], values.get("size"), values["digest"]
    if not isinstance(name, str) or not _DIGEST.fullmatch(digest):
        raise ValueError(name)
    prefix, slash, _ = name.partition("/")
    if prefix + slash not in begin[role] and "" not in begin[role]:
        raise ValueError(name)
    said = values.get("annotation")
    annotation = None if said is None else Annotation(**said)
    return SourceObject(role, name, None if size is None else int(size), digest, annotation)


def _ordered(objects: Iterable[SourceObject]) -> tuple[SourceObject, ...]:
    return tuple(sorted(objects, key=lambda one: (one.role, one.name)))
