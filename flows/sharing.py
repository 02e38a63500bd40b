"""`selfsight push` and `pull`: the DVC cache in an S3 bucket that the settings name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from components.errors import UserError
from components.redaction import holds_secret, redact
from components.settings import Settings, child_environment
from flows.output import Output
from flows.processes import Prepared

REMOTE = "share"
S3_SCHEME = "s3://"
CONNECT_SECONDS = 5
READ_SECONDS = 30
ATTEMPTS = 3
REFUSED = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError")
DVC_NOISE = ("Collecting", "Pushing", "Fetching", "Building", "Applying", "Everything is up to date")


def configure_remote(settings: Settings) -> str:
    """Makes the settings' bucket the default DVC remote of this working tree, in `.dvc/config.local`.

    Credentials stay where the AWS libraries look for them; none is written.

    Returns:
        Address of the remote.

    Raises:
        UserError: if no bucket is set, or the endpoint's URL holds a password.
    """
    if settings.s3_bucket is None:
        raise UserError("no bucket to share through", remedy="set SELFSIGHT_S3_BUCKET in the environment or in .env")
    endpoint = settings.s3_endpoint
    if endpoint is not None and holds_secret(endpoint):
        remedy = "give credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise UserError("SELFSIGHT_S3_ENDPOINT contains a password or key", remedy=remedy)
    from dvc.config import Config

    url = f"s3://{settings.s3_bucket}/{settings.s3_prefix.strip('/')}/dvc"
    wanted = {"url": url, **({"endpointurl": endpoint} if endpoint else {})}
    config = Config(str(settings.root / ".dvc"))
    local = config.read("local")
    if local.get("remote", {}).get(REMOTE) != wanted or local.get("core", {}).get("remote") != REMOTE:
        with config.edit("local") as edited:
            edited["remote"][REMOTE] = wanted
            edited["core"]["remote"] = REMOTE
    return url


def transfer(direction: Literal["push", "pull"], settings: Settings, on_output: Callable[[Output], None]) -> None:
    """Pushes every out that `dvc.lock` names to the bucket, or pulls those that are missing here.

    Args:
        direction: which way.
        settings: the bucket.
        on_output: called with what DVC prints.

    Raises:
        UserError: if there is no bucket, or it cannot be used, or not everything is there.
    """
    require_bucket(settings)
    last = ""

    def listen(output: Output) -> None:
        nonlocal last
        if not output.is_progress and output.text:
            last = output.text
        on_output(output)

    code = Prepared("dvc", environment=child_environment(), folder=settings.root).run(
        [direction, "--remote", REMOTE], listen
    )
    if code != 0:
        what = last.removeprefix("ERROR: ") or f"dvc {direction} ended with exit code {code}"
        raise UserError(f"{direction} is not complete ({what})", remedy=_REMEDY[direction])


_REMEDY = {
    "push": "look at the lines above; what has arrived is kept, and a second call sends only the rest",
    "pull": "push from where the pipeline ran, with the commit that is checked out here, then pull again",
}


def require_bucket(settings: Settings) -> None:
    """Makes the settings' bucket the DVC remote, and asks the server for it.

    Raises:
        UserError: as `configure_remote` and `check_bucket`.
    """
    configure_remote(settings)
    assert settings.s3_bucket is not None
    check_bucket(settings.s3_bucket, settings)


def artifact_bucket(settings: Settings) -> str | None:
    """The bucket that MLflow's artifacts go to; None if they go elsewhere."""
    root = settings.artifact_root or ""
    return root.removeprefix(S3_SCHEME).partition("/")[0] if root.startswith(S3_SCHEME) else None


def check_bucket(bucket: str, settings: Settings) -> None:
    """Asks the server for a bucket.

    Raises:
        UserError: if it cannot be reached, refuses, or does not have the bucket.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    retries: Any = {"mode": "standard", "max_attempts": ATTEMPTS}
    config = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries=retries)
    try:
        client = boto3.session.Session().client("s3", endpoint_url=settings.s3_endpoint, config=config)
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        raise _refusal(str(error.response.get("Error", {}).get("Code", "unknown")), bucket) from None
    except (BotoCoreError, ValueError) as error:
        raise _no_answer(type(error).__name__, bucket, settings.s3_endpoint) from None


def _refusal(code: str, bucket: str) -> UserError:
    if code in ("404", "NoSuchBucket"):
        return UserError(
            f"s3://{bucket}: no such bucket", remedy="make it, or mend SELFSIGHT_S3_BUCKET (SELFSIGHT_ARTIFACT_ROOT)"
        )
    if code in REFUSED:
        remedy = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and the rights to the bucket"
        return UserError(f"s3://{bucket}: the credentials are refused ({code})", remedy=remedy)
    return UserError(f"s3://{bucket}: S3 answers {code}", remedy="try again later, or check the endpoint")


def _no_answer(kind: str, bucket: str, endpoint: str | None) -> UserError:
    if kind in NO_CREDENTIALS:
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return UserError(f"s3://{bucket}: no usable AWS credentials ({kind})", remedy=remedy)
    if kind == "ParamValidationError":
        return UserError(f"s3://{bucket}: not the name of a bucket", remedy="mend SELFSIGHT_S3_BUCKET")
    where = redact(endpoint) if endpoint else "AWS"
    remedy = "check SELFSIGHT_S3_ENDPOINT and the network"
    return UserError(f"s3://{bucket}: {where} cannot be reached ({kind})", remedy=remedy)


def is_shared(root: Path) -> bool:
    """Whether a default DVC remote is configured."""
    from dvc.config import Config

    return bool(Config(str(root / ".dvc")).get("core", {}).get("remote"))
