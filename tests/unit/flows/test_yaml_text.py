"""Single values of a YAML file change, and nothing around them."""

import difflib
from typing import Any

import pytest

from components.errors import UserError
from flows.yaml_text import parse, remove_key, set_value

TEXT = """\
# the knobs
snapshot:
  source: scenes   # which images
  eval: null       # none
  exclude: ["masks/*", 'x']
ingest:
  rate: 1.0e-4
  list:
    - a
    - b   # the second

  empty:
pretrain:   # the long one

  fast: true
"""

CASES = [
    ("snapshot.source", "s3://bucket/prefix", "  source: s3://bucket/prefix   # which images"),
    ("snapshot.eval", "a: b", "  eval: 'a: b'       # none"),
    ("snapshot.exclude", [], "  exclude: []"),
    ("snapshot.exclude", ["*.txt"], "  exclude: ['*.txt']"),
    ("ingest.rate", 2e-5, "  rate: 2e-05"),
    ("ingest.list", [1, 2], "  list: [1, 2]   # the second"),
    ("ingest.empty", 3, "  empty: 3"),
    ("ingest.new", True, "  new: true"),
    ("pretrain.fast", False, "  fast: false"),
    ("pretrain.fast", 1, "  fast: 1"),
    ("pretrain.slow", None, "  slow: null"),
    ("other.deep.key", [1], "    key: [1]"),
]


def changed_lines(before: str, after: str) -> list[str]:
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
    return [line[1:] for line in lines if line.startswith("+")]


@pytest.mark.parametrize(("key", "value", "line"), CASES)
def test_only_the_value_changes(key: str, value: Any, line: str) -> None:
    after = set_value(TEXT, key.split("."), value)
    assert changed_lines(TEXT, after)[-1] == line
    wanted = parse(TEXT)
    section = wanted
    *path, last = key.split(".")
    for name in path:
        section = section.setdefault(name, {})
    section[last] = value
    assert parse(after) == wanted


@pytest.mark.parametrize(
    ("key", "value"),
    [("snapshot.eval", None), ("ingest.rate", 0.0001), ("pretrain.fast", True), ("ingest.list", ["a", "b"])],
)
def test_a_value_that_is_there_already_leaves_the_text_as_it_is(key: str, value: Any) -> None:
    assert set_value(TEXT, key.split("."), value) == TEXT


def test_a_key_is_added_to_a_mapping_in_braces() -> None:
    assert parse(set_value("a: {b: 1}\n", ["a", "c"], 2)) == {"a": {"b": 1, "c": 2}}
    assert parse(set_value("a: {}\n", ["a", "c"], 2)) == {"a": {"c": 2}}


def test_nothing_becomes_a_mapping_when_a_key_of_it_is_set() -> None:
    assert set_value("a: null  # off\nb: 1\n", ["a", "c", "d"], 2) == "a: {c: {d: 2}}  # off\nb: 1\n"


def test_a_key_is_added_to_a_file_whose_last_line_has_no_end() -> None:
    assert set_value("a: 1", ["b"], 2) == "a: 1\nb: 2\n"


def test_a_value_has_no_keys() -> None:
    with pytest.raises(UserError, match=r"'ingest\.rate' is a value and has no key 'x'"):
        set_value(TEXT, ["ingest", "rate", "x"], 1)


@pytest.mark.parametrize(
    ("key", "gone"),
    [
        ("snapshot.eval", ["  eval: null       # none"]),
        ("ingest.list", ["  list:", "    - a", "    - b   # the second"]),
        ("ingest.empty", ["  empty:"]),
        ("ingest", ["ingest:", "  rate: 1.0e-4", "  list:", "    - a", "    - b   # the second", "", "  empty:"]),
    ],
)
def test_a_key_is_removed_with_its_value_and_nothing_else(key: str, gone: list[str]) -> None:
    after = remove_key(TEXT, key.split("."))
    lines = list(difflib.unified_diff(TEXT.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
    assert [line[1:] for line in lines if not line.startswith("@@")] == gone


def test_the_last_key_leaves_an_empty_mapping_and_an_absent_one_changes_nothing() -> None:
    assert parse(remove_key("a:\n  b: 1\nc: 2\n", ["a", "b"])) == {"a": {}, "c": 2}
    assert remove_key("a: {b: 1, c: 2}  # x\n", ["a", "b"]) == "a: {c: 2}  # x\n"
    assert remove_key(TEXT, ["ingest", "no"]) == TEXT
    assert remove_key(TEXT, ["no", "no"]) == TEXT
