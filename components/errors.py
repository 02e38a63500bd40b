"""Errors that a user can cause and can mend."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from components.redaction import redact_text

USER_ERROR_EXIT_CODE = 2


class UserError(Exception):
    """Something outside the program is wrong: a path, an image, a key, space, a service.

    It is shown as one line and ends the process with exit code 2, without a traceback. Passwords and keys in addresses
    are left out.

    Args:
        what: what is wrong, naming the thing and its value.
        remedy: what the user can do about it, in one sentence.
    """

    def __init__(self, what: str, *, remedy: str) -> None:
        self.what = redact_text(what)
        self.remedy = redact_text(remedy)
        super().__init__(f"{self.what}: {self.remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.remedy))


def _rebuild(kind: type[UserError], what: str, remedy: str) -> UserError:
    return kind(what, remedy=remedy)


@contextmanager
def no_space_is_a_user_error(doing: str) -> Iterator[None]:
    """Turns a full disk in the block into one line with its remedy.

    Args:
        doing: what the block does, as it goes on after "no space left while".

    Raises:
        UserError: if there is no space left.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space (`dvc gc --workspace` drops unused data) and run again"
            raise UserError(f"no space left while {doing}", remedy=remedy) from error
        raise
