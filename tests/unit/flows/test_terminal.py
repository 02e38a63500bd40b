"""What is shown on a terminal and what is left out elsewhere."""

import io

from flows.output import Output
from flows.terminal import CLEAR_LINE, Terminal


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_over_on_a_terminal() -> None:
    stream = FakeTerminal()
    terminal = Terminal(stream)
    terminal.show(Output("50 %", is_progress=True))
    terminal.show(Output("a line"))
    assert stream.getvalue() == f"{CLEAR_LINE}50 %{CLEAR_LINE}a line\n"


def test_progress_is_left_out_of_a_file() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.show(Output("50 %", is_progress=True))
    terminal.show(Output("a line"))
    assert stream.getvalue() == "a line\n"


def test_a_reader_that_is_gone_does_not_stop_the_work() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    stream.close()
    terminal.line("nobody reads this")
