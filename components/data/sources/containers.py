"""Files that each hold many images: tars, Parquet, video. Nothing is extracted."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from typing import Any, Protocol

from components.data.lock import Annotation, Role, SourceObject
from components.data.sources.files import File
from components.data.sources.listings import ListingCache, Member
from components.data.sources.protocol import CHANGED
from components.data.sources.selection import Selection, Tally, annotate
from components.errors import UserError

OPEN_FILES = 4
"""Files that one process keeps open: objects are read in the order of their names."""


@dataclass(frozen=True)
class Place:
    """One file of a source."""

    file: File
    uri: str
    """For messages."""
    prefix: str
    """Of the names of its members within the source: empty, or `NAME/`."""
    selection: Selection
    """Which members are images, by their names within the source."""

    def open(self) -> FileIO:
        """Opens the file; it stays readable whatever becomes of its path.

        Raises:
            OSError: if it cannot be read.
            UserError: if it cannot be fetched.
        """
        with self.file.at_hand() as path:
            return FileIO(path)

    def takes(self, member: str) -> bool:
        """Whether a member is an image of the source."""
        return self.selection.takes(self.prefix + member)

    def changed(self, member: str) -> UserError:
        """The error for a member that is no longer what the snapshot says."""
        return UserError(f"{self.uri}: '{member}' changed since the snapshot", remedy=CHANGED)

    def lacks(self, member: str) -> UserError:
        """The error for a member that is not there."""
        return UserError(f"{self.uri}: has no image '{member}'", remedy=CHANGED)


class Container(Protocol):
    """One open file. Picklable; what it holds open is opened again elsewhere."""

    def members(self, threads: int) -> Iterator[Member]:
        """Yields what is in the file; images with their digests.

        Raises:
            UserError: if the file is damaged.
        """

    def read(self, member: str, digest: str | None) -> bytes:
        """Returns the bytes of an image, verified unless there is no digest.

        Raises:
            UserError: if it is not there, or is no longer what the digest says.
        """

    def prepare(self) -> None:
        """Opens the file, which may have to be fetched first, and decodes nothing.

        Raises:
            OSError: if it cannot be read.
            UserError: if it cannot be fetched.
        """


class Kind(Protocol):
    """How files of one kind are read. Picklable."""

    @property
    def reader(self) -> str:
        """Kind and version of what is found in a file: a listing of another reader is not used."""

    def selection(self, given: Selection) -> Selection:
        """Which members are images, where the user has given these patterns."""

    def open(self, place: Place) -> Container:
        """Opens a file."""


class ContainerSource:
    """Every image in one or several files of a kind.

    Names are those of the members where the source is one file, else `FILE/MEMBER`.

    Args:
        uri: the source, as given.
        role: `train` or `eval`.
        selection: which members are images.
        cache: remembered members.
        kind: how the files are read.
        files: by their names within the source; one file alone may have the name "".
    """

    def __init__(
        self, uri: str, role: Role, selection: Selection, cache: ListingCache, kind: Kind, files: Mapping[str, File]
    ) -> None:
        self.uri = uri
        self.role = role
        self._selection = kind.selection(selection)
        self._cache = cache
        self._kind = kind
        self._files = files
        self._open: OrderedDict[str, Container] = OrderedDict()

    def list(self) -> Iterator[SourceObject]:
        """Yields every image with its digest, sorted by name; files that have not changed are not opened."""
        tally = Tally(self._selection, self.uri)
        for file in sorted(self._files, key=lambda name: f"{name}/"):
            prefix = self._place(file).prefix
            for name, one in tally.taken((prefix + one.name, one) for one in self._members(file)):
                yield SourceObject(self.role, name, one.size, one.digest, one.annotation)
        tally.close()

    def read(self, name: str, digest: str | None = None) -> bytes:
        """Returns the bytes of an image, see `Source.read`."""
        file, member = self._split(name)
        with self._doubted(file):
            return self._container(file).read(member, digest)

    def prepare(self, name: str) -> None:
        """Does what reading an image needs and is not about the image: fetches and opens the file that it is in.

        Raises:
            OSError: as `Container.prepare`.
            UserError: as `Container.prepare`.
        """
        self._container(self._split(name)[0]).prepare()

    def annotation(self, name: str) -> Annotation:
        """The parent folder of a member is the label; whatever else is known is in the listing."""
        return annotate(self._split(name)[1])

    def truth(self) -> None:
        """Nothing is known about members but what is in the files."""

    def _members(self, file: str) -> Sequence[Member]:
        one, selection = self._files[file], self._selection
        try:
            before = one.stamp()
            with self._doubted(file):
                members = self._cache.members(
                    before,
                    f"{self._kind.reader} {file} {selection.include} {selection.exclude}",
                    lambda: self._container(file).members(self._cache.workers),
                )
            after = one.stamp()
        except OSError as error:
            raise UserError(f"{one}: {error.strerror}", remedy="make it readable, or exclude it") from None
        if before != after:
            raise UserError(f"{one}: changed while it was read", remedy="try again when nobody writes it")
        return members

    @contextmanager
    def _doubted(self, file: str) -> Iterator[None]:
        """Says to a file whose content is refused that it may be damaged."""
        try:
            yield
        except UserError:
            self._files[file].doubt()
            raise

    def _split(self, name: str) -> tuple[str, str]:
        if "" in self._files:
            return "", name
        end = name.find("/")
        while end >= 0:
            if name[:end] in self._files:
                return name[:end], name[end + 1 :]
            end = name.find("/", end + 1)
        raise UserError(f"{self.uri}: has no file that holds '{name}'", remedy=CHANGED)

    def _place(self, file: str) -> Place:
        uri = f"{self.uri} ({file})" if file else self.uri
        return Place(self._files[file], uri, f"{file}/" if file else "", self._selection)

    def _container(self, file: str) -> Container:
        if file not in self._open:
            self._open[file] = self._kind.open(self._place(file))
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(file)
        return self._open[file]

    def __getstate__(self) -> dict[str, Any]:
        # of one file what was found in it goes along: else each worker would find it out again
        opened = OrderedDict({"": self._container("")}) if "" in self._files else OrderedDict()
        return {**self.__dict__, "_open": opened}
