"""`selfsight push` and `pull`: the DVC cache in an S3 bucket that the settings name."""

from collections.abc import Callable
from typing import Literal

from components.errors import UserError
from components.redaction import holds_secret
from components.s3 import (
    CONNECT_SECONDS,
    READ_SECONDS,
    SCHEME,
    S3Address,
    error_code,
    is_s3,
    s3_client,
    s3_errors_explained,
)
from components.settings import Settings, child_environment
from flows.output import Output
from flows.processes import Prepared

REMOTE = "share"
ATTEMPTS = 3
REMOTE_OPTIONS = {"verify": "true", "connect_timeout": str(CONNECT_SECONDS), "read_timeout": str(READ_SECONDS)}
"""What is pulled is hashed before it is taken: DVC trusts a remote otherwise."""
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

    url = str(S3Address(settings.s3_bucket).below(settings.s3_prefix).below("dvc"))
    wanted = {"url": url, **REMOTE_OPTIONS, **({"endpointurl": endpoint} if endpoint else {})}
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
    return S3Address.parse(root).bucket if is_s3(root) else None


def check_bucket(bucket: str, settings: Settings) -> None:
    """Asks the server for a bucket.

    Raises:
        UserError: if it cannot be reached, refuses, or does not have the bucket.
    """
    from botocore.exceptions import ClientError

    endpoint = settings.s3_endpoint
    with s3_errors_explained(f"{SCHEME}{bucket}", bucket, endpoint):
        try:
            s3_client(endpoint, attempts=ATTEMPTS).head_bucket(Bucket=bucket)
        except ClientError as error:
            if error_code(error) != "404":
                raise
            remedy = "make it, or mend SELFSIGHT_S3_BUCKET (SELFSIGHT_ARTIFACT_ROOT)"
            raise UserError(f"{SCHEME}{bucket}: no such bucket", remedy=remedy) from None
