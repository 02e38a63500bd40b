"""Checkpoints in an S3 bucket: written, listed, verified, fetched.

`PREFIX/KEY/step-00000120/` holds the files of a checkpoint. Its manifest is uploaded last and deleted first: without
one there is no checkpoint. What is fetched goes through the store, which verifies it against the manifest.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import UserError
from components.s3 import ATTEMPTS, S3Address, error_code, s3_client
from components.training.checkpoint import MANIFEST, STATE, VERIFIED, CheckpointError, CheckpointStore, step_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)


class BucketCopies:
    """The checkpoints of one run in a bucket.

    Args:
        address: `s3://BUCKET/PREFIX`.
        run: name of the run's folder.
        endpoint: URL of an S3-compatible server; None for AWS.
        keep: how many whole ones stay.

    Raises:
        UserError: if the address names no bucket.
    """

    def __init__(self, address: str, run: str, *, endpoint: str | None, keep: int) -> None:
        try:
            self._address = S3Address.parse(address).below(run)
        except UserError:
            remedy = "write s3://BUCKET/PREFIX, without credentials"
            raise UserError("SELFSIGHT_CHECKPOINT_MIRROR names no bucket", remedy=remedy) from None
        self._bucket, self._prefix = self._address.bucket, self._address.prefix
        self._endpoint = endpoint
        self._keep = keep
        self._made: S3Client | None = None

    def upload(self, folder: Path, name: str) -> None:
        """Copies a whole checkpoint and drops the oldest ones.

        Args:
            folder: its files.
            name: of the checkpoint.

        Raises:
            UserError: if the bucket cannot be written.
        """
        with self._explained():
            self._client.delete_object(Bucket=self._bucket, Key=f"{self._prefix}{name}/{MANIFEST}")
            files = sorted(path for path in folder.iterdir() if path.name not in (MANIFEST, VERIFIED))
            for path in [*files, folder / MANIFEST]:
                self._client.upload_file(str(path), self._bucket, f"{self._prefix}{name}/{path.name}")
            whole = [one for one, found in self._names().items() if MANIFEST in found]
            for one in sorted(whole)[: -self._keep]:
                self._remove(one)

    def discard_above(self, step: int) -> None:
        """Removes the copies of later steps: they are of another run.

        Raises:
            UserError: if the bucket cannot be written.
        """
        with self._explained():
            for name in self._names():
                if step_of(name) > step:
                    self._remove(name)

    def abort_uploads(self) -> None:
        """Drops the parts of uploads that a kill has cut off; they would be paid for without being seen.

        Raises:
            UserError: if the bucket cannot be written.
        """
        with self._explained():
            found = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=self._prefix)
            for one in found.get("Uploads", []):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=one["Key"], UploadId=one["UploadId"])

    def fetch(self, store: CheckpointStore, accept: Callable[[dict[str, Any]], bool]) -> Path | None:
        """Puts the newest whole copy into a store, if it is newer than what the store has.

        Args:
            store: of the same run.
            accept: whether the run can go on from a checkpoint with this `state.json`.

        Returns:
            The checkpoint, or None if there is none to fetch.

        Raises:
            UserError: if the bucket cannot be read.
        """
        newest = store.newest()
        have = 0 if newest is None else step_of(newest.name)
        with self._explained():
            whole = {name: files for name, files in self._names().items() if {MANIFEST, STATE} <= files}
            for name in sorted(whole, reverse=True):
                if step_of(name) <= have:
                    return None
                try:
                    if not accept(json.loads(self._read(name, STATE))):
                        return None
                    return self._fetch(name, whole[name], store)
                except (CheckpointError, ValueError, KeyError, TypeError) as error:
                    _log.warning("%s/%s is damaged (%s)", self._address, name, error)
                    store.abandon(step_of(name))
        return None

    def _fetch(self, name: str, files: set[str], store: CheckpointStore) -> Path:
        step = step_of(name)
        digests: dict[str, str] = dict(json.loads(self._read(name, MANIFEST))["files"])
        for file in digests:
            if Path(file).name != file or file not in files:
                raise CheckpointError(f"{file} is missing")
        folder = store.begin(step)
        for file in digests:
            self._client.download_file(self._bucket, f"{self._prefix}{name}/{file}", str(folder / file))
        _log.info("%s fetched from %s", name, self._address)
        return store.commit(step, digests)

    def _read(self, name: str, file: str) -> bytes:
        return self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}{name}/{file}")["Body"].read()

    def _names(self) -> dict[str, set[str]]:
        """Files of each checkpoint by its name, whole or not."""
        found: dict[str, set[str]] = {}
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        for page in pages:
            for entry in page.get("Contents", []):
                name, _, file = entry["Key"].removeprefix(self._prefix).partition("/")
                if step_of(name) >= 0:
                    found.setdefault(name, set()).add(file)
        return found

    def _remove(self, name: str) -> None:
        files = self._names().get(name, set())
        for file in sorted(files, key=lambda one: one != MANIFEST):
            self._client.delete_object(Bucket=self._bucket, Key=f"{self._prefix}{name}/{file}")

    @property
    def _client(self) -> "S3Client":
        if self._made is None:
            self._made = s3_client(self._endpoint, attempts=ATTEMPTS)
        return self._made

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (ClientError, BotoCoreError, Boto3Error) as error:
            reason = error_code(error) if isinstance(error, ClientError) else type(error).__name__
            raise UserError(
                f"{self._address}: checkpoints cannot be copied ({reason})",
                remedy="check SELFSIGHT_CHECKPOINT_MIRROR, SELFSIGHT_S3_ENDPOINT and the AWS credentials, or unset the "
                "first",
            ) from None
