"""Taking a snapshot: which objects a source holds now."""

from pydantic import Field, field_validator

from components.data.lock import Role, SourceLock, SourceObject, read_lock, same_lock, write_lock
from components.data.sources import KINDS, is_scenes, open_source
from components.data.sources.selection import IMAGE_PATTERNS
from components.errors import UserError
from components.parameters import Params
from components.settings import Settings

__all__ = ["SnapshotParams", "read_lock", "same_lock", "take_snapshot", "write_lock"]


class SnapshotParams(Params):
    """Which images the pipeline works on."""

    source: str = Field("scenes", description=f"{KINDS}[?images=…&seed=…]")
    eval: str | None = Field(
        None, description="labelled evaluation source; none: the eval part of scenes, else a held-out part"
    )
    include: tuple[str, ...] = Field(
        IMAGE_PATTERNS, description="patterns of which an object's name must match one, in any case of letters"
    )
    exclude: tuple[str, ...] = Field((), description="patterns of which it must match none, such as masks/*")

    @field_validator("source", "eval")
    @classmethod
    def _named(cls, uri: str | None) -> str | None:
        if uri is not None and not uri.strip():
            raise ValueError(f"give {KINDS}")
        return uri


def take_snapshot(params: SnapshotParams, settings: Settings) -> SourceLock:
    """Lists a source and its evaluation source.

    Digests of files that have not changed since the last snapshot come from the cache, so that taking it again costs
    one walk over the names.

    Args:
        params: the sources.
        settings: where S3 and the cache are.

    Raises:
        UserError: if a source is absent, unreachable, empty, holds no image, or only one.
    """
    eval_uri = params.eval if params.eval is not None else _own_eval_part(params.source)
    if params.eval is not None and params.eval == params.source and _own_eval_part(params.source) is None:
        remedy = "give another one, or leave it out to hold a part of the source out"
        raise UserError(f"{params.eval}: the evaluation source is the training source", remedy=remedy)
    objects = _listed(params.source, "train", params, settings)
    if eval_uri is not None:
        objects += _listed(eval_uri, "eval", params, settings)
    return SourceLock(
        train_uri=params.source,
        eval_uri=eval_uri,
        include=params.include,
        exclude=params.exclude,
        objects=tuple(sorted(objects, key=lambda one: (one.role, one.name))),
    )


def _listed(uri: str, role: Role, params: SnapshotParams, settings: Settings) -> list[SourceObject]:
    source = open_source(uri, role=role, settings=settings, include=params.include, exclude=params.exclude)
    objects = list(source.list())
    if role == "train" and len(objects) == 1:
        raise UserError(f"{uri}: 1 image", remedy="at least 2 are needed to train")
    if not objects:
        raise UserError(f"{uri}: holds no image to evaluate on", remedy="give another evaluation source")
    return objects


def _own_eval_part(uri: str) -> str | None:
    """Scenes bring an evaluation part of their own."""
    if not is_scenes(uri):
        return None
    from components.data.scenes.spec import parse_uri

    return uri if parse_uri(uri).eval else None
