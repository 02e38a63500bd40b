"""Shards that lie in a bucket: each image is fetched by its range, verified, and kept in a cache of bounded size."""

import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from components.data.bounded_files import BoundedFiles
from components.data.shards import ShardIndex
from components.errors import UserError
from components.s3 import ATTEMPTS, S3Address, error_code, is_lasting, s3_client, s3_errors_explained

_log = logging.getLogger(__name__)
BACKOFF_SECONDS = 0.2
FETCHES = 16
"""Images that are fetched at a time: a request takes tens of milliseconds, whatever its size."""


class BucketShardReader:
    """Reads images by id from shards below `s3://bucket/prefix`.

    Every image is compared with its SHA-256. It may be pickled; used after a fork it connects anew.

    Args:
        uri: `s3://bucket/prefix` that holds the shards.
        locations: id, shard, offset, nbytes, as in the manifest.
        cache: folder for images that were fetched.
        cache_bytes: its size at most.
        endpoint: URL of an S3-compatible server; None for AWS.
    """

    def __init__(
        self, uri: str, locations: pa.Table, *, cache: Path, cache_bytes: int, endpoint: str | None = None
    ) -> None:
        try:
            self._address = S3Address.parse(uri)
        except UserError as error:
            raise UserError(error.what, remedy="set SELFSIGHT_SHARDS_URI to s3://BUCKET/PREFIX") from None
        self._endpoint = endpoint
        self._index = ShardIndex(locations)
        self._cache = (cache, cache_bytes)
        self._begin()

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and image_id in self._index

    def read(self, image_id: str) -> bytes:
        """Returns the bytes of an image, from the cache where it is there.

        Raises:
            KeyError: if no shard holds it.
            UserError: if the bucket cannot be read, or holds other bytes.
        """
        with self._lock:
            fetched = self._coming.get(image_id)
        return fetched.result() if fetched is not None else self._read(image_id)

    def prefetch(self, image_ids: Sequence[str]) -> None:
        """Begins to fetch images that are read soon; returns at once. Without a cache they would be fetched twice."""
        if self._cache[1] == 0:
            return
        with self._lock:
            for one in image_ids:
                if one not in self._coming:
                    self._coming[one] = self._pool.submit(self._read, one)
                    self._coming[one].add_done_callback(partial(self._arrived, one))

    def nbytes(self, image_id: str) -> int:
        """Size of an image in bytes, without reading it.

        Raises:
            KeyError: if no shard holds it.
        """
        return self._index.place(image_id).nbytes

    def close(self) -> None:
        """Ends the connections."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self) -> None:
        folder, nbytes = self._cache
        self._files = BoundedFiles(folder, nbytes)
        self._lock = threading.RLock()  # a future that is done at once calls back in the thread that asked
        self._coming: dict[str, Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(FETCHES, "fetch")
        self._connecting = threading.Lock()
        self._client: Any = None

    def _arrived(self, image_id: str, _: Future[bytes]) -> None:
        """From now on the cache has it, or it is fetched when it is read."""
        with self._lock:
            self._coming.pop(image_id, None)

    def _read(self, image_id: str) -> bytes:
        data = self._files.get(image_id)
        if data is None:
            data = self._fetched(image_id)
            self._files.put(image_id, data)
        return data

    def _fetched(self, image_id: str) -> bytes:
        shard, offset, nbytes = self._index.place(image_id)
        wanted = {
            "Bucket": self._address.bucket,
            "Key": self._address.key(shard),
            "Range": f"bytes={offset}-{offset + nbytes - 1}",
        }
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
            with s3_errors_explained(f"{self._address}/{shard}", self._address.bucket, self._endpoint):
                data, problem = self._tried(wanted)
            if data is not None and hashlib.sha256(data).hexdigest() == image_id:
                return data
            problem = problem or "the bytes are others than the manifest says"
            _log.warning("%s/%s, image %s: %s", self._address, shard, image_id, problem)
        remedy = "check the endpoint and the network, or upload data/shards again"
        raise UserError(f"{self._address}/{shard}, image {image_id}: {problem}", remedy=remedy)

    def _tried(self, wanted: dict[str, str]) -> tuple[bytes | None, str]:
        """The bytes of one request, else what went wrong for now; what asking again does not mend is raised."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return self._connected().get_object(**wanted)["Body"].read(), ""
        except (BotoCoreError, ClientError, OSError) as error:
            if is_lasting(error):
                raise
            if isinstance(error, ClientError):
                return None, f"S3 answers {error_code(error)}"
            return None, f"the bucket cannot be read ({type(error).__name__})"

    def _connected(self) -> Any:
        with self._connecting:
            if self._client is None:
                self._client = s3_client(self._endpoint, attempts=1)
            return self._client

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_address", "_endpoint", "_index", "_cache")
        return {name: value for name, value in self.__dict__.items() if name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
