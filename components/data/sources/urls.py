"""A list of addresses of images on the internet."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from components.data.lock import Annotation, Role, SourceObject
from components.data.sources.digests import digest_of
from components.data.sources.https import SCHEME, Fetcher, FetchError, checked_parts
from components.data.sources.listings import in_threads
from components.data.sources.protocol import CHANGED
from components.data.sources.selection import Selection, Tally
from components.data.sources.web_cache import Kept, WebCache
from components.errors import UserError

_log = logging.getLogger(__name__)
FETCHES = 16
"""Addresses asked at a time."""
EXAMPLES = 3


class UrlSource:
    """The images at the addresses in a text file, one a line: `URL`, or `URL<tab>LABEL`, or `URL<tab>LABEL<tab>GROUP`.

    Empty lines and lines that begin with `#` are passed over. A name is the address without `https://`. An address
    that cannot be had is left out and counted, unless it could be had before and only fails for now: then it is what
    it was.

    Args:
        uri: the text file, as given.
        role: `train` or `eval`.
        selection: which addresses are taken.
        fetcher: that gets them.
        cache: of what was fetched.
    """

    def __init__(self, uri: str, role: Role, selection: Selection, fetcher: Fetcher, cache: WebCache) -> None:
        self.uri = uri
        self.role = role
        self._selection = selection.of_everything()
        self._fetcher = fetcher
        self._cache = cache
        self._path = Path(uri).expanduser()

    def list(self) -> Iterator[SourceObject]:
        """Yields every image with its size and SHA-256, sorted by name; what has not changed is not fetched again."""
        tally = Tally(self._selection, self.uri)
        names = [name for name, _ in tally.taken(self._lines.items())]
        tally.close()
        failed: Counter[str] = Counter()
        examples: list[str] = []
        for name, found in zip(names, in_threads(self._refreshed, names, FETCHES), strict=True):
            if isinstance(found, Kept):
                yield SourceObject(self.role, name, found.size, found.digest, self._lines[name])
                continue
            failed[found] += 1
            if len(examples) < EXAMPLES:
                examples.append(f"{SCHEME}{name} {found}")
        self._tell(failed, examples, len(names))

    def read(self, name: str, digest: str | None = None) -> bytes:
        """Returns the bytes of an address, see `Source.read`; from the cache where they are there."""
        url = SCHEME + name
        if digest is not None and (data := self._cache.read(digest)) is not None:
            return data
        try:
            answer = self._fetcher.fetch(url)
        except FetchError as error:
            remedy = CHANGED if error.lasting else "try again later"
            raise UserError(f"{url} {error.reason}", remedy=remedy) from None
        data = answer.body or b""
        if digest is not None and digest_of(data) != digest:
            raise UserError(f"{url}: changed since the snapshot", remedy=CHANGED)
        self._cache.keep(url, data, answer.validators)
        return data

    def annotation(self, name: str) -> Annotation:
        """What the line says; a folder in an address is no label."""
        return self._lines.get(name) or Annotation()

    def truth(self) -> None:
        """Nothing is known about images but what the list says."""

    def _refreshed(self, name: str) -> Kept | str:
        """What an address gives now, or why it gives nothing."""
        url = SCHEME + name
        kept = self._cache.of(url)
        try:
            answer = self._fetcher.fetch(url, None if kept is None else kept.validators)
        except FetchError as error:
            if error.lasting:
                self._cache.forget(url)
            return error.reason if kept is None or error.lasting else kept
        if answer.body is None and kept is not None:
            return kept
        return self._cache.keep(url, answer.body or b"", answer.validators)

    def _tell(self, failed: Counter[str], examples: Sequence[str], total: int) -> None:
        if not failed:
            return
        counts = ", ".join(f"{number} × {reason}" for reason, number in failed.most_common())
        if failed.total() == total:
            message = f"{self.uri}: none of its {total} addresses can be had ({counts})"
            raise UserError(message, remedy="check the network, and open one of them in a browser")
        _log.warning("%s: %d of %d are left out: %s; such as %s", self.uri, failed.total(), total, counts, examples)

    @cached_property
    def _lines(self) -> dict[str, Annotation]:
        """Annotations by name."""
        try:
            text = self._path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            remedy = "give a text file in UTF-8 with one https:// address a line"
            raise UserError(f"{self.uri}: cannot be read ({type(error).__name__})", remedy=remedy) from None
        found: dict[str, Annotation] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            url, *said = (part.strip() for part in line.split("\t"))
            try:
                checked_parts(url)
            except UserError as error:
                raise UserError(f"{self.uri}: line {number}: {error.what}", remedy=error.remedy) from None
            if len(said) > 2:
                remedy = "write URL, or URL<tab>LABEL<tab>GROUP"
                raise UserError(f"{self.uri}: line {number} has {len(said) + 1} fields", remedy=remedy)
            label, group = (*said, "", "")[:2]
            annotation = Annotation(label or None, group or None)
            if found.setdefault(url.removeprefix(SCHEME), annotation) != annotation:
                message = f"{self.uri}: line {number} repeats {url} with another label"
                raise UserError(message, remedy="keep one of the lines")
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lines"}
