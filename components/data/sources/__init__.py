"""Where images come from: folders, tars, Parquet, videos, S3, lists of addresses, scenes, or several of these."""

from collections.abc import Sequence
from pathlib import Path

from components.data.lock import Annotation, Role
from components.data.named_sources import divided, named
from components.data.sources.bucket import S3Source
from components.data.sources.bucket_files import BucketOpener, bucket_prefix
from components.data.sources.containers import ContainerSource
from components.data.sources.opening import LocalOpener, local_prefix
from components.data.sources.protocol import Source
from components.data.sources.selection import Selection
from components.data.sources.several import SeveralSources
from components.data.sources.urls import UrlSource
from components.errors import UserError
from components.s3 import is_s3
from components.settings import Settings

__all__ = ["KINDS", "Annotation", "Source", "is_remote", "is_scenes", "object_uri", "open_source", "prepare"]

KINDS = (
    "a folder, .tar, .parquet, video, pattern of such files, .txt of https:// URLs, s3://BUCKET/PREFIX of images, "
    "s3://BUCKET/PATTERN of such files, or scenes"
)


def open_source(
    uri: str, *, role: Role, settings: Settings, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Source:
    """Opens a source; no image is read yet.

    Args:
        uri: a folder; a file or pattern of files that hold images (`.tar`, `.parquet`, video, of which `?fps=RATE`
            says how many frames a second); a `.txt` of `https://` addresses; `s3://BUCKET/PREFIX`, or there a
            file or pattern of files that hold images; `scenes` or `scenes?images=3000&seed=0`; several of these as
            `named_sources.joined` writes them.
        role: `train`, or `eval` for the evaluation source.
        settings: where S3 and the cache are.
        include: patterns of which a name must match one; empty stands for all images.
        exclude: patterns of which a name must match none.

    Raises:
        UserError: if there is no such source, or nothing reads this kind of it.
    """
    if members := named(uri):
        opened = {
            name: open_source(one, role=role, settings=settings, include=include, exclude=exclude)
            for name, one in members.items()
        }
        return SeveralSources(uri, opened)
    selection = Selection(include, exclude)
    if is_scenes(uri):
        # scenes implement the protocol of this package
        from components.data.scenes.source import ScenesSource
        from components.data.scenes.spec import parse_uri

        return ScenesSource(parse_uri(uri), role)
    if is_s3(uri):
        files = BucketOpener(role, settings, selection).open(uri)
        return S3Source(uri, role, selection, settings.s3_endpoint) if files is None else files
    scheme, separator, _ = uri.partition("://")
    if separator:
        raise UserError(f"{scheme}://…: no such kind of source", remedy=f"give {KINDS}")
    source = LocalOpener(role, settings, selection).open(uri) if uri else None
    if source is not None:
        return source
    if not uri or not Path(uri).expanduser().exists():
        raise UserError(f"'{uri}': no such file or folder", remedy=f"give {KINDS}")
    raise UserError(f"{uri}: neither a folder nor a file that holds images", remedy=f"give {KINDS}")


def object_uri(uri: str, name: str) -> str:
    """Where one object of a source is.

    `folder/name`, `s3://bucket/prefix/name`, `https://name`, `a.tar#name`, `scenes#name`; of a folder or pattern of
    files that hold images `folder/a.tar/name`. Files of a bucket are written as those of a folder. One of several
    sources gives what it gives alone.
    """
    if members := named(uri):
        prefix, inner = divided(uri, name)
        return object_uri(members[prefix.rstrip("/")], inner)
    if is_scenes(uri):
        return f"{uri}#{name}"
    return (bucket_prefix(uri) if is_s3(uri) else local_prefix(uri)) + name


def is_remote(source: Source, name: str) -> bool:
    """Whether an object takes a while to read that several share: many are read at a time."""
    one, _ = _single(source, name)
    return isinstance(one, (S3Source, UrlSource))


def prepare(source: Source, name: str) -> None:
    """Fetches the archive that an object is in, where it is in one of a bucket; reading the object then only reads.

    Raises:
        UserError: if it cannot be fetched.
    """
    one, inner = _single(source, name)
    if isinstance(one, ContainerSource):
        one.prepare(inner)


def _single(source: Source, name: str) -> tuple[Source, str]:
    return source.member(name) if isinstance(source, SeveralSources) else (source, name)


def is_scenes(uri: str) -> bool:
    """Whether a URI names generated scenes; a folder of that name is written `./scenes`."""
    return uri == "scenes" or uri.startswith("scenes?")
