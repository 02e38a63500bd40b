"""Is this data fit to use: a Great Expectations suite over the manifest's tables."""

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from components.data.decoding import FORMATS
from components.data.manifest import Manifest
from components.errors import UserError
from components.parameters import Params

SHOWN_ROWS = 5


class ValidateParams(Params):
    """What a manifest must satisfy."""

    min_images: int = Field(2, ge=2, description="readable training images at least")
    max_quarantined: float = Field(0.2, ge=0, le=1, description="share of images that may be quarantined")
    min_side: int = Field(1, ge=1, description="shorter side of a readable image at least, pixels")
    max_aspect: float = Field(100.0, ge=1, description="longer side over shorter side at most")


def check_manifest(manifest: Manifest, params: ValidateParams) -> list[dict[str, Any]]:
    """Runs the suite.

    Args:
        manifest: the tables.
        params: bounds.

    Returns:
        One entry an expectation: `table`, `expectation`, `column`, `success`, `observed`, `unexpected` (a few values).
    """
    import great_expectations as gx

    for noisy in ("great_expectations", "great_expectations.core.batch"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("manifest")
    expect = gx.expectations
    suites = {
        "images": [
            expect.ExpectColumnValuesToBeUnique(column="id"),
            expect.ExpectColumnValuesToMatchRegex(column="id", regex="^[0-9a-f]{64}$"),
            expect.ExpectColumnValuesToBeInSet(column="status", value_set=["ok", "quarantined"]),
        ],
        "readable": [
            expect.ExpectTableRowCountToBeBetween(min_value=params.min_images),
            expect.ExpectColumnValuesToBeInSet(column="format", value_set=list(FORMATS)),
            expect.ExpectColumnValuesToBeBetween(column="short_side", min_value=params.min_side),
            expect.ExpectColumnValuesToBeBetween(column="aspect", max_value=params.max_aspect),
            expect.ExpectColumnValuesToNotBeNull(column="phash"),
            expect.ExpectColumnValuesToNotBeNull(column="shard"),
        ],
        "sources": [
            expect.ExpectColumnValuesToNotBeNull(column="uri"),
            expect.ExpectColumnValuesToBeInSet(column="split", value_set=["train", "eval"]),
        ],
        "quarantine": [expect.ExpectColumnValuesToBeBetween(column="share", max_value=params.max_quarantined)],
    }
    results = []
    for name, table in _tables(manifest).items():
        definition = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        batch = definition.get_batch(batch_parameters={"dataframe": table})
        for expectation in suites[name]:
            results.append(_plain(name, batch.validate(expectation)))
    return results


def require(results: list[dict[str, Any]]) -> None:
    """Stops at the first failed expectation.

    Raises:
        UserError: naming the expectation, what was seen and some rows.
    """
    for result in results:
        if not result["success"]:
            shown = f", for example {', '.join(map(str, result['unexpected']))}" if result["unexpected"] else ""
            observed = f" (observed {result['observed']})" if result["observed"] is not None else ""
            raise UserError(
                f"the manifest is not fit to use: {result['expectation']} on {result['table']}.{result['column']}"
                f"{observed}{shown}",
                remedy="mend the source, or the bounds under 'validate' in params.yaml",
            )


def _tables(manifest: Manifest) -> dict[str, Any]:
    images = manifest.images.to_pandas()
    readable = images[images["status"] == "ok"].merge(manifest.locations.to_pandas()[["id", "shard"]], how="left")
    readable["short_side"] = readable[["width", "height"]].min(axis=1)
    readable["aspect"] = readable[["width", "height"]].max(axis=1) / readable["short_side"]
    share = 1.0 - len(readable) / max(len(images), 1)
    return {
        "images": images,
        "readable": readable,
        "sources": manifest.sources.to_pandas(),
        "quarantine": images.head(1).assign(share=share)[["share"]],
    }


def _plain(table: str, result: Any) -> dict[str, Any]:
    """What of a result depends on the data alone: no run id, no time."""
    values: Mapping[str, Any] = result.result or {}
    observed = values.get("observed_value")
    return {
        "table": table,
        "expectation": result.expectation_config.type,
        "column": result.expectation_config.kwargs.get("column", "*"),
        "success": bool(result.success),
        "observed": observed if isinstance(observed, (int, float, str)) else None,
        "unexpected": [str(value) for value in values.get("partial_unexpected_list", [])[:SHOWN_ROWS]],
    }
