"""Errors that a user can cause and can mend."""

USER_ERROR_EXIT_CODE = 2


class UserError(Exception):
    """Something outside the program is wrong: a path, an image, a key, space, a service.

    It is shown as one line and ends the process with exit code 2, without a traceback.

    Args:
        what: what is wrong, naming the thing and its value.
        remedy: what the user can do about it, in one sentence.
    """

    def __init__(self, what: str, *, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what = what
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.remedy))


def _rebuild(kind: type[UserError], what: str, remedy: str) -> UserError:
    return kind(what, remedy=remedy)
