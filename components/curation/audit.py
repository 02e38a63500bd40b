"""Is the curation fit to train on: suites over the embeddings and over the curated set."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from pydantic import Field

from components.curation.checks import image_names
from components.curation.clusters import LEAST
from components.curation.expectations import CheckResult, Expected, check, expectations
from components.data.manifest import Manifest
from components.features.statistics import RANK_SAMPLE, effective_rank
from components.parameters import Params

BLOCK = 65_536
EMBEDDINGS_REMEDY = "choose another embedder (embed.embedder), or mend the bounds under 'audit' in params.yaml"
CURATED_REMEDY = "see curation/index.html of the run, then change dedup or retrieve, or the bounds under 'audit'"


class AuditParams(Params):
    """What embeddings and the curated set must satisfy, and what the page shows."""

    max_norm_error: float = Field(0.01, gt=0, lt=1, description="of a vector's length from 1 at most")
    min_rank: float = Field(
        4.0, ge=1, description="effective rank of the vectors at least (of few images, a quarter of their number)"
    )
    max_cosine: float = Field(
        0.98, gt=0, le=1, description="mean cosine of two images at most; above, the embedder tells nothing apart"
    )
    min_images: int = Field(2, ge=1, description="curated images at least; retrieve.min_images stops earlier")
    max_cluster: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the curated images that one of k clusters may hold; 2/k always may, and any share may "
        "where ten images a cluster are not there",
    )
    clusters: int = Field(16, ge=1, le=256, description="k-means clusters of the training images, to see the balance")
    examples: int = Field(12, ge=1, le=200, description="groups, leaks, queries, images left out that the page shows")
    points: int = Field(2000, ge=10, le=20_000, description="images that the page's map shows at most")
    seed: int = Field(0, ge=0, description="of the clusters")


@dataclass(frozen=True)
class Curation:
    """What the stages before have written."""

    manifest: Manifest
    ids: list[str]
    """Of the rows of `vectors`."""
    vectors: Float[np.ndarray, "images dim"]
    groups: pa.Table
    """`id`, `component`, `kept`, `reason` of the training images."""
    pairs: pa.Table
    """`first`, `second`, `agreement`: images that show the same."""
    curated: list[str]


def check_embeddings(curation: Curation, params: AuditParams, docs: Path | None = None) -> list[CheckResult]:
    """Hold the embeddings against their suite: complete, finite, of unit length, spread.

    Args:
        curation: manifest and vectors.
        params: bounds.
        docs: folder for Data Docs; None makes none.
    """
    expect = expectations()
    least = min(params.min_rank, max(1.0, len(curation.ids) / 4))
    suite = [
        Expected(
            "images",
            "every readable image has one vector",
            expect.ExpectColumnValuesToBeInSet(column="vectors", value_set=[1]),
        ),
        Expected(
            "vectors",
            "every number is finite",
            expect.ExpectColumnValuesToBeBetween(column="finite", min_value=1),
        ),
        Expected(
            "vectors",
            f"vectors have length 1, within {params.max_norm_error:g}",
            expect.ExpectColumnValuesToBeBetween(
                column="norm", min_value=1 - params.max_norm_error, max_value=1 + params.max_norm_error
            ),
        ),
        Expected(
            "spread",
            f"vectors have an effective rank of {least:g} at least",
            expect.ExpectColumnValuesToBeBetween(column="rank", min_value=least),
        ),
        Expected(
            "spread",
            f"two images have a mean cosine of {params.max_cosine:g} at most",
            expect.ExpectColumnValuesToBeBetween(column="cosine", max_value=params.max_cosine),
        ),
    ]
    return check("embeddings", _embedding_tables(curation), suite, docs)


def _embedding_tables(curation: Curation) -> dict[str, Any]:
    import pandas as pd

    names = image_names(curation.manifest)
    readable = curation.manifest.ids()
    times = pd.Series(curation.ids).value_counts()
    finite, norms = _row_statistics(curation.vectors)
    sample = torch.from_numpy(np.nan_to_num(np.asarray(curation.vectors[:RANK_SAMPLE], np.float64)))
    count = len(sample)
    cosine = (float(sample.sum(dim=0).square().sum()) - count) / (count * (count - 1))
    return {
        "images": pd.DataFrame(
            {
                "name": [names[one] for one in readable],
                "id": readable,
                "vectors": [int(times.get(one, 0)) for one in readable],
            }
        ),
        "vectors": pd.DataFrame(
            {"name": [names.get(one, one) for one in curation.ids], "id": curation.ids, "finite": finite, "norm": norms}
        ),
        "spread": pd.DataFrame([{"name": "all vectors", "id": "", "rank": effective_rank(sample), "cosine": cosine}]),
    }


def _row_statistics(
    vectors: Float[np.ndarray, "images dim"],
) -> tuple[Float[np.ndarray, " images"], Float[np.ndarray, " images"]]:
    """Share of finite numbers, and length of the finite part, of each row."""
    finite, norms = np.empty(len(vectors)), np.empty(len(vectors))
    for first in range(0, len(vectors), BLOCK):
        block = np.asarray(vectors[first : first + BLOCK], np.float64)
        good = np.isfinite(block)
        finite[first : first + BLOCK] = good.mean(axis=1)
        norms[first : first + BLOCK] = np.sqrt((np.where(good, block, 0.0) ** 2).sum(axis=1))
    return finite, norms


def check_curated(
    curation: Curation, clusters: Int[np.ndarray, " curated"], params: AuditParams, docs: Path | None = None
) -> list[CheckResult]:
    """Hold the curated set against its suite: readable, kept, no leaks, no copies, large enough, balanced.

    Args:
        curation: all that curation wrote.
        clusters: cluster of each curated image.
        params: bounds.
        docs: folder for Data Docs; None makes none.
    """
    expect = expectations()
    largest = min(1.0, max(params.max_cluster, 2 / params.clusters))
    null = expect.ExpectColumnValuesToBeNull
    suite = [
        Expected("curated", "every image is there once", expect.ExpectColumnValuesToBeUnique(column="id")),
        Expected(
            "curated",
            "every image can be read",
            expect.ExpectColumnValuesToBeInSet(column="status", value_set=["ok"]),
        ),
        Expected(
            "curated",
            "every image was kept by deduplication",
            expect.ExpectColumnValuesToBeInSet(column="reason", value_set=["unique", "representative"]),
        ),
        Expected("curated", "no image is of the evaluation part", null(column="evaluation")),
        Expected("curated", "no image shows what an evaluation image shows", null(column="leak")),
        Expected("curated", "no two images are copies of each other", null(column="copy")),
        Expected(
            "curated",
            f"there are at least {params.min_images} images",
            expect.ExpectTableRowCountToBeBetween(min_value=params.min_images),
        ),
    ]
    if curation.groups.num_rows >= LEAST * params.clusters:  # a handful of images is of few kinds, and may be
        suite.append(
            Expected(
                "clusters",
                f"no cluster holds more than {100 * largest:g} % of the images",
                expect.ExpectColumnValuesToBeBetween(column="share", max_value=largest),
            )
        )
    return check("curated", _curated_tables(curation, clusters), suite, docs)


def _curated_tables(curation: Curation, clusters: Int[np.ndarray, " curated"]) -> dict[str, Any]:
    import pandas as pd

    names = image_names(curation.manifest)
    curated = curation.curated
    evaluation = set(curation.manifest.ids("eval"))
    leaks, copies = _partners(curation, evaluation)
    status, reason = _column(curation.manifest.images, "status"), _column(curation.groups, "reason")
    columns = {
        "status": [status.get(one, "unknown") for one in curated],  # an expectation passes over what is null
        "reason": [reason.get(one, "unknown") for one in curated],
        "evaluation": [one if one in evaluation else None for one in curated],
        "leak": [leaks.get(one) for one in curated],
        "copy": [copies.get(one) for one in curated],
    }
    texts = {column: pd.Series(values, dtype=object) for column, values in columns.items()}
    sizes = np.bincount(clusters)
    return {
        "curated": pd.DataFrame({"name": [names.get(one, one) for one in curated], "id": curated, **texts}),
        "clusters": pd.DataFrame(
            {
                "name": [f"cluster {number + 1}" for number in range(len(sizes))],
                "id": "",
                "share": sizes / max(1, sizes.sum()),
            }
        ),
    }


def _column(table: pa.Table, column: str) -> Mapping[str, str]:
    return dict(zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True))


def _partners(curation: Curation, evaluation: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Of curated images, the evaluation image, and the other curated image, that show the same."""
    chosen = set(curation.curated)
    leaks, copies = {}, {}
    pairs = list(zip(curation.pairs["first"].to_pylist(), curation.pairs["second"].to_pylist(), strict=True))
    for first, second in (*pairs, *((second, first) for first, second in pairs)):
        if first in chosen and second in evaluation:
            leaks[first] = second
        if first in chosen and second in chosen:
            copies[first] = second
    return leaks, copies
