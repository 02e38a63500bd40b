"""Fetches a model folder from the MLflow registry or from S3."""

from pathlib import Path

from components.errors import UserError
from components.s3 import SCHEME, S3Address, is_s3, s3_client
from components.settings import get_settings

REGISTERED = "models:/"
MLFLOW_SCHEMES = (REGISTERED, "runs:/", "mlflow-artifacts:/")


def is_remote(uri: str) -> bool:
    """Whether the URI names something to fetch, rather than a local folder."""
    return uri.startswith((*MLFLOW_SCHEMES, SCHEME))


def pinned(uri: str) -> str:
    """The URI with a registered version's number in place of an alias, which may move; any other URI as it is.

    Raises:
        UserError: when there is no such alias, or the registry does not answer.
    """
    name, at, alias = uri.removeprefix(REGISTERED).partition("@")
    if not uri.startswith(REGISTERED) or not at:
        return uri
    from components.tracking import client

    try:
        return f"{REGISTERED}{name}/{client().get_model_version_by_alias(name, alias).version}"
    except Exception as error:  # as in `fetch_folder`
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{uri}: cannot be found ({reason})", remedy="check the name and, with `selfsight doctor`, the service"
        ) from error


def fetch_folder(uri: str, into: Path) -> Path:
    """Fetch the files below a URI.

    Args:
        uri: `models:/…`, `runs:/…` or `s3://bucket/prefix`.
        into: existing directory that receives the files.

    Returns:
        The folder that holds the files.

    Raises:
        UserError: when there is nothing, or the service does not answer.
    """
    try:
        return _fetch_s3(uri, into) if is_s3(uri) else _fetch_mlflow(uri, into)
    except UserError:
        raise
    except Exception as error:  # every client has error classes of its own, and all of them mean this
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{uri}: cannot be fetched ({reason})", remedy="check the name and, with `selfsight doctor`, the service"
        ) from error


def _fetch_mlflow(uri: str, into: Path) -> Path:
    from mlflow.artifacts import download_artifacts

    from components.tracking import client

    client()
    return Path(download_artifacts(artifact_uri=uri, dst_path=str(into)))


def _fetch_s3(uri: str, into: Path) -> Path:
    address = S3Address.parse(uri)
    s3 = s3_client(get_settings().s3_endpoint)
    found = False
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=address.bucket, Prefix=address.prefix, Delimiter="/")
    for page in pages:
        for item in page.get("Contents", []):
            name = item["Key"].removeprefix(address.prefix)
            if name:
                s3.download_file(address.bucket, item["Key"], str(into / name))
                found = True
    if not found:
        raise UserError(f"{uri}: nothing is there", remedy="give the prefix that holds config.json")
    return into
