"""Registering an artifact as a version of the model, once."""

import json
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.models.backbone import ARTIFACT_FILES, LINEAGE, load_backbone
from components.registry.images import ImageSources, record_images
from components.registry.versions import (
    CANDIDATE,
    DIGEST_TAG,
    EVALUATION_TAG,
    RegisteredVersion,
    by_alias,
    by_digest,
    by_number,
    registry,
    registry_lock,
    stored,
)
from components.settings import Settings
from components.tracking import code_version, lock_commit
from components.tracking.mlflow_store import experiment_id

_log = logging.getLogger(__name__)
FOLDER = "backbone"
"""Folder of the artifact inside its run."""
RUN_NAME = "register"
LOCK_COMMIT_TAG = "git.lock_sha"


def register(
    artifact: Path,
    settings: Settings,
    *,
    runs: Mapping[str, str] | None = None,
    images: ImageSources | None = None,
) -> RegisteredVersion:
    """Makes an artifact a version of the model under the alias `candidate`.

    An artifact that is registered already is not registered again, only the alias is moved to it. Safe to call from
    several processes of a machine, and again after a kill.

    Args:
        artifact: folder of a complete backbone artifact, with the lineage that the stage `release` writes.
        settings: where MLflow is.
        runs: MLflow run of each stage that led to the artifact, kept as tags `run.STAGE`.
        images: where the outs are that say which images it was trained on; with the version these are recorded.

    Raises:
        UserError: if the artifact is missing or incomplete.
        RegistryUnavailable: if MLflow does not answer.
    """
    backbone = load_backbone(artifact)
    tags = {DIGEST_TAG: backbone.digest, **version_tags(backbone.lineage)}
    with registry_lock(settings):
        found = by_digest(backbone.digest, settings)
        if found is None:
            found = _create(artifact, tags, runs or {}, settings)
            _log.info("%s version %s registered", found.name, found.version)
        _name_lock_commit(found, settings)
        if images is not None:
            record_images(found, backbone.lineage, images, settings)
        if by_alias(CANDIDATE, settings) != found:
            with registry(settings) as made:
                made.set_registered_model_alias(settings.model_name, CANDIDATE, found.version)
    return found


def read_lineage(version: RegisteredVersion, settings: Settings) -> dict[str, Any]:
    """Content of `lineage.json` of a registered version, without fetching its weights.

    Raises:
        RegistryUnavailable: if MLflow or its artifact store does not answer.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        registry(settings) as made,
        stored(f"the lineage of version {version} cannot be fetched"),
    ):
        path = made.download_artifacts(version.run_id, f"{FOLDER}/{LINEAGE}", folder)
        found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


def version_tags(lineage: Mapping[str, Any]) -> dict[str, str]:
    """What of the lineage stands on the version as tags: hashes to search by, and the evaluation for the gate."""
    flat = {
        "role": lineage.get("role"),
        "parameters.sha256": lineage.get("parameters_sha256"),
        "curated.sha256": lineage.get("curated", {}).get("sha256"),
        "curated.count": lineage.get("curated", {}).get("count"),
        "teacher.sha256": lineage.get("teacher_sha256"),
        "student.sha256": lineage.get("student_sha256"),
        "initial.sha256": lineage.get("initial_sha256"),
        "initial.converted_from": lineage.get("initial_converted_from_sha256"),
        "embedder": lineage.get("embedder", {}).get("version"),
        **{f"dvc.{path}": digest for path, digest in lineage.get("dependencies", {}).items()},
    }
    tags = {name: str(value) for name, value in flat.items() if value is not None}
    if "evaluation" in lineage:
        tags[EVALUATION_TAG] = json.dumps(lineage["evaluation"], sort_keys=True)
    return tags


def _create(artifact: Path, tags: dict[str, str], runs: Mapping[str, str], settings: Settings) -> RegisteredVersion:
    from mlflow.exceptions import MlflowException

    code = code_version(settings.root)
    with registry(settings) as made:
        run = _upload_run(made, tags[DIGEST_TAG], code, settings)
        _upload(artifact, made, run)
        try:
            made.create_registered_model(settings.model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        created = made.create_model_version(
            settings.model_name,
            source=f"{run.info.artifact_uri}/{FOLDER}",
            run_id=run.info.run_id,
            tags={**code, **tags, **{f"run.{stage}": run_id for stage, run_id in runs.items()}},
        )
        made.set_terminated(run.info.run_id)
    return by_number(str(created.version), settings)


def _name_lock_commit(version: RegisteredVersion, settings: Settings) -> None:
    """Tags the commit that holds the lock: it can be made only after the run, so that a later call finds it."""
    commit = None if LOCK_COMMIT_TAG in version.tags else lock_commit(settings.root)
    if commit is not None:
        with registry(settings) as made:
            made.set_model_version_tag(version.name, version.version, LOCK_COMMIT_TAG, commit)


def _upload(artifact: Path, made: Any, run: Any) -> None:
    with stored(f"the artifact cannot be stored at {run.info.artifact_uri}"):
        for name in ARTIFACT_FILES:
            if (artifact / name).is_file():
                made.log_artifact(run.info.run_id, str(artifact / name), FOLDER)


def _upload_run(made: Any, digest: str, code: Mapping[str, str], settings: Settings) -> Any:
    """The run that holds the artifact; the one that a killed registration left behind is used again."""
    experiment = experiment_id(settings)
    wanted = f"tags.`{DIGEST_TAG}` = '{digest}' and tags.stage = '{RUN_NAME}'"
    left_behind = made.search_runs([experiment], filter_string=wanted, max_results=1)
    if left_behind:
        return left_behind[0]
    tags = {"stage": RUN_NAME, DIGEST_TAG: digest, **code}
    if settings.parent_run_id:
        tags["mlflow.parentRunId"] = settings.parent_run_id
    return made.create_run(experiment, start_time=int(time.time() * 1000), tags=tags, run_name=RUN_NAME)
