"""What every stage does around its own work."""

import json
import logging
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

from components.errors import USER_ERROR_EXIT_CODE, UserError, no_space_is_a_user_error
from components.parameters import Params, parameters_hash
from components.redaction import redact_text
from components.settings import Settings, get_settings, guard_secrets
from components.stages import paths
from components.stages.lifeline import follow_parents
from components.stages.params import PipelineParams, load_params
from components.stages.publish import publish
from components.tracking import Run, start_run

P = TypeVar("P", bound=Params)


@dataclass(frozen=True)
class StageContext:
    """What a stage is given beside its parameters."""

    run: Run
    """The open MLflow run of the stage."""
    settings: Settings
    """Where services live."""
    all_params: PipelineParams
    """Every section of params.yaml, for a stage that records them."""


Body = Callable[[P, StageContext], Mapping[str, float]]
ResumeKey = Callable[[P, Settings], str | None]
Assist = Callable[[P, Settings], None]


def execute(
    name: str,
    params_type: type[P],
    body: Body[P],
    *,
    resume_key: ResumeKey[P] | None = None,
    assist: Assist[P] | None = None,
) -> NoReturn:
    """Runs one stage as a process and exits.

    Exit codes: 0 done; 2 a `UserError`, shown as one line; 143 stopped by SIGTERM; whatever `SystemExit` the body
    raises; 1 anything else, with a traceback.

    Args:
        name: the stage, as in dvc.yaml and params.yaml.
        params_type: model of its section.
        body: the work; it writes the outs through `publish` and returns flat metrics.
        resume_key: gives the key of an earlier, interrupted run to go on with, or None.
        assist: what machines other than number 0 do, where a stage runs on several: no run, no outs, no metrics.
    """
    _configure_logging()
    guard_secrets()
    signal.signal(signal.SIGTERM, _on_sigterm)
    code, message = 0, ""
    try:
        with no_space_is_a_user_error(f"running {name}"):
            _run(name, params_type, body, resume_key, assist)
    except UserError as error:
        code, message = USER_ERROR_EXIT_CODE, str(error)
        sys.stderr.write(f"{name}: {message}\n")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        _report(name, code, f"stopped with exit code {code}")
        raise
    except BaseException as error:
        _report(name, 1, f"{type(error).__name__}: {error}")
        raise
    _report(name, code, message)
    sys.exit(code)


def _run(
    name: str, params_type: type[P], body: Body[P], resume_key: ResumeKey[P] | None, assist: Assist[P] | None
) -> None:
    settings = get_settings()
    follow_parents(settings.lifeline)
    all_params = load_params(paths.PARAMS)
    params = all_params.section(name)
    assert isinstance(params, params_type)
    if settings.node_rank > 0:
        if assist is None:
            raise UserError(f"{name} runs on one machine", remedy="run it where SELFSIGHT_NODE_RANK is 0")
        assist(params, settings)
        return
    tags = {"stage": name, "parameters.sha256": parameters_hash(params.model_dump(mode="json"))}
    key = resume_key(params, settings) if resume_key else None
    with start_run(name, params=params.model_dump(mode="json"), tags=tags, resume_key=key, settings=settings) as run:
        start = time.monotonic()
        metrics = body(params, StageContext(run, settings, all_params))
        run.log_metrics({**metrics, "seconds": time.monotonic() - start})
        write_json(paths.METRICS / f"{name}.json", dict(sorted(metrics.items())))
        write_json(paths.RUNS / f"{name}.json", {"run_id": run.run_id})


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Writes a small JSON file whole, readable by people, with a final newline."""
    with publish(path) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _report(name: str, code: int, message: str) -> None:
    """Leaves the exit code where the orchestrator finds it: `dvc repro` turns every failure into 255."""
    try:
        exit_file = get_settings().exit_file
    except UserError:  # which is what is reported: bare `dvc repro` waits for no file
        return
    if exit_file is not None:
        exit_file.write_text(json.dumps({"stage": name, "code": code, "message": redact_text(message)}))


def _on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    # a service manager signals every process, and so does the orchestrator: the second must not cut the checkpoint off
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + signal.SIGTERM)


def _configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    for noisy in ("httpx", "botocore", "urllib3", "great_expectations", "matplotlib", "alembic", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # odd but decodable files; what does not decode is quarantined
