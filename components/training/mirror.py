"""Checkpoints are copied to a bucket while training goes on, so that a machine that has none can go on with the run."""

import logging
import os
import shutil
import threading
from pathlib import Path

from components.errors import UserError
from components.s3 import SCHEME
from components.training.bucket_copies import BucketCopies
from components.training.checkpoint import CheckpointStore, step_of

_log = logging.getLogger(__name__)
_COPYING = ".copying-"


class Mirror:
    """Uploads in a thread of its own. A bucket that is away is a warning; the next checkpoint is another attempt.

    Nothing is uploaded before the copies of another run are gone: of theirs and of this run's, the higher steps would
    stay.

    Files are uploaded from hard links: the store may delete the checkpoint meanwhile. Of checkpoints that come faster
    than they can be uploaded, the newest one counts.

    Args:
        copies: where to.
        store: where from.
    """

    def __init__(self, copies: BucketCopies, store: CheckpointStore) -> None:
        self._copies = copies
        self._store = store
        self._change = threading.Condition()
        self._waiting: Path | None = None
        self._discard: int | None = None
        self._abort = True
        self._asked = False
        self._closing = False
        for leftover in store.folder.glob(f"{_COPYING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def put(self, folder: Path) -> None:
        """Takes a whole checkpoint to be uploaded; returns at once."""
        links = self._store.folder / f"{_COPYING}{folder.name}"
        try:
            shutil.rmtree(links, ignore_errors=True)
            links.mkdir()
            for file in folder.iterdir():
                os.link(file, links / file.name)
        except OSError as error:
            _log.warning("%s is not copied to the bucket: %s", folder.name, error.strerror)
            return
        with self._change:
            obsolete, self._waiting = self._waiting, links
            self._asked = True
            self._change.notify()
        if obsolete is not None and obsolete != links:
            shutil.rmtree(obsolete, ignore_errors=True)

    def start_at(self, step: int) -> None:
        """The run starts, or goes back to, this step: copies of later ones are not of it."""
        with self._change:
            # what an attempt has left to do is not yet done
            self._discard = step if self._discard is None else min(step, self._discard)
            if self._waiting is not None and step_of(self._waiting.name.removeprefix(_COPYING)) > step:
                self._waiting = None
            self._asked = True
            self._change.notify()

    def close(self, patience: float) -> bool:
        """Waits for what is being uploaded.

        Args:
            patience: seconds.

        Returns:
            Whether all that was to be done is done.
        """
        with self._change:
            self._closing = True
            self._asked = self._asked or self._waiting is not None or self._discard is not None
            self._change.notify()
        self._thread.join(patience)
        if self._thread.is_alive():
            _log.warning("the newest checkpoint has not reached %s in %.0f s", SCHEME, patience)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while self._wait():
            links = None
            try:
                links = self._next()
                if links is not None:
                    self._copies.upload(links, links.name.removeprefix(_COPYING))
            except (UserError, OSError) as error:
                _log.warning("%s", error)
            finally:
                if links is not None:
                    shutil.rmtree(links, ignore_errors=True)
        if self._waiting is not None:
            shutil.rmtree(self._waiting, ignore_errors=True)

    def _wait(self) -> bool:
        """Until there is something to do, or, False, there will be nothing more."""
        with self._change:
            self._change.wait_for(lambda: self._asked or self._closing)
            asked, self._asked = self._asked, False
            return asked

    def _next(self) -> Path | None:
        """The checkpoint to upload, once the bucket holds none of another run; what fails is tried again next time."""
        while True:
            with self._change:
                if (step := self._discard) is None:
                    links, self._waiting = self._waiting, None
                    return links
            if self._abort:
                self._copies.abort_uploads()
                self._abort = False
            self._copies.discard_above(step)
            with self._change:
                if self._discard == step:
                    self._discard = None
