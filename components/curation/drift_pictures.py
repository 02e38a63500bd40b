"""What drift looks like."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.curation.drift import DriftReport
from components.data.reading import Reader
from components.features.thumbnails import load_thumbnails

SHOWN, COLUMNS, SIDE = 30, 10, 96
OLDER, NEWER = "#8a8f98", "#0f766e"


def draw_report(report: DriftReport, path: Path) -> None:
    """Draws the test against its null, the distances to the nearest older image, and the clusters.

    Args:
        report: what was measured.
        path: PNG to write.
    """
    figure, (null, distances, clusters) = _figure(1, 3, (13, 3.6))
    null.hist(report.null, bins=40, color=OLDER, label="dealt out anew")
    null.axvline(report.mmd, color=NEWER, label=f"observed, p = {report.p_value:.3g}")
    null.set(title="Squared MMD", yticks=[])
    both = np.concatenate([report.usual_distances, report.distances])
    bins = np.linspace(both.min(), both.max() + 1e-9, 41).tolist()
    for values, colour, name in ((report.usual_distances, OLDER, "older"), (report.distances, NEWER, "new")):
        distances.hist(values, bins=bins, density=True, color=colour, alpha=0.6, label=name)
    distances.axvline(report.far_distance, color="black", linewidth=0.8, label=f"far: {100 * report.far:.0f} % of new")
    distances.set(title="Distance to the nearest older image", yticks=[])
    places = np.arange(len(report.clusters))
    clusters.bar(places - 0.2, [100 * one.before for one in report.clusters], 0.4, color=OLDER, label="older")
    clusters.bar(places + 0.2, [100 * one.now for one in report.clusters], 0.4, color=NEWER, label="new")
    clusters.set(title="Share of each cluster, %", xticks=[])
    for axes in (null, distances, clusters):
        axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_farthest(report: DriftReport, ids: Sequence[str], reader: Reader, path: Path) -> None:
    """Draws the new images that are farthest from every older one.

    Args:
        report: what was measured.
        ids: of the new images, in the order of the distances.
        reader: gives the bytes of an image.
        path: PNG to write.
    """
    order = sorted(range(len(ids)), key=lambda row: (-report.distances[row], ids[row]))[:SHOWN]
    pictures = load_thumbnails(reader, [ids[row] for row in order], side=SIDE)
    rows = -(-len(order) // COLUMNS)
    figure, axes = _figure(rows, COLUMNS, (COLUMNS * 1.1, rows * 1.3))
    for place in np.ravel(axes):
        place.axis("off")
    for place, row, picture in zip(np.ravel(axes), order, pictures, strict=False):
        place.imshow(picture)
        place.set_title(f"{report.distances[row]:.2f}", fontsize=7)
    _save(figure, path)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
