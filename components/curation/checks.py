"""Is this data fit to use: a Great Expectations suite over the manifest's tables."""

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from components.curation.expectations import SHOWN_ROWS, CheckResult, Expected, check, expectations
from components.data.decoding import FORMATS
from components.data.manifest import Manifest
from components.parameters import Params

REMEDY = "mend the source, or the bounds under 'validate' in params.yaml"
LONGEST_LABEL = 200


class ValidateParams(Params):
    """What a manifest must satisfy."""

    min_images: int = Field(2, ge=1, description="readable training images at least")
    min_eval_images: int = Field(1, ge=1, description="readable evaluation images at least")
    max_quarantined: float = Field(0.2, ge=0, le=1, description="share of the images that may be quarantined")
    min_side: int = Field(8, ge=1, description="shorter side of a readable image at least, pixels")
    max_side: int = Field(50_000, ge=1, description="longer side of a readable image at most, pixels")
    max_aspect: float = Field(50.0, ge=1, description="longer side over shorter side of a readable image at most")
    max_odd: float = Field(
        0.2, ge=0, le=1, description="share of the readable images that may miss min_side, max_side or max_aspect, each"
    )

    @model_validator(mode="after")
    def _check_sides(self) -> "ValidateParams":
        if self.max_side < self.min_side:
            raise ValueError("max_side is below min_side; raise it")
        return self


def check_manifest(manifest: Manifest, params: ValidateParams, docs: Path | None = None) -> list[CheckResult]:
    """Run the suite.

    Args:
        manifest: the tables.
        params: bounds.
        docs: folder for Data Docs; None makes none.

    Returns:
        One result an expectation, in a fixed order.
    """
    suite = [Expected(*one) for one in _suite(expectations(), params)]
    return check("manifest", _tables(manifest), suite, docs)


def _suite(expect: Any, params: ValidateParams) -> list[tuple[str, str, Any]]:
    """Table, meaning and expectation.

    Bounds of size and shape hold for a share: ingest has set aside what cannot be used, and one odd image that it was
    told to let in should not stop a million others.
    """
    mostly = round(1.0 - params.max_odd, 9)  # as a person would write it: 0.3, not 0.30000000000000004
    exempt = f", all but {100 * params.max_odd:g} %" if params.max_odd else ""
    return [
        ("images", "every image has one row", expect.ExpectColumnValuesToBeUnique(column="id")),
        ("images", "ids are SHA-256", expect.ExpectColumnValuesToMatchRegex(column="id", regex="^[0-9a-f]{64}$")),
        (
            "images",
            "an image is read or quarantined",
            expect.ExpectColumnValuesToBeInSet(column="status", value_set=["ok", "quarantined"]),
        ),
        (
            "quarantine",
            f"at most {100 * params.max_quarantined:g} % of the images are quarantined",
            expect.ExpectColumnValuesToBeBetween(column="share", max_value=params.max_quarantined),
        ),
        (
            "training",
            f"at least {params.min_images} training images can be read",
            expect.ExpectTableRowCountToBeBetween(min_value=params.min_images),
        ),
        (
            "evaluation",
            f"at least {params.min_eval_images} evaluation images can be read",
            expect.ExpectTableRowCountToBeBetween(min_value=params.min_eval_images),
        ),
        (
            "readable",
            "formats are known",
            expect.ExpectColumnValuesToBeInSet(column="format", value_set=list(FORMATS)),
        ),
        (
            "readable",
            f"shorter sides have {params.min_side} pixels at least{exempt}",
            expect.ExpectColumnValuesToBeBetween(column="short_side", min_value=params.min_side, mostly=mostly),
        ),
        (
            "readable",
            f"longer sides have {params.max_side} pixels at most{exempt}",
            expect.ExpectColumnValuesToBeBetween(column="long_side", max_value=params.max_side, mostly=mostly),
        ),
        (
            "readable",
            f"longer sides are at most {params.max_aspect:g} times the shorter{exempt}",
            expect.ExpectColumnValuesToBeBetween(column="aspect", max_value=params.max_aspect, mostly=mostly),
        ),
        ("readable", "every image has a perceptual hash", expect.ExpectColumnValuesToNotBeNull(column="phash")),
        ("readable", "every image is in a shard", expect.ExpectColumnValuesToNotBeNull(column="shard")),
        (
            "readable",
            "every image has bytes in its shard",
            expect.ExpectColumnValuesToBeBetween(column="nbytes", min_value=1),
        ),
        (
            "sources",
            "every object is of the training or the evaluation part",
            expect.ExpectColumnValuesToBeInSet(column="split", value_set=["train", "eval"]),
        ),
        ("sources", "every object has a source", expect.ExpectColumnValuesToNotBeNull(column="uri")),
        (
            "sources",
            f"labels have 1 to {LONGEST_LABEL} characters",
            expect.ExpectColumnValueLengthsToBeBetween(column="label", min_value=1, max_value=LONGEST_LABEL),
        ),
    ]


def quarantine_table(manifest: Manifest) -> str:
    """Return the reasons of the quarantine as a Markdown table: how many images, and some of their names."""
    names = image_names(manifest)
    rows = manifest.images.select(["id", "status", "reason"]).to_pylist()
    gone = [row for row in rows if row["status"] != "ok"]
    lines = ["| reason | images | such as |", "|---|---|---|"]
    for reason, count in sorted(Counter(row["reason"] for row in gone).items()):
        examples = sorted(names.get(row["id"], row["id"]) for row in gone if row["reason"] == reason)[:SHOWN_ROWS]
        lines.append(f"| {reason} | {count} | {', '.join(f'`{name}`' for name in examples)} |")
    return "\n".join(lines) + "\n" if gone else "No image is quarantined.\n"


def image_names(manifest: Manifest) -> dict[str, str]:
    """Return the first name of each image in its source."""
    pairs = zip(manifest.sources["id"].to_pylist(), manifest.sources["name"].to_pylist(), strict=True)
    return dict(reversed(list(pairs)))


def _tables(manifest: Manifest) -> dict[str, Any]:
    """Data frames to check, each with the columns `name` and `id` that a person finds an image by."""
    names = image_names(manifest)
    images = manifest.images.to_pandas()
    images["name"] = [names.get(one, one) for one in images["id"]]
    locations = manifest.locations.to_pandas()[["id", "shard", "nbytes"]]
    readable = images[images["status"] == "ok"].merge(locations, how="left", on="id")
    readable["short_side"] = readable[["width", "height"]].min(axis=1)
    readable["long_side"] = readable[["width", "height"]].max(axis=1)
    readable["aspect"] = readable["long_side"] / readable["short_side"]
    quarantine = images.head(1)[["name", "id"]].assign(
        name="all images", id="", share=1.0 - len(readable) / max(len(images), 1)
    )
    return {
        "images": images,
        "quarantine": quarantine,
        "readable": readable,
        "training": readable[readable["id"].isin(manifest.ids("train"))],
        "evaluation": readable[readable["id"].isin(manifest.ids("eval"))],
        "sources": manifest.sources.to_pandas(),
    }
