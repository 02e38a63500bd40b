"""Addresses as they may be shown and written down."""

import re
from urllib.parse import urlsplit

SECRET = re.compile(r"://[^/?#\s]*@|[?&;](?:x-amz-(?:signature|credential|security-token)|sig|token|password)=", re.I)
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.I)


def holds_secret(text: str) -> bool:
    """Whether an address contains a password, a key or a signature."""
    return SECRET.search(text) is not None


def redact(address: str) -> str:
    """The address without user, password and, where it holds a secret, query."""
    if not holds_secret(address):
        return address
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def redact_text(text: str) -> str:
    """A text with every address in it redacted: messages of libraries quote the addresses that they were given."""
    return ADDRESS.sub(lambda found: redact(found.group()), text) if holds_secret(text) else text
