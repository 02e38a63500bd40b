from pathlib import Path

from training_jobs import JOB

from components.errors import UserError
from components.training.job import Answer, Job


def test_a_job_survives_its_file(tmp_path: Path) -> None:
    assert Job.read(JOB.write(tmp_path)) == JOB


def test_the_first_answer_stays(tmp_path: Path) -> None:
    assert Answer.read(tmp_path) is None
    Answer.of_error(UserError("bad", remedy="mend it")).write(tmp_path)
    Answer(0, {"loss": 1.0}).write(tmp_path)
    assert Answer.read(tmp_path) == Answer(2, {}, "bad", "mend it")


def test_a_half_written_answer_is_none(tmp_path: Path) -> None:
    (tmp_path / "answer.json").write_text('{"code": ')
    assert Answer.read(tmp_path) is None
