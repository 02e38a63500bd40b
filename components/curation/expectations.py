"""Great Expectations over data frames: results that depend on the data alone, and Data Docs for people."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from components.errors import UserError

SHOWN_ROWS = 5
LISTED_ROWS = 1000
SHORT_ID = 12
"""Digits of an id that tell an image from any other of a source."""
INERT = str.maketrans("<>\"'", "‹›″′")
"""Data Docs do not escape what they show: a file's name could carry markup into them. One character for one."""


class Row(NamedTuple):
    """An image as a person finds it."""

    name: str
    """In its source."""
    id: str

    def __str__(self) -> str:
        return f"{self.name} ({self.id[:SHORT_ID]})" if self.id else self.name


class Expected(NamedTuple):
    """One expectation."""

    table: str
    meaning: str
    """What must hold, in words; different for all expectations of a table."""
    expectation: Any
    """Of Great Expectations."""


@dataclass(frozen=True)
class CheckResult:
    """What one expectation found; it depends on nothing but the data and the bounds."""

    table: str
    meaning: str
    expectation: str
    success: bool
    observed: float | str | None
    unexpected: int
    """Rows that fail."""
    rows: tuple[Row, ...]
    """Up to a thousand of them, by name."""

    @property
    def examples(self) -> tuple[Row, ...]:
        """A few of the rows that fail."""
        return self.rows[:SHOWN_ROWS]


def expectations() -> Any:
    """The module of expectations; imported here, because that takes seconds."""
    import great_expectations as gx

    for noisy in ("great_expectations", "great_expectations.expectations.registry"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    return gx.expectations


def check(
    subject: str, tables: Mapping[str, Any], suite: Sequence[Expected], docs: Path | None = None
) -> list[CheckResult]:
    """Hold tables against a suite.

    Args:
        subject: what the tables tell of, in one word.
        tables: data frames by name, each with the columns `name` and `id` that a person finds a row by.
        suite: what must hold.
        docs: folder for Data Docs; None makes none. They hold times, so they are for the run and not for an out.

    Returns:
        One result an expectation, in the order of the suite.
    """
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    for site in context.get_site_names():
        context.delete_data_docs_site(site)
    source = context.data_sources.add_pandas(subject)
    found: dict[tuple[str, str], CheckResult] = {}
    for name in dict.fromkeys(one.table for one in suite):
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        expected = [one.expectation.copy(update={"notes": one.meaning}) for one in suite if one.table == name]
        gx_suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expected))
        definition = gx.ValidationDefinition(name=name, data=batch, suite=gx_suite)
        outcome = context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": _inert(tables[name])},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row", "name", "id"]},
        )
        for one in outcome.results:
            meaning = str(one.expectation_config.notes)
            found[name, meaning] = _result(name, meaning, tables[name], one)
    if docs is not None:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)}
        context.add_data_docs_site("docs", {"class_name": "SiteBuilder", "store_backend": store})
        context.build_data_docs()
        for animation in docs.glob("static/images/*.gif"):  # of a tutorial: four fifths of the folder
            animation.unlink()
    return [found[one.table, one.meaning] for one in suite]


def _inert(table: Any) -> Any:
    """The table with its row numbers, and with texts that a browser takes for texts."""
    copy = table.reset_index(drop=True)
    for column in copy.columns:
        if copy[column].dtype == object or str(copy[column].dtype) in ("string", "str"):
            copy[column] = [value.translate(INERT) if isinstance(value, str) else value for value in copy[column]]
    copy["row"] = range(len(copy))
    return copy


def _result(name: str, meaning: str, table: Any, outcome: Any) -> CheckResult:
    """What of an outcome depends on the data alone: no run id, no time."""
    values: dict[str, Any] = dict(outcome.result or {})
    observed = values.get("observed_value")
    failed = [int(row["row"]) for row in values.get("unexpected_index_list") or []]
    unexpected = values.get("unexpected_list") or []
    if observed is None and len(unexpected) == 1 and isinstance(unexpected[0], (int, float)):
        observed = unexpected[0]
    rows = {Row(str(table["name"].iloc[row]), str(table["id"].iloc[row])) for row in failed}
    return CheckResult(
        table=name,
        meaning=meaning,
        expectation=str(outcome.expectation_config.type),
        success=bool(outcome.success),
        observed=round(float(observed), 4) if isinstance(observed, (int, float)) else observed,
        unexpected=int(values.get("unexpected_count") or 0),
        rows=tuple(sorted(rows)[:LISTED_ROWS]),
    )


def require(results: list[CheckResult], *, subject: str, remedy: str) -> None:
    """Stop at the first failed expectation.

    Args:
        results: of a suite.
        subject: what was checked, with its article.
        remedy: what to do about it.

    Raises:
        UserError: naming what must hold, the expectation, what was seen and some rows.
    """
    for result in results:
        if result.success:
            continue
        seen = f" (observed {result.observed})" if result.observed is not None else ""
        shown = ", ".join(map(str, result.examples))
        rows = f" fails for {result.unexpected} rows, such as {shown}" if shown else ""
        raise UserError(
            f"{subject} are not fit to use: '{result.meaning}'{rows}{seen} [{result.expectation} on {result.table}]",
            remedy=remedy,
        )


def report(results: list[CheckResult]) -> list[dict[str, Any]]:
    """Results as plain values for JSON, with a few of the rows that fail."""
    return [asdict(result) | {"rows": [row._asdict() for row in result.examples]} for result in results]


def failed_rows(results: list[CheckResult]) -> str:
    """The rows that fail, a thousand an expectation at most, as CSV: table, meaning, name, id."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "meaning", "name", "id"])
    for result in results:
        writer.writerows([result.table, result.meaning, *row] for row in result.rows)
    return file.getvalue()
