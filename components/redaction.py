"""What must not be shown or written down: passwords, keys and signatures, in addresses or from the environment."""

import logging
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

_QUERY = (
    r"x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|awsaccesskeyid|signature|sig|"
    r"(?:access_?|id_?|refresh_?)?token|password|passwd|secret|api_?key|key"
)
SECRET = re.compile(rf"://[^/?#\s]*@|[?&;](?:{_QUERY})=", re.I)
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]*[^\s'\"<>:;,.)]", re.I)
SECRET_VARIABLE = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|ACCESS_KEY|API_?KEY|CREDENTIALS?$", re.I)
PATH_VARIABLE = re.compile(r"_(?:FILE|PATH)$|^GOOGLE_APPLICATION_CREDENTIALS$", re.I)
"""Variables that say where a secret lies, whatever their names hold otherwise."""
LEAST_LENGTH = 8
"""Shorter values are words that a log may well hold for other reasons."""
HIDDEN = "[secret]"

_values: set[str] = set()
"""Secrets of this process's environment."""


def holds_secret(text: str) -> bool:
    """Whether an address contains a password, a key or a signature."""
    return SECRET.search(text) is not None


def redact(address: str) -> str:
    """The address without user, password and, where it holds a secret, query."""
    if not holds_secret(address):
        return address
    try:
        parts = urlsplit(address)
    except ValueError:  # of brackets that are no IPv6 address
        return f"{address.partition('://')[0]}://{HIDDEN}"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def redact_text(text: str) -> str:
    """A text with every address in it redacted, and without the secrets of the environment.

    Messages of libraries quote the addresses that they were given, and services what they were sent.
    """
    if holds_secret(text):
        text = ADDRESS.sub(lambda found: redact(found.group()), text)
    for value in _values:
        text = text.replace(value, HIDDEN)
    return text


def secrets_of(environment: Mapping[str, str]) -> set[str]:
    """Values that are secrets by the name of their variable, and passwords in addresses."""
    found = {
        value for name, value in environment.items() if SECRET_VARIABLE.search(name) and not PATH_VARIABLE.search(name)
    }
    for value in environment.values():
        for address in ADDRESS.findall(value):
            found.update(_password(address))
    return {value for value in found if len(value) >= LEAST_LENGTH}


def _password(address: str) -> Iterable[str]:
    user_info = address.partition("://")[2].partition("/")[0].rpartition("@")[0]
    password = user_info.partition(":")[2]
    return {password, unquote(password)}


def guard(environment: Mapping[str, str]) -> None:
    """Keeps secrets out of whatever this process logs, by whatever handler, and out of the traceback that it dies with.

    Args:
        environment: variables whose secrets are hidden from now on.
    """
    _values.update(secrets_of(environment))
    if logging.getLogRecordFactory() is not _redacted_record:
        logging.setLogRecordFactory(_redacted_record)
    sys.excepthook = _die


def _redacted_record(*arguments: Any, **more: Any) -> logging.LogRecord:
    record = logging.LogRecord(*arguments, **more)
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # a library's mistake, which the handler reports
        return record
    shown = redact_text(message)
    if shown != message:
        record.msg, record.args = shown, ()
    if record.exc_info and record.exc_info[0] is not None:
        lines = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        shown = redact_text(lines)
        if shown != lines:
            record.exc_text = shown  # formatters take it instead of making their own
    return record


def _die(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(redact_text("".join(traceback.format_exception(kind, error, trace))))
