"""What a training process answers."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from training_jobs import JOB

from components.training import worker
from components.training.job import Answer


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """The worker with another training, which ends with an error; gives its exit code."""

    def end(code: int) -> None:
        raise SystemExit(code)

    def run(error: BaseException) -> int:
        def train(*_: object) -> dict[str, float]:
            raise error

        monkeypatch.setattr(worker, "train", train)
        with pytest.raises(SystemExit) as ended:
            worker.main(JOB.write(tmp_path))
        assert isinstance(ended.value.code, int)
        return ended.value.code

    monkeypatch.setattr(worker, "_leave", end)
    monkeypatch.setattr(worker, "die_with", lambda _: None)
    monkeypatch.setattr(worker, "Stop", lambda: lambda: False)
    return run


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_F7_a_full_disk_is_answered_with_its_remedy(
    work: Callable[[BaseException], int], tmp_path: Path, number: int
) -> None:
    assert work(OSError(number, "full")) == 0, "torchrun would start it again"
    answer = Answer.read(tmp_path)
    assert answer is not None
    assert (answer.code, answer.what) == (2, "no space left while training distill")
    assert "run again" in answer.remedy


def test_F4_a_process_that_is_started_again_after_an_answer_ends_at_once(
    work: Callable[[BaseException], int], tmp_path: Path
) -> None:
    Answer(75, {}).write(tmp_path)
    assert work(RuntimeError("not reached")) == 0
    assert Answer.read(tmp_path) == Answer(75, {})


def test_another_error_is_shown_and_not_answered(
    work: Callable[[BaseException], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert work(OSError(errno.EIO, "broken")) == 1
    assert Answer.read(tmp_path) is None
    assert "broken" in capsys.readouterr().err


def test_F7_a_reason_that_cannot_be_answered_is_logged(
    work: Callable[[BaseException], int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_answer: Answer, _folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Answer, "write", full)
    assert work(OSError(errno.ENOSPC, "full")) == 2
    assert "No space left on device" in caplog.text
    assert "no space left while training distill" in caplog.text
