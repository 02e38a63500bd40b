from pathlib import Path

import pyarrow as pa
import pytest

from components.data.tables import read_table, write_table
from components.errors import UserError


def test_equal_rows_give_equal_bytes_however_they_are_chunked_or_annotated(tmp_path: Path) -> None:
    whole = pa.table({"id": ["a", "b", "c"], "n": pa.array([1, None, 2**64 - 1], pa.uint64())})
    pieces = pa.concat_tables([whole.slice(0, 1), whole.slice(1)]).replace_schema_metadata({"pandas": "yesterday"})
    write_table(whole, tmp_path / "whole")
    write_table(pieces, tmp_path / "pieces")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "pieces").read_bytes()


def test_what_was_written_is_read_even_below_a_folder_that_looks_like_a_partition(tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "phash": pa.array([2**64 - 1], pa.uint64())})
    path = tmp_path / "seed=1" / "x.parquet"
    path.parent.mkdir()
    write_table(table, path)
    assert read_table(path).equals(table)
    assert read_table(path, ["phash"]).column_names == ["phash"]


def test_an_absent_or_damaged_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(UserError, match=r"x\.parquet: no such file"):
        read_table(path)
    write_table(pa.table({"id": ["a"]}), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"x\.parquet: not a readable table"):
        read_table(path)
