"""What `dvc repro` prints is told apart, and its failures are the stage's own."""

import json
from pathlib import Path

import pytest

from components.errors import UserError
from flows.output import Output
from flows.repro import StageError, _failure, _Listener


def listen(tmp_path: Path, *lines: str, told: dict[str, object] | None = None) -> tuple[_Listener, list[str]]:
    shown: list[str] = []
    exit_file = tmp_path / "exit.json"
    if told is not None:
        exit_file.write_text(json.dumps(told))
    listener = _Listener("embed", exit_file, lambda output: shown.append(output.text), lambda: None)
    for line in lines:
        listener(Output(line))
    listener.release()
    return listener, shown


def test_a_stage_that_did_not_change_is_cached(tmp_path: Path) -> None:
    listener, shown = listen(tmp_path, "Stage 'embed' didn't change, skipping", "Data and pipelines are up to date.")
    assert listener.is_cached
    assert shown == []


def test_a_stage_restored_from_the_run_cache_is_cached(tmp_path: Path) -> None:
    listener, _ = listen(tmp_path, "Stage 'embed' is cached - skipping run, checking out outputs")
    assert listener.is_cached


def test_a_stage_that_ran_is_not_cached_and_only_its_own_lines_are_shown(tmp_path: Path) -> None:
    listener, shown = listen(
        tmp_path, "Running stage 'embed':", "> python -m components.stages.embed", "12 of 30", "Updating lock file"
    )
    assert not listener.is_cached
    assert shown == ["12 of 30", "Updating lock file"]


def test_the_line_that_the_exit_file_repeats_is_left_to_who_handles_the_error(tmp_path: Path) -> None:
    told = {"code": 2, "message": "no such file: give one"}
    _, shown = listen(tmp_path, "embed: no such file: give one", "ERROR: failed to run", told=told)
    assert shown == []


def test_a_line_of_the_stage_that_is_no_error_is_shown(tmp_path: Path) -> None:
    _, shown = listen(tmp_path, "embed: 3 images", "more")
    assert shown == ["embed: 3 images", "more"]


def test_a_user_error_of_the_stage_is_one_here() -> None:
    error = _failure("embed", 255, {"code": 2, "message": "data/x: no such file: give one"}, "failed")
    assert isinstance(error, UserError)
    assert str(error) == "embed: data/x: no such file: give one"


@pytest.mark.parametrize(
    ("code", "again"), [(1, True), (137, True), (139, True), (3, False), (130, False), (143, False)]
)
def test_only_a_crash_is_worth_a_second_try(code: int, again: bool) -> None:
    error = _failure("embed", 255, {"code": code, "message": "broken"}, "")
    assert isinstance(error, StageError)
    assert error.code == code
    assert error.may_pass_next_time == again


def test_without_an_exit_file_dvc_tells_the_stages_exit_code() -> None:
    error = _failure("embed", 255, {}, "failed to reproduce 'embed': failed to run: python embed.py, exited with -9")
    assert isinstance(error, StageError)
    assert error.code == 137


def test_an_error_of_dvc_itself_is_passed_on() -> None:
    error = _failure("embed", 255, {}, "failed to reproduce 'embed': missing data 'source': data/source.lock")
    assert str(error) == "embed: missing data 'source': data/source.lock"


def test_another_dvc_in_the_same_tree_is_something_the_user_can_mend() -> None:
    error = _failure("embed", 255, {}, "failed to reproduce 'embed': '/data' is busy, it is being blocked by:")
    assert isinstance(error, UserError)


def test_a_killed_dvc_is_named() -> None:
    error = _failure("embed", -9, {}, "")
    assert str(error) == "embed: dvc repro was killed by signal 9"
    assert isinstance(error, StageError)
    assert error.code == 137
