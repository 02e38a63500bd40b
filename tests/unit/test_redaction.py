"""No address that is shown or written down holds a secret, and no log one of the environment."""

import io
import logging
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components import redaction
from components.errors import UserError
from components.redaction import guard, holds_secret, redact, redact_text, secrets_of


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://user:geheim@host:5432/db", "postgresql://host:5432/db"),
        ("https://token@host/path", "https://host/path"),
        ("https://host/x.tar?X-Amz-Signature=abc&y=1", "https://host/x.tar"),
        ("https://host/x.tar?y=1&X-Goog-Signature=abc", "https://host/x.tar"),
        ("https://host/x?AWSAccessKeyId=AKIA&Expires=1&Signature=abc", "https://host/x"),
        ("https://host/x?sv=2020&sig=abc", "https://host/x"),
        ("https://host/x?access_token=abc#part", "https://host/x"),
        ("http://user:geheim@[host", "http://[secret]"),
    ],
)
def test_secrets_are_removed(address: str, shown: str) -> None:
    assert holds_secret(address)
    assert redact(address) == shown


@pytest.mark.parametrize(
    "address", ["s3://bucket/prefix", "scenes?images=30&seed=1", "/photos/a@b.tar", "sqlite:////home/x/mlflow.db"]
)
def test_an_address_without_a_secret_stays_as_it_is(address: str) -> None:
    assert not holds_secret(address)
    assert redact(address) == address


def test_addresses_in_the_messages_of_libraries_are_redacted() -> None:
    said = "API request to http://u:geheim@host:5000/api failed, see https://host/x?token=geheim: s3://bucket/a@b"
    shown = "API request to http://host:5000/api failed, see https://host/x: s3://bucket/a@b"
    assert redact_text(said) == shown
    error = UserError(said, remedy="mend http://u:geheim@host")
    assert str(error) == f"{shown}: mend http://host"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": "planted-secret-key",
    "AWS_SESSION_TOKEN": "planted-session-token",
    "MINIO_SECRET_KEY": "/planted/slash/key",
    "SELFSIGHT_MLFLOW_URI": "http://user:planted%2Fpassword@host:5000",
    "PREFECT_API_KEY": "short",
    "AWS_SHARED_CREDENTIALS_FILE": "/home/x/.aws/credentials",
    "GIT_ASKPASS_TOKEN_FILE": "/run/secrets/token",
    "VAULT_TOKEN_PATH": "/run/secrets/vault",
    "GOOGLE_APPLICATION_CREDENTIALS": "/home/x/google.json",
    "HOME": "/home/x",
}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def guarded() -> Iterator[None]:
    """Secrets of an environment are hidden for the length of a test."""
    factory, hook, values = logging.getLogRecordFactory(), sys.excepthook, set(redaction._values)
    guard(ENVIRONMENT)
    yield
    logging.setLogRecordFactory(factory)
    sys.excepthook = hook
    redaction._values.clear()
    redaction._values.update(values)


def test_secrets_are_known_by_the_names_of_their_variables_and_from_addresses() -> None:
    assert secrets_of(ENVIRONMENT) == {
        "planted-secret-key",
        "planted-session-token",
        "/planted/slash/key",
        "planted%2Fpassword",
        "planted/password",
    }


def test_F15_whatever_logs_and_whichever_handler_writes_no_secret_is_in_it(guarded: None) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    log = logging.getLogger("a library")
    log.addHandler(handler)
    try:
        log.warning("signing with %s for %s", "planted-secret-key", "https://host/x?sig=abc")
        log.warning("100 %s")
        log.warning("%d", 3)
        try:
            raise ValueError("planted/password refused")
        except ValueError:
            log.exception("login failed")
    finally:
        log.removeHandler(handler)
    said = stream.getvalue()
    assert "signing with [secret] for https://host/x\n" in said
    assert "100 %s\n3\n" in said
    assert "ValueError: [secret] refused" in said
    assert "planted" not in said


def test_F15_errors_for_people_hide_secrets_of_the_environment(guarded: None) -> None:
    assert str(UserError("the server says: planted-session-token", remedy="mend it")) == (
        "the server says: [secret]: mend it"
    )


def test_F15_a_process_that_dies_shows_a_traceback_without_secrets() -> None:
    script = "from components.settings import get_settings; get_settings(); raise OSError('planted-secret-key at s3://k:v@b')"
    died = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert died.returncode == 1
    assert died.stderr.endswith("OSError: [secret] at s3://b\n")
    assert "planted" not in died.stdout + died.stderr
