"""No address that is shown or written down holds a secret."""

import pickle

import pytest

from components.errors import UserError
from components.redaction import holds_secret, redact, redact_text


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://user:geheim@host:5432/db", "postgresql://host:5432/db"),
        ("https://token@host/path", "https://host/path"),
        ("https://host/x.tar?X-Amz-Signature=abc&y=1", "https://host/x.tar"),
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
    said = "API request to http://u:geheim@host:5000/api failed, see https://host/x?token=geheim and s3://bucket/a@b"
    shown = "API request to http://host:5000/api failed, see https://host/x and s3://bucket/a@b"
    assert redact_text(said) == shown
    error = UserError(said, remedy="mend http://u:geheim@host")
    assert str(error) == f"{shown}: mend http://host"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
