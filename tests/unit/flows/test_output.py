"""What a child process prints becomes lines and progress."""

from flows.output import LineSplitter, Output


def test_lines_are_passed_on_when_they_are_complete() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == [Output("one")]
    assert splitter.feed(b"o\n") == [Output("two")]


def test_a_last_line_without_an_end_is_passed_on_at_the_end() -> None:
    splitter = LineSplitter()
    splitter.feed(b"half")
    assert splitter.feed(b"", final=True) == [Output("half")]
    assert splitter.feed(b"", final=True) == []


def test_a_character_cut_in_two_by_the_pipe_is_put_together() -> None:
    splitter = LineSplitter()
    first, second = "…\n".encode()[:2], "…\n".encode()[2:]
    assert splitter.feed(first) == []
    assert splitter.feed(second) == [Output("…")]


def test_bytes_that_are_no_text_do_not_stop_the_reading() -> None:
    assert LineSplitter().feed(b"\xff\xfe\n") == [Output("\ufffd\ufffd")]


def test_a_progress_bar_is_progress_until_its_line_ends() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"\r 10%") == [Output(" 10%", is_progress=True)]
    assert splitter.feed(b"\r 20%") == [Output(" 20%", is_progress=True)]
    assert splitter.feed(b"\r100%\n") == [Output("100%")]


def test_line_ends_of_a_terminal_leave_no_trace() -> None:
    assert LineSplitter().feed(b"one\r\ntwo\r\n") == [Output("one"), Output("two")]


def test_bars_below_one_another_are_progress_and_leave_no_lines_behind() -> None:
    nested = "\r 50%|#####     | 1/2 [00:01<00:01]\n\r 10%|#         | 1/9 [00:00<?, ?image/s]\x1b[A\n\r\x1b[K!\x1b[A\n"
    assert all(output.is_progress for output in LineSplitter().feed(nested.encode()))


def test_colours_are_left_out() -> None:
    assert LineSplitter().feed(b"\x1b[1mbold\x1b[0m\n") == [Output("bold")]
