"""Near-duplicates among the training images, and training images that leak from the evaluation part.

As DINOv2 (section 3 and appendix A.3): copies are connected, one of each connected component is kept, and a component
that touches an evaluation image is discarded whole, on a lower threshold. Instead of trusting a cosine, every candidate
pair is verified by registration, unless `measure` is `cosine`.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from PIL import Image
from pydantic import Field, model_validator

from components.curation.copies import Copies
from components.curation.evaluation_sets import REST, EvaluationSet
from components.features.components import connected_components
from components.parameters import Params

Reason = Literal["unique", "representative", "duplicate", "leak"]


SHARPNESS_SIDE = 256
"""Shorter side at which sharpness is measured, pixels."""


class DedupParams(Params):
    """When two pictures are the same picture."""

    neighbours: int = Field(
        16,
        ge=1,
        le=1024,
        description="nearest training images that an image is compared with, and nearest evaluation images that a "
        "training image is compared with",
    )
    hash_distance: int = Field(
        6, ge=0, le=16, description="bits in which the perceptual hashes of compared images may differ, of 64"
    )
    measure: Literal["agreement", "cosine"] = Field(
        "agreement",
        description="what the thresholds are held against: agreement, the share of two pictures that is the same, by "
        "registration; cosine, that of their embeddings, for any embedder and in a fraction of the time",
    )
    threshold: float = Field(
        0.76, gt=0, le=1, description="measure of two training images from which on they are one picture"
    )
    leak_threshold: float = Field(
        0.72, gt=0, le=1, description="the same for a training and an evaluation image; lower discards more"
    )
    evaluation_sets: tuple[EvaluationSet, ...] = Field(
        (),
        description="evaluation sources, or parts of one, with thresholds of their own; []: each of several sources is "
        "one, with leak_threshold",
    )
    exact_up_to: int = Field(
        200_000,
        ge=0,
        description="training images up to which all are compared with all; beyond, faiss searches (extra `faiss`): "
        "hashes exactly, embeddings in an inverted file, whose recall is the metric search_recall",
    )
    probes: int = Field(
        64, ge=1, description="cells of the inverted file, of 4 √images, that are searched for an image"
    )

    @model_validator(mode="after")
    def _check_thresholds(self) -> "DedupParams":
        if self.measure == "cosine" and not {"threshold", "leak_threshold"} <= self.model_fields_set:
            raise ValueError(
                "measure is cosine: give threshold and leak_threshold, which depend on the embedder; "
                "`selfsight thresholds --measure cosine` helps to choose"
            )
        for name, lower in self.leak_thresholds.items():
            if lower > self.threshold:
                which = "leak_threshold" if name == REST else f"leak_threshold of {name}"
                raise ValueError(f"{which} is above threshold; lower it: a leak harms more than a lost image")
        if len(self.leak_thresholds) <= len(self.evaluation_sets):
            raise ValueError(f"evaluation_sets: give each a name of its own, and none the name {REST}")
        return self

    @property
    def leak_thresholds(self) -> dict[str, float]:
        """Threshold by evaluation set."""
        return {**{one.name: one.leak_threshold for one in self.evaluation_sets}, REST: self.leak_threshold}

    @property
    def least(self) -> float:
        """Measure below which nothing is decided by a pair."""
        return min(self.leak_thresholds.values())


def copy_components(
    copies: Copies, threshold: float, leak_threshold: Float[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " pairs"]]:
    """Connect what is a copy of what.

    Args:
        copies: compared pairs.
        threshold: of two training images.
        leak_threshold: of each evaluation image with any other; above 1 for a training image.

    Returns:
        The component of every image, named by its first position, and which pairs are accepted.
    """
    across = leak_threshold[copies.pairs].min(axis=1, initial=2.0)
    accepted = copies.agreement >= np.where(across <= 1.0, across, threshold)
    return connected_components(len(leak_threshold), copies.pairs[accepted]), accepted


def choose(
    ids: Sequence[str],
    training: Bool[np.ndarray, " n"],
    evaluation: Bool[np.ndarray, " n"],
    components: Int[np.ndarray, " n"],
    pixels: Int[np.ndarray, " n"],
    sharpness_of: Callable[[str], float],
) -> pa.Table:
    """Decide what becomes of every training image.

    Of a component one image is kept: the one of most pixels, among equals the sharpest, then the first id. A component
    that touches an evaluation image is discarded whole.

    Args:
        ids: all images.
        training: whether an image is of the training part.
        evaluation: whether it is of the evaluation part; the same bytes may be of both.
        components: component of each image.
        pixels: width × height of each.
        sharpness_of: sharpness by id; asked only where pixels do not decide.

    Returns:
        Table of the training images in the order of the ids: `id`, `component` (first id in it), `kept`, `reason`.
    """
    touched = np.zeros(len(ids), bool)
    touched[components[evaluation]] = True
    members: dict[int, list[int]] = {}
    for row in np.flatnonzero(training).tolist():
        members.setdefault(int(components[row]), []).append(row)
    reasons: dict[int, Reason] = {}
    for component, rows in members.items():
        if touched[component]:
            reasons |= dict.fromkeys(rows, "leak")
        elif len(rows) == 1:
            reasons[rows[0]] = "unique"
        else:
            reasons |= dict.fromkeys(rows, "duplicate")
            reasons[_best(rows, ids, pixels, sharpness_of)] = "representative"
    order = sorted(reasons)
    return pa.table(
        {
            "id": pa.array([ids[row] for row in order], pa.string()),
            "component": pa.array([ids[int(components[row])] for row in order], pa.string()),
            "kept": pa.array([reasons[row] in ("unique", "representative") for row in order], pa.bool_()),
            "reason": pa.array([reasons[row] for row in order], pa.string()),
        }
    )


def _best(
    rows: list[int], ids: Sequence[str], pixels: Int[np.ndarray, " n"], sharpness_of: Callable[[str], float]
) -> int:
    most = max(int(pixels[row]) for row in rows)
    largest = [row for row in rows if int(pixels[row]) == most]
    if len(largest) == 1:
        return largest[0]
    return min(largest, key=lambda row: (-sharpness_of(ids[row]), ids[row]))


def sharpness(image: Image.Image) -> float:
    """Mean of the lower four fifths of the absolute Laplacian of luminance, in deviations of luminance.

    Without the upper fifth, so that a line of text or a badge does not make a picture sharper; relative to the
    deviation, so that contrast does not. A larger picture is brought to `SHARPNESS_SIDE` first: what decodes to another
    size, such as a JPEG that was scaled while it was decoded, is measured at the same scale.
    """
    grey: Float[np.ndarray, "height width"] = np.asarray(_at_one_size(image.convert("L")), dtype=np.float64)
    if min(grey.shape) < 3:
        return 0.0
    inner = 4.0 * grey[1:-1, 1:-1]
    laplacian = inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    edges = np.sort(np.abs(laplacian), axis=None)
    lower = edges[: max(1, edges.size * 4 // 5)]
    return float(lower.mean() / max(float(grey.std()), 1.0))


def _at_one_size(image: Image.Image) -> Image.Image:
    scale = SHARPNESS_SIDE / min(image.size)
    if scale >= 1:
        return image
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def pair_table(ids: Sequence[str], copies: Copies, accepted: Bool[np.ndarray, " pairs"]) -> pa.Table:
    """Return the accepted pairs: `first`, `second`, `agreement`, `mirrored`."""
    pairs = copies.pairs[accepted]
    return pa.table(
        {
            "first": pa.array([ids[row] for row in pairs[:, 0]], pa.string()),
            "second": pa.array([ids[row] for row in pairs[:, 1]], pa.string()),
            "agreement": pa.array(np.round(copies.agreement[accepted], 4), pa.float32()),
            "mirrored": pa.array(copies.mirrored[accepted], pa.bool_()),
        }
    )
