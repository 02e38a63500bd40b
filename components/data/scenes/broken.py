"""Files that carry the name of a picture and that no decoder can, or should, read."""

import struct
import zlib
from collections.abc import Callable, Mapping

from numpy.random import Generator

from components.data.scenes.draws import below, pick, uniform


def _truncated(whole: bytes, rng: Generator) -> bytes:
    return whole[: int(len(whole) * uniform(rng, 0.3, 0.8))]


def _empty(whole: bytes, rng: Generator) -> bytes:
    return b""


def _text(whole: bytes, rng: Generator) -> bytes:
    number = below(rng, 1_000_000)
    return f"<html><head><title>404 Not Found</title></head><body>Request {number}</body></html>\n".encode()


def _bad_header(whole: bytes, rng: Generator) -> bytes:
    junk = bytes(below(rng, 256) for _ in range(32))
    return b"\x00" + junk[1:] + whole[32:]


def _zeros(whole: bytes, rng: Generator) -> bytes:
    return bytes(len(whole) + below(rng, 1000))


def _bomb(whole: bytes, rng: Generator) -> bytes:
    """A PNG of a few hundred bytes that claims billions of pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    side = 50_000 + below(rng, 10_000)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


KINDS: Mapping[str, Callable[[bytes, Generator], bytes]] = {
    "truncated": _truncated,
    "empty": _empty,
    "text": _text,
    "bad_header": _bad_header,
    "zeros": _zeros,
    "bomb": _bomb,
}
"""Ways of breaking a file."""


def draw_broken_kind(rng: Generator) -> str:
    """Draw one of `KINDS`; the first draw of `break_file`."""
    return pick(rng, tuple(KINDS))


def break_file(whole: bytes, rng: Generator) -> tuple[bytes, str]:
    """Break a picture's file; returns the bytes and the name of the way."""
    kind = draw_broken_kind(rng)
    return KINDS[kind](whole, rng), kind
