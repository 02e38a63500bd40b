"""The one way tables are written, so that equal tables are equal files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import UserError

ROW_GROUP = 65_536
"""Rows of a Parquet row group."""


def write_table(table: pa.Table, path: Path) -> None:
    """Writes a table as Parquet; the same rows in the same order give the same bytes.

    Args:
        table: rows in their final order. Schema metadata (pandas, hosts, dates) is dropped.
        path: file to write, as part of a folder that is published whole.
    """
    pq.write_table(
        table.replace_schema_metadata(None).combine_chunks(),
        path,
        row_group_size=ROW_GROUP,
        compression="zstd",
        compression_level=3,
        version="2.6",
        data_page_version="2.0",
    )


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Reads a table written by `write_table`.

    Args:
        path: the file.
        columns: names of the columns to read; all by default.

    Raises:
        UserError: if the file is absent or damaged.
    """
    try:
        # ParquetFile, because read_table takes a folder named "a=1" on the way for a partition
        with pq.ParquetFile(path) as file:
            return file.read(columns=columns)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", remedy="run `dvc repro` or fetch it with `dvc pull`") from None
    except pa.ArrowInvalid as error:
        remedy = "restore it with `dvc checkout`, or delete it and run `dvc repro`"
        raise UserError(f"{path}: not a readable table ({error})", remedy=remedy) from None
