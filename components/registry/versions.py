"""Versions of the registered model: what they are, and looking them up."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from components.errors import UserError
from components.settings import Settings
from components.tracking import client
from components.tracking.locking import file_lock

CANDIDATE = "candidate"
CHAMPION = "champion"
DIGEST_TAG = "artifact.sha256"
EVALUATION_TAG = "evaluation"
IDENTITY = ("queries", "bank", "protocol")
"""What of an evaluation must be the same for its scores to be comparable."""
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


class RegistryUnavailable(UserError):
    """MLflow does not answer."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of the registered model."""

    name: str
    version: str
    digest: str
    """`artifact_hash` of the artifact that was registered."""
    tags: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    run_id: str = field(default="", compare=False, repr=False)
    """MLflow run that holds the artifact."""

    @property
    def uri(self) -> str:
        """What `load_backbone` takes; names this version for ever, unlike an alias."""
        return f"models:/{self.name}/{self.version}"

    @property
    def evaluation(self) -> dict[str, Any]:
        """`role`, `metrics` and what `identity` names, recorded at registration; empty if there were none."""
        found = json.loads(self.tags.get(EVALUATION_TAG, "{}"))
        return found if isinstance(found, dict) else {}

    @property
    def identity(self) -> tuple[str, ...] | None:
        """On which images and how the metrics were measured; None if that is not on record."""
        found = tuple(str(self.evaluation.get(name, "")) for name in IDENTITY)
        return found if all(found) else None

    def __str__(self) -> str:
        return self.version


def champion(settings: Settings) -> RegisteredVersion | None:
    """The version that is in use; None while there is none.

    Raises:
        RegistryUnavailable: if MLflow does not answer.
    """
    return by_alias(CHAMPION, settings)


def by_alias(alias: str, settings: Settings) -> RegisteredVersion | None:
    """The version that carries an alias; None if none does, or nothing is registered.

    Raises:
        RegistryUnavailable: if MLflow does not answer.
    """
    with registry(settings) as made:
        return _or_none(lambda: made.get_model_version_by_alias(settings.model_name, alias))


def by_number(version: str, settings: Settings) -> RegisteredVersion:
    """A version by its number.

    Raises:
        UserError: if there is no such version.
        RegistryUnavailable: if MLflow does not answer.
    """
    with registry(settings) as made:
        found = _or_none(lambda: made.get_model_version(settings.model_name, version))
    if found is None:
        remedy = "`selfsight status` shows what is registered; `selfsight run` registers a first version"
        raise UserError(f"{settings.model_name} version {version}: not registered", remedy=remedy)
    return found


def by_uri(uri: str, settings: Settings) -> RegisteredVersion:
    """The version that a URI names.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        settings: where MLflow is.

    Raises:
        UserError: if it is no such URI, or nothing carries that name.
        RegistryUnavailable: if MLflow does not answer.
    """
    named = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if named is None:
        raise UserError(
            f"{uri}: names no registered version", remedy="write models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    name, alias, number = named.groups()
    there = settings.model_copy(update={"model_name": name})
    found = by_alias(alias, there) if alias else by_number(number, there)
    if found is None:
        raise UserError(f"{uri}: no version carries it", remedy="`selfsight status` shows what is registered")
    return found


def by_digest(digest: str, settings: Settings) -> RegisteredVersion | None:
    """The first version that was registered from an artifact; None if none was.

    Raises:
        RegistryUnavailable: if MLflow does not answer.
    """
    wanted = f"name = '{settings.model_name}' and tags.`{DIGEST_TAG}` = '{digest}'"
    with registry(settings) as made:
        found = [one for one in made.search_model_versions(wanted) if one.status == "READY"]
    return min(map(_version, found), key=lambda one: int(one.version), default=None)


def all_versions(settings: Settings) -> list[RegisteredVersion]:
    """Every registered version, the newest first.

    Raises:
        RegistryUnavailable: if MLflow does not answer.
    """
    with registry(settings) as made:
        found, token = [], None
        while token != "":
            page = made.search_model_versions(f"name = '{settings.model_name}'", page_token=token)
            found += [one for one in page if one.status == "READY"]
            token = page.token or ""
    return sorted(map(_version, found), key=lambda one: -int(one.version))


def aliases(settings: Settings) -> dict[str, list[str]]:
    """Aliases of each version that carries one, by its number.

    Raises:
        RegistryUnavailable: if MLflow does not answer.
    """
    model = registered_model(settings)
    carried: dict[str, list[str]] = {}
    for alias, version in sorted(model.aliases.items()) if model else ():
        carried.setdefault(str(version), []).append(alias)
    return carried


def registered_model(settings: Settings) -> Any | None:
    """MLflow's `RegisteredModel`, with its tags and aliases; None before the first version.

    Raises:
        RegistryUnavailable: if MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    with registry(settings) as made:
        try:
            return made.get_registered_model(settings.model_name)
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise


@contextmanager
def registry(settings: Settings) -> Iterator[Any]:
    """The `MlflowClient`; what goes wrong on the way to MLflow is a `RegistryUnavailable`."""
    from mlflow.exceptions import MlflowException

    try:
        yield client(settings)
    except (MlflowException, OSError) as error:
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        remedy = "check SELFSIGHT_MLFLOW_URI with `selfsight doctor`, then run again"
        raise RegistryUnavailable(f"the model registry does not answer ({reason})", remedy=remedy) from error


@contextmanager
def stored(failure: str) -> Iterator[None]:
    """What goes wrong in the block, between here and the artifact store, is a `RegistryUnavailable`.

    Args:
        failure: what could not be done.
    """
    try:
        yield
    except Exception as error:  # every store has error classes of its own, and all of them mean this
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        remedy = "check the artifact store (SELFSIGHT_ARTIFACT_ROOT, credentials, space), then run again"
        raise RegistryUnavailable(f"{failure} ({reason})", remedy=remedy) from error


def registry_lock(settings: Settings) -> AbstractContextManager[bool]:
    """Serialises whatever changes the model's versions and aliases, between processes of this machine."""
    return file_lock(settings.journals / f"registry-{settings.model_name}.lock")


def _or_none(ask: Any) -> RegisteredVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        return _version(ask())
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return None
        raise


def _version(found: Any) -> RegisteredVersion:
    tags = {str(name): str(value) for name, value in found.tags.items()}
    return RegisteredVersion(
        str(found.name), str(found.version), tags.get(DIGEST_TAG, ""), tags, str(found.run_id or "")
    )
