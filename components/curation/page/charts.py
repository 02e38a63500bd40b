"""Drawings in SVG: the funnel and the map."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from components.curation.funnel import Step
from components.curation.page.markup import Html, join, tag
from components.curation.page.reasons import meaning
from components.curation.page.style import COLOURS, FUNNEL

WIDTH, ROW, LABEL = 900, 46, 250
MAP = 420
MARGIN = 12


BARS = ("files in the source", "distinct images", "readable", "without copies and leaks", "trained on")
"""Titles of the funnel's bars: what came, and what is left after each step."""


def funnel_picture(steps: Sequence[Step]) -> str:
    """Draw the funnel as a file of its own."""
    return funnel_chart(steps, tag("style", Html(COLOURS + FUNNEL))) + "\n"


def funnel_chart(steps: Sequence[Step], style: Html | None = None) -> Html:
    """Draw what is left after each step as a bar, with what went beside it.

    Args:
        steps: of the funnel.
        style: element with the styles, where nothing around the drawing gives them.
    """
    counts = [steps[0].came, *(step.stayed for step in steps)]
    room = WIDTH - LABEL - 60
    parts = []
    for row, (title, count) in enumerate(zip(BARS, counts, strict=True)):
        top = row * ROW
        width = max(1.0, round(room * count / max(1, counts[0]), 1))
        parts.append(tag("text", title, x=LABEL - 10, y=top + 20, text_anchor="end"))
        parts.append(tag("rect", x=LABEL, y=top + 4, width=width, height=24, class_="kept", rx=3))
        parts.append(tag("text", f"{count:,}", x=round(LABEL + width + 6, 1), y=top + 21, class_="count"))
        if row and steps[row - 1].went:
            gone = ", ".join(f"{number:,} {meaning(reason).title}" for reason, number in steps[row - 1].went.items())
            parts.append(tag("text", f"− {gone}", x=LABEL, y=top - 3, class_="went"))
    return tag(
        "svg",
        style,
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {len(counts) * ROW}",
        role="img",
        class_="funnel",
    )


def scatter(points: Mapping[str, Float[np.ndarray, "points 2"]], bounds: Float[np.ndarray, "2 2"]) -> Html:
    """Draw points; each kind is one path of round dots.

    Args:
        points: by kind, which is the class of their style.
        bounds: least and greatest of both coordinates.
    """
    low, high = bounds
    scale = (MAP - 2 * MARGIN) / np.maximum(high - low, 1e-12)
    paths = []
    for kind, some in points.items():
        places = np.round(MARGIN + (some - low) * scale, 1).tolist()
        paths.append(tag("path", d="".join(f"M{x:g} {MAP - y:g}h0" for x, y in places), class_=f"dot {kind}"))
    return tag("svg", *paths, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {MAP} {MAP}", role="img", class_="map")


def legend(kinds: Mapping[str, str]) -> Html:
    """Name the colours: style class to text."""
    return tag(
        "p", *(join(tag("span", class_=f"swatch {kind}"), text, "  ") for kind, text in kinds.items()), class_="legend"
    )
