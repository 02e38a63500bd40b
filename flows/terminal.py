"""What `selfsight` shows while it works. Results go to standard output, everything else to standard error."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from flows.output import Output

CLEAR_LINE = "\r\x1b[K"


class Terminal:
    """Lines as they come; on a real terminal also progress bars, which the next line replaces.

    Args:
        stream: where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_interactive = stream.isatty()
        self._progress_shown = False

    def line(self, text: str) -> None:
        """Shows a whole line."""
        self.clear()
        self._write(text + "\n")

    def show(self, output: Output) -> None:
        """Shows what a process printed; progress only where it can be drawn over."""
        if not output.is_progress:
            self.line(output.text)
        elif self.is_interactive:
            self._write(CLEAR_LINE + output.text)
            self._progress_shown = True

    def clear(self) -> None:
        """Removes a progress bar that is still shown."""
        if self._progress_shown:
            self._write(CLEAR_LINE)
            self._progress_shown = False

    def _write(self, text: str) -> None:
        # when nobody reads any more, that is no reason to stop the work
        with suppress(BrokenPipeError, ValueError):
            self._stream.write(text)
            self._stream.flush()


_current: Terminal | None = None


def current_terminal() -> Terminal | None:
    """The terminal in use; None where Prefect's own console log is what people read (deployments, notebooks)."""
    return _current


@contextmanager
def own_terminal(stream: TextIO | None = None) -> Iterator[Terminal]:
    """Writes to the terminal ourselves for the length of the block; Prefect's console log is silent meanwhile.

    Args:
        stream: where to write; default: standard error.
    """
    global _current
    previous, _current = _current, Terminal(stream or sys.stderr)
    try:
        with _quiet_prefect_console():
            yield _current
    finally:
        _current.clear()
        _current = previous


@contextmanager
def _quiet_prefect_console() -> Iterator[None]:
    """Keeps Prefect's log off this process's streams; its server still gets all of it."""

    def is_not_prefects(record: logging.LogRecord) -> bool:
        return not record.name.startswith("prefect")

    loggers = [logging.getLogger(), logging.getLogger("prefect"), *_prefect_loggers()]
    handlers = {h for logger in loggers for h in logger.handlers if isinstance(h, logging.StreamHandler)}
    for handler in handlers:
        handler.addFilter(is_not_prefects)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_not_prefects)


def _prefect_loggers() -> list[logging.Logger]:
    known = logging.Logger.manager.loggerDict
    return [item for name, item in known.items() if name.startswith("prefect.") and isinstance(item, logging.Logger)]
