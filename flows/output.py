"""What a child process prints, as lines and progress, as it comes."""

import codecs
import fcntl
import os
import pty
import re
import select
import shutil
import struct
import termios
import time
import tty
from collections.abc import Callable
from dataclasses import dataclass

from components.redaction import redact_text

POLL_SECONDS = 0.05
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BAR = re.compile(r"^!?$|\d%\s?\||\[\d\d:\d\d[<,]")
"""A progress bar of tqdm, or what is left of one that was cleared."""
CHUNK_BYTES = 65536


@dataclass(frozen=True)
class Output:
    """A piece of what a process prints: a whole line, or the present look of a progress bar."""

    text: str
    is_progress: bool = False


class LineSplitter:
    """Turns bytes into lines and progress; a carriage return starts a line over, as on a terminal."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def feed(self, data: bytes, *, final: bool = False) -> list[Output]:
        """What has become complete by `data`; with `final`, also what was left without an end of line."""
        *lines, self._rest = (self._rest + self._decoder.decode(data, final)).split("\n")
        found = [_output(line) for line in lines]
        if final:
            found.append(_output(self._rest))
            self._rest = ""
        elif "\r" in self._rest:
            self._rest = "\r" + _last_look(self._rest)
            found.append(Output(self._rest[1:], is_progress=True))
        return [output for output in found if output.text or not output.is_progress]


def _output(line: str) -> Output:
    text = redact_text(_last_look(line))
    return Output(text, is_progress=BAR.search(text) is not None)


def _last_look(line: str) -> str:
    return CONTROL.sub("", line).rstrip("\r").rsplit("\r", 1)[-1].rstrip()


def pass_on(reader: int, ended: Callable[[], bool], on_output: Callable[[Output], None]) -> None:
    """Reads until the process has ended; a descendant that keeps the stream open does not hold this up.

    Args:
        reader: where its output comes out.
        ended: whether it has ended.
        on_output: called with each line, and each look of a progress bar.
    """
    splitter = LineSplitter()
    while True:
        is_over = ended()
        readable = select.select([reader], [], [], 0 if is_over else POLL_SECONDS)[0]
        data = _read(reader) if readable else b""
        for output in splitter.feed(data) if data else ():
            on_output(output)
        if not data and is_over:
            break
        if not data and readable:  # it has closed its output, and goes on
            time.sleep(POLL_SECONDS)
    for output in splitter.feed(b"", final=True):
        on_output(output)


def open_terminal() -> tuple[int, int]:
    """A pseudo-terminal of the size of ours: where to read, and what to give to the child."""
    reader, writer = pty.openpty()
    tty.setraw(writer)
    size = shutil.get_terminal_size()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", size.lines, size.columns, 0, 0))
    return reader, writer


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, CHUNK_BYTES)
    except OSError:  # a pseudo-terminal answers EIO when its last writer is gone
        return b""
