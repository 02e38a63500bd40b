"""S3: addresses, the client that gives up in time, and what its errors mean."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.errors import UserError
from components.redaction import redact

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SCHEME = "s3://"
ATTEMPTS = 5
"""Tries of one request, with growing pauses between, before it has failed."""
CONNECT_SECONDS = 5
READ_SECONDS = 30
CONNECTIONS = 16
_REFUSED = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError"}
_MD5 = re.compile("[0-9a-f]{32}")
_NO_BUCKET = {"NoSuchBucket", "InvalidBucketName"}
_NO_OBJECT = {"NoSuchKey", "404"}


@dataclass(frozen=True)
class S3Address:
    """A place in a bucket."""

    bucket: str
    prefix: str = ""
    """Of keys: empty, or ending in `/`."""

    @classmethod
    def parse(cls, uri: str) -> "S3Address":
        """Reads `s3://BUCKET` or `s3://BUCKET/PREFIX`.

        Raises:
            UserError: if it names no bucket, or holds credentials, which are not repeated.
        """
        # not urlsplit: a key may hold '?' and '#'
        bucket, _, prefix = uri.removeprefix(SCHEME).partition("/")
        if "@" in bucket:
            remedy = "leave credentials out of the URI; the usual AWS variables and files are read"
            raise UserError(f"{SCHEME}…@{bucket.rpartition('@')[2]}: an S3 URI with credentials", remedy=remedy)
        if not is_s3(uri) or not bucket:
            raise UserError(f"{uri}: names no bucket", remedy="write s3://BUCKET/PREFIX")
        prefix = prefix.rstrip("/")
        return cls(bucket, f"{prefix}/" if prefix else "")

    def key(self, name: str) -> str:
        """The key of an object below the prefix."""
        return self.prefix + name

    def below(self, folder: str) -> "S3Address":
        """The address of a folder below this one."""
        name = folder.strip("/")
        return S3Address(self.bucket, f"{self.prefix}{name}/") if name else self

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")


def is_s3(uri: str) -> bool:
    """Whether a URI is of S3."""
    return uri.startswith(SCHEME)


def s3_client(endpoint: str | None, *, attempts: int = ATTEMPTS, read_seconds: float | None = None) -> "S3Client":
    """Makes a client whose requests end: bounded in time, and tried again a bounded number of times.

    Credentials come from the usual chain of the AWS libraries.

    Args:
        endpoint: URL of an S3-compatible server; None for AWS.
        attempts: tries of one request.
        read_seconds: without a byte of an answer, after which a try has failed; None: `READ_SECONDS`.

    Raises:
        UserError: if the endpoint is no URL of HTTP.
    """
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        message = f"the endpoint of S3 is '{redact(endpoint)}'"
        raise UserError(message, remedy="write SELFSIGHT_S3_ENDPOINT with http:// or https://")
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS if read_seconds is None else read_seconds,
        max_pool_connections=CONNECTIONS,
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    # a session of its own: clients must not be made from the shared default one in several threads
    return boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)


@contextmanager
def s3_errors_explained(what: str, bucket: str, endpoint: str | None) -> Iterator[None]:
    """Turns what S3 may answer in the block into one line with a remedy.

    Args:
        what: the object or place that is asked for.
        bucket: that it is in.
        endpoint: of the client.

    Raises:
        UserError: instead of any error of the client.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise _refusal(error_code(error), what, bucket) from None
    except (BotoCoreError, Boto3Error, ValueError) as error:
        raise _no_answer(type(error).__name__, what, bucket, endpoint) from None


def md5_of(answer: Mapping[str, Any]) -> str | None:
    """The MD5 of an object's bytes, hexadecimal, where the server lets one know it.

    It is the ETag of an object that was uploaded in one piece, and is not encrypted with a key of its own. Of others
    only the length is known, which the connection has checked.

    Args:
        answer: to `get_object`.
    """
    etag = str(answer.get("ETag", "")).strip('"')
    own_key = answer.get("SSECustomerAlgorithm") or answer.get("ServerSideEncryption", "AES256") != "AES256"
    return None if own_key or not _MD5.fullmatch(etag) else etag


def error_code(error: Any) -> str:
    """The code of a `ClientError`, such as `NoSuchKey` or `404`."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def is_lasting(error: Exception) -> bool:
    """Whether asking again is no use: the request is refused, or what it asks for is not there."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return error_code(error) in _REFUSED | _NO_BUCKET | _NO_OBJECT
    return type(error).__name__ in _NO_CREDENTIALS


def _refusal(code: str, what: str, bucket: str) -> UserError:
    if code in _NO_BUCKET:
        return UserError(f"{SCHEME}{bucket}: no such bucket", remedy="give an existing one, or set the endpoint")
    if code in _REFUSED:
        remedy = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and the rights to the bucket"
        return UserError(f"{what}: the credentials are refused ({code})", remedy=remedy)
    if code in _NO_OBJECT:
        return UserError(f"{what}: not there ({code})", remedy="upload it again, or check the address")
    return UserError(f"{what}: S3 answers {code}", remedy="try again later, or check the endpoint")


def _no_answer(kind: str, what: str, bucket: str, endpoint: str | None) -> UserError:
    if kind in _NO_CREDENTIALS:
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return UserError(f"{what}: no usable AWS credentials ({kind})", remedy=remedy)
    if kind == "ParamValidationError":
        return UserError(f"{SCHEME}{bucket}: not the name of a bucket", remedy="write s3://BUCKET/PREFIX")
    where = redact(endpoint) if endpoint else "AWS"
    remedy = "check SELFSIGHT_S3_ENDPOINT and the network"
    return UserError(f"{what}: {where} cannot be reached ({kind})", remedy=remedy)
