"""Fetching one address from the internet: to public hosts only, bounded in redirects, size and time."""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urljoin, urlsplit

from components.data.sources.addresses import checked_address
from components.errors import UserError
from components.redaction import holds_secret, redact

SCHEME = "https://"
REDIRECTS = 5
MAX_BYTES = 100 << 20
"""Size above which an object is not fetched: what `ingest.max_bytes` has as its default."""
TOTAL_SECONDS = 120.0
"""For one address, all redirects, retries and pauses apart."""
STEP_SECONDS = 15.0
"""Without a byte arriving."""
ATTEMPTS = 3
BACKOFF_SECONDS = 0.5
CHUNK = 1 << 16
_REDIRECTED = {301, 302, 303, 307, 308}
_LATER = {408, 425, 429, 500, 502, 503, 504}
_HEADERS = {"User-Agent": "selfsight", "Accept-Encoding": "identity", "Accept": "image/*, */*;q=0.1"}


class FetchError(Exception):
    """An address that cannot be had.

    Args:
        reason: in a few words.
        lasting: whether asking again later is no use.
    """

    def __init__(self, reason: str, *, lasting: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting


@dataclass(frozen=True)
class Answer:
    """What an address gave."""

    body: bytes | None
    """None: it has not changed."""
    validators: Mapping[str, str] = field(default_factory=dict)
    """Headers to ask with next time whether it has changed."""


@dataclass(frozen=True)
class Fetcher:
    """Gets addresses; picklable.

    Args:
        allowed: hosts that may be at private addresses.
    """

    allowed: Collection[str] = ()

    def fetch(self, url: str, validators: Mapping[str, str] | None = None) -> Answer:
        """Gets an address.

        Args:
            url: `https://…`.
            validators: those of the answer that is at hand already.

        Raises:
            FetchError: if it cannot be had.
            UserError: if the address, or one that it leads to, is not public or not `https`.
        """
        for attempt in range(ATTEMPTS):
            try:
                return self._followed(url, validators or {})
            except FetchError as error:
                if error.lasting or attempt == ATTEMPTS - 1:
                    raise
            time.sleep(BACKOFF_SECONDS * 2**attempt)
        raise AssertionError("unreachable")

    def _followed(self, url: str, validators: Mapping[str, str]) -> Answer:
        deadline = time.monotonic() + TOTAL_SECONDS
        parts = checked_parts(url)
        for _ in range(REDIRECTS + 1):
            answer = self._once(*parts, validators, deadline)
            if isinstance(answer, Answer):
                return answer
            try:
                url = urljoin(url, answer)
                parts = checked_parts(url)
            except (UserError, ValueError):
                raise FetchError("leads to what is no public https address", lasting=True) from None
        raise FetchError(f"more than {REDIRECTS} redirects", lasting=True)

    def _once(self, host: str, port: int, target: str, validators: Mapping[str, str], deadline: float) -> Answer | str:
        """The answer of an address, or the address that it leads to."""
        with _failures():
            address = checked_address(host, port, self.allowed)
            connection = _PinnedConnection(host, port, address, self._tls, deadline)
            with _cut_off(connection, deadline):
                connection.request("GET", target, headers={**_HEADERS, **validators})
                response = connection.getresponse()
                if response.status in _REDIRECTED and (location := response.getheader("Location")):
                    return location
                return _answer(response)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def __getstate__(self) -> dict[str, Any]:
        return {"allowed": self.allowed}


def checked_parts(url: str) -> tuple[str, int, str]:
    """Host, port and request target of an address.

    Raises:
        UserError: if it is not `https`, is malformed, or holds a password, a key or a signature.
    """
    remedy = "write https://HOST/PATH"
    if holds_secret(url):
        message = f"{redact(url)}: holds a password, key or signature"
        raise UserError(message, remedy="leave it out: locks and manifests would spread it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
        ascii_host = (host or "").encode("idna").decode()
    except ValueError:
        raise UserError(f"{url!r}: no address", remedy=remedy) from None
    if parts.scheme != "https" or not ascii_host:
        raise UserError(f"{url!r}: only https:// is read", remedy=remedy)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or not target.isprintable() or " " in target:
        raise UserError(f"{url!r}: holds characters that no address has", remedy="write them as %XX")
    return ascii_host, port, target


class _PinnedConnection(http.client.HTTPSConnection):
    """Connects to an address that was checked; the certificate must still be that of the host.

    Whatever it waits for, it can be cut off from another thread.
    """

    def __init__(self, host: str, port: int, address: str, tls: ssl.SSLContext, deadline: float) -> None:
        super().__init__(host, port, timeout=STEP_SECONDS, context=tls)
        self._address = address
        self._tls = tls
        self._deadline = deadline
        # a socket of its own to cut off: `sock` is None while the body of an answer without a length is read
        self._opened: socket.socket | None = None
        self.late = threading.Event()
        """Set when it was cut off."""

    def connect(self) -> None:
        seconds = min(STEP_SECONDS, self._deadline - time.monotonic())
        if seconds <= 0:
            raise TimeoutError
        opened = socket.create_connection((self._address, self.port), timeout=seconds)
        opened.settimeout(STEP_SECONDS)
        wrapped = self._tls.wrap_socket(opened, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = self._opened = wrapped
        if self.late.is_set():  # before there was anything to cut off
            raise TimeoutError
        wrapped.do_handshake()

    def cut(self) -> None:
        self.late.set()
        if self._opened is not None:
            with suppress(OSError):
                self._opened.shutdown(socket.SHUT_RDWR)


@contextmanager
def _cut_off(connection: _PinnedConnection, deadline: float) -> Iterator[None]:
    """Ends the connection at a time, whatever it is waiting for: a server may send one byte every few seconds."""
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), connection.cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        connection.close()
        if connection.late.is_set():
            raise FetchError(f"takes more than {TOTAL_SECONDS:.0f} s", lasting=False)


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise FetchError(f"certificate: {error.verify_message}", lasting=True) from None
    except TimeoutError:
        raise FetchError("times out", lasting=False) from None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise FetchError(f"fails ({type(error).__name__})", lasting=False) from None


def _answer(response: http.client.HTTPResponse) -> Answer:
    if response.status == http.client.NOT_MODIFIED:
        return Answer(None)
    if response.status != http.client.OK:
        raise FetchError(f"answers {response.status}", lasting=response.status not in _LATER)
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        raise FetchError("answers compressed", lasting=True)
    body = bytearray()
    while chunk := response.read(CHUNK):
        body += chunk
        if len(body) > MAX_BYTES:
            raise FetchError(f"is larger than {MAX_BYTES} bytes", lasting=True)
    if response.length:  # what was promised and did not come
        raise FetchError("is cut short", lasting=False)
    headers = {"If-None-Match": response.getheader("ETag"), "If-Modified-Since": response.getheader("Last-Modified")}
    return Answer(bytes(body), {name: value for name, value in headers.items() if value})
