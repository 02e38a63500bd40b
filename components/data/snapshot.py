"""Taking a snapshot: which objects a source holds now."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from components.data.lock import Role, SourceLock, SourceObject, read_lock, same_lock, write_lock
from components.data.named_sources import NAME, NAMING, each, is_joined, joined, named, readable
from components.data.sources import KINDS, is_scenes, open_source
from components.data.sources.selection import IMAGE_PATTERNS
from components.errors import UserError
from components.parameters import Params
from components.settings import Settings

__all__ = ["SnapshotParams", "read_lock", "same_lock", "take_snapshot", "write_lock"]


class SnapshotParams(Params):
    """Which images the pipeline works on."""

    source: str | dict[str, str] = Field(
        "scenes", description=f"{KINDS}[?images=…&seed=…]; several of them by name: {{a: …, b: …}}"
    )
    eval: str | dict[str, str] | None = Field(
        None,
        description="labelled evaluation source, several by name: {a: …, b: …}; none: the eval part of scenes, else a "
        "held-out part",
    )
    include: tuple[str, ...] = Field(
        IMAGE_PATTERNS, description="patterns of which an object's name must match one, in any case of letters"
    )
    exclude: tuple[str, ...] = Field((), description="patterns of which it must match none, such as masks/*")

    @field_validator("source", "eval", mode="before")
    @classmethod
    def _given(cls, given: Any) -> Any:
        """Refuses in one sentence what pydantic would refuse once for each type."""
        if isinstance(given, str):
            _require_one(given)
        elif isinstance(given, Mapping):
            for name, uri in given.items():
                _require_named(name, uri)
        if given is not None and not (given and isinstance(given, (str, Mapping))):
            raise ValueError("give one URI, or at least one under a name: {NAME: URI}")
        return given

    @property
    def train_uri(self) -> str:
        """The URI of the training source, or of several as one."""
        return _as_uri(self.source)

    @property
    def eval_uri(self) -> str | None:
        """That of the evaluation source: the given one, else the own part of the training source; None: neither.

        Raises:
            UserError: if the URI of scenes is malformed.
        """
        return _own_eval_part(self.train_uri) if self.eval is None else _as_uri(self.eval)


def take_snapshot(params: SnapshotParams, settings: Settings) -> SourceLock:
    """Lists a source and its evaluation source.

    Digests of files that have not changed since the last snapshot come from the cache, so that taking it again costs
    one walk over the names.

    Args:
        params: the sources.
        settings: where S3 and the cache are.

    Raises:
        UserError: if a source is absent, unreachable, empty, holds no image, or only one, or if one is to train on and
            to evaluate on.
    """
    train_uri, eval_uri = params.train_uri, params.eval_uri
    _require_apart(train_uri, eval_uri)
    objects = _listed(train_uri, "train", params, settings)
    if eval_uri is not None:
        objects += _listed(eval_uri, "eval", params, settings)
    return SourceLock(
        train_uri=train_uri,
        eval_uri=eval_uri,
        include=params.include,
        exclude=params.exclude,
        objects=tuple(sorted(objects, key=lambda one: (one.role, one.name))),
    )


def _listed(uri: str, role: Role, params: SnapshotParams, settings: Settings) -> list[SourceObject]:
    source = open_source(uri, role=role, settings=settings, include=params.include, exclude=params.exclude)
    objects = list(source.list())
    if role == "train" and len(objects) == 1:
        raise UserError(f"{readable(uri)}: 1 image", remedy="at least 2 are needed to train")
    if not objects:
        raise UserError(f"{readable(uri)}: holds no image to evaluate on", remedy="give another evaluation source")
    return objects


def _require_apart(train_uri: str, eval_uri: str | None) -> None:
    """Refuses images that are trained on and evaluated on; scenes are told apart by their own parts."""
    shared = set(each(train_uri)).intersection(each(eval_uri) if eval_uri is not None else ())
    for uri in sorted(shared):
        if _own_eval_part(uri) is None:
            remedy = "give another one, or leave it out to hold a part of the source out"
            raise UserError(f"{readable(uri)}: the evaluation source is the training source", remedy=remedy)


def _as_uri(given: str | Mapping[str, str]) -> str:
    return given if isinstance(given, str) else joined(given)


def _require_one(uri: str) -> None:
    if not uri.strip():
        raise ValueError(f"give {KINDS}")
    if is_joined(uri):
        raise ValueError("write several sources as {NAME: URI, …}")


def _require_named(name: Any, uri: Any) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        quoting = "" if isinstance(name, str) else "; quote what YAML takes for something else"
        raise ValueError(f"{name!r} is no name of a source: {NAMING}{quoting}")
    if not isinstance(uri, str) or not uri.strip() or is_joined(uri):
        raise ValueError(f"'{name}' is not one URI: give {KINDS}")


def _own_eval_part(uri: str) -> str | None:
    """Scenes bring an evaluation part of their own; of several sources it is that of those which have one."""
    if members := named(uri):
        own = {name: one for name, one in members.items() if _own_eval_part(one) is not None}
        return joined(own) if own else None
    if not is_scenes(uri):
        return None
    from components.data.scenes.spec import parse_uri

    return uri if parse_uri(uri).eval else None
