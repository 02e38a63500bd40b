"""A pattern matches the keys of a bucket as it matches files."""

from pathlib import Path

import pytest

from components.data.sources.patterns import chosen, matches
from components.errors import UserError

KEYS = (
    "a.tar", "b.TAR", ".c.tar", "x/a.tar", "x/y/a.tar", "x/.h/a.tar", "x/y/z/b-01.tar", "x/b-02.tar", "x/[1].tar",
    "y/a.txt",
)  # fmt: skip
PATTERNS = (
    "*.tar", "*", ".*.tar", "?.tar", "*/*.tar", "**/*.tar", "x/**/*.tar", "**/y/*.tar", "x/**/**/a.tar", "x/y**/a.tar",
    "x/b-{01..02}*.tar", "**/b-{01,02}.tar", "x/[ab]*.tar", "x/[!a]*.tar", "x/[[]1].tar", "{x,x/y}/a.tar",
    "x/.*/a.tar",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_keys_are_matched_as_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    for key in KEYS:
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).touch()
    monkeypatch.chdir(tmp_path)
    files = {str(path) for path in matches(pattern) if path.is_file()}
    assert set(chosen(pattern, KEYS)) == files
    assert files


def test_a_key_that_braces_name_and_that_is_missing_is_named() -> None:
    with pytest.raises(UserError, match=r"x/c\.tar: no such file"):
        list(chosen("x/{a,c}.tar", KEYS))


def test_empty_parts_of_keys_match_nothing() -> None:
    assert list(chosen("*/*.tar", ["/a.tar", "x/a.tar"])) == ["x/a.tar"]
