"""Where images come from: a folder, a tar, an S3 prefix, or generated scenes."""

from collections.abc import Sequence
from pathlib import Path

from components.data.lock import Role
from components.data.sources.archive import TarSource
from components.data.sources.bucket import S3Source
from components.data.sources.digests import DigestCache
from components.data.sources.folder import FolderSource
from components.data.sources.protocol import Annotation, Source
from components.data.sources.selection import Selection
from components.errors import UserError
from components.settings import Settings

__all__ = ["Annotation", "S3Source", "Source", "is_scenes", "object_uri", "open_source"]

_KINDS = "give a folder, a .tar, s3://BUCKET/PREFIX, or scenes"


def open_source(
    uri: str, *, role: Role, settings: Settings, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Source:
    """Opens a source; nothing is read yet.

    Args:
        uri: a folder, a `.tar`, `s3://BUCKET/PREFIX`, `scenes` or `scenes?images=3000&seed=0`.
        role: `train`, or `eval` for the evaluation source.
        settings: where S3 and the cache are.
        include: patterns of which a name must match one; empty stands for all images.
        exclude: patterns of which a name must match none.

    Raises:
        UserError: if there is no such source, or nothing reads this kind of it.
    """
    selection = Selection(include, exclude)
    if is_scenes(uri):
        # scenes implement the protocol of this package
        from components.data.scenes.source import ScenesSource
        from components.data.scenes.spec import parse_uri

        return ScenesSource(parse_uri(uri), role)
    if uri.startswith("s3://"):
        return S3Source(uri, role, selection, settings.s3_endpoint)
    scheme, separator, _ = uri.partition("://")
    if separator:
        raise UserError(f"{scheme}://…: no such kind of source", remedy=_KINDS)
    return _open_path(uri, role, settings, selection)


def object_uri(uri: str, name: str) -> str:
    """Where one object of a source is: `folder/name`, `s3://bucket/prefix/name`, `a.tar#name`, `scenes#name`."""
    inside = is_scenes(uri) or uri.lower().endswith(".tar")
    return f"{uri}#{name}" if inside else f"{uri.rstrip('/')}/{name}"


def is_scenes(uri: str) -> bool:
    """Whether a URI names generated scenes; a folder of that name is written `./scenes`."""
    return uri == "scenes" or uri.startswith("scenes?")


def _open_path(uri: str, role: Role, settings: Settings, selection: Selection) -> Source:
    path = Path(uri).expanduser()
    cache = DigestCache(settings.cache / "digests.sqlite", workers=settings.thread_count())
    if not uri or not path.exists():
        raise UserError(f"'{uri}': no such file or folder", remedy=_KINDS)
    if path.is_dir():
        return FolderSource(uri, role, selection, cache)
    if path.suffix.lower() == ".tar":
        return TarSource(uri, role, selection, cache)
    raise UserError(f"{uri}: neither a folder nor a .tar", remedy="unpack it first; compressed archives are not read")
