"""The parts of a page, each from the tables that curation wrote."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from components.curation.clusters import TrainingClusters
from components.curation.expectations import Row
from components.curation.funnel import Step
from components.curation.page.charts import funnel_chart, legend, scatter
from components.curation.page.gallery import Gallery
from components.curation.page.markup import Html, join, percent, table, tag
from components.curation.page.reasons import meaning
from components.curation.pictures import duplicate_groups, leak_pairs, spread

MEMBERS, NEIGHBOURS = 10, 6
"""Images of a group, and neighbours of a query, that are shown."""
FATES = {"stays": "trained on", "duplicate": "near-duplicate", "leak": "leak", "left": "not retrieved"}


def section(name: str, title: str, *children: object) -> Html:
    """A part that links can point at."""
    return tag("section", tag("h2", title), *children, id=name)


def _group(figures: Iterable[Html]) -> Html:
    return tag("div", *figures, class_="group")


def summary(steps: Sequence[Step]) -> Html:
    """Draw the funnel, and tell every reason with its number."""
    files, left = steps[0].came, steps[-1].stayed
    rows: list[tuple[object, ...]] = []
    for step in steps:
        for reason, count in step.went.items():
            told = meaning(reason)
            shown = tag("a", "show", href=f"#{told.section}") if told.section else ""
            knob = tag("code", told.knob) if told.knob else "the source"
            rows.append((tag("b", told.title), count, percent(count, files), told.why, knob, shown))
    gone = files - left
    lead = f"{files:,} training files came in. {gone:,} of them ({percent(gone, files)}) were thrown away, "
    return section(
        "summary",
        "What was thrown away, and why?",
        tag("p", lead, tag("b", f"{left:,} images"), " are trained on.", class_="lead"),
        funnel_chart(steps),
        table(("reason", "images", "of all", "why", "to change it", ""), rows, numbers=(1, 2)),
    )


def quarantine(rows: Sequence[tuple[str, Row]], evaluation: int) -> Html:
    """List what does not decode: every reason with some names.

    Args:
        rows: reason and image, of both parts.
        evaluation: how many of them are of the evaluation part only.
    """
    if not rows:
        return section("quarantine", "Quarantine", tag("p", "Every image of the source decodes."))
    counts = Counter(reason for reason, _ in rows)
    cells: list[tuple[object, ...]] = []
    for reason, count in sorted(counts.items()):
        names = sorted(row for one, row in rows if one == reason)[:MEMBERS]
        listed = join(*(tag("code", row.name, title=row.id) for row in names), " …" if count > len(names) else None)
        cells.append((tag("b", meaning(reason).title), count, meaning(reason).why, listed))
    note = "There is nothing to see of them: what does not decode is not stored."
    if evaluation:
        note += f" {evaluation:,} of them belong to the evaluation part, which the funnel above does not count."
    head = ("reason", "images", "why", "such as")
    return section("quarantine", "Quarantine", tag("p", note), table(head, cells, numbers=(1,)))


def duplicates(groups: pa.Table, pairs: pa.Table, gallery: Gallery, examples: int) -> Html:
    """Show groups of near-duplicates, from the largest to the smallest, the kept image first."""
    found = sorted(duplicate_groups(groups), key=lambda group: (-len(group), group[0][1]))
    if not found:
        return section("duplicates", "Near-duplicates", tag("p", "No two images show the same picture."))
    agreement: dict[str, float] = {}
    columns = (pairs[name].to_pylist() for name in ("first", "second", "agreement"))
    for first, second, value in zip(*columns, strict=True):
        for one in (first, second):
            agreement[one] = max(value, agreement.get(one, 0.0))

    def caption(gone: bool, one: str) -> str:
        return "kept" if not gone else f"copy {agreement[one]:.2f}" if one in agreement else "copy"

    drawn = [
        _group(gallery.figure(one, caption(gone, one), gone=gone) for gone, one in group[:MEMBERS])
        for group in spread(found, examples)
    ]
    images = sum(len(group) for group in found)
    lead = (
        f"{images:,} images form {len(found):,} groups; the largest has {len(found[0]):,}. One of each is kept. "
        "The number is the share of the picture that agrees with its nearest copy once both are aligned."
    )
    return section("duplicates", "Near-duplicates", tag("p", lead), tag("div", *drawn, class_="groups"))


def leaks(groups: pa.Table, pairs: pa.Table, evaluation: set[str], gallery: Gallery, examples: int) -> Html:
    """Show evaluation images, each beside a training image that shows the same."""
    gone = [row["id"] for row in groups.to_pylist() if row["reason"] == "leak"]
    if not gone:
        return section("leaks", "Leaks", tag("p", "No training image shows what an evaluation image shows."))
    found = leak_pairs(pairs, evaluation)
    drawn = [
        _group(
            (
                gallery.figure(one.evaluation, "evaluation"),
                gallery.figure(one.training, f"leak {one.agreement:.2f}", gone=True),
            )
        )
        for one in spread(found, examples)
    ]
    same = sum(one in evaluation for one in gone)
    lead = (
        f"{len(gone):,} training images show what an evaluation image shows, or are copies of such an image. "
        f"{same:,} are the very files of the evaluation part; {len(found):,} pairs of different files were found."
    )
    return section("leaks", "Leaks", tag("p", lead), tag("div", *drawn, class_="groups"))


def retrieval(sets: pa.Table, neighbours: pa.Table, left_out: list[str], gallery: Gallery, examples: int) -> Html:
    """Account for every set of queries, show queries with their neighbours, and what nobody asked for."""
    head = ("set of queries", "how", "queries", "clusters voted for", "within reach", "brought in", "by it alone")
    rows = [tuple(row.values()) for row in sets.to_pylist()]
    account = table(head, rows, numbers=(2, 3, 4, 5, 6)) if rows else None
    if rows:
        lead = "Images were chosen that resemble the queries: evaluation images without their labels."
    elif left_out:
        lead = "No queries: clusters of the images gave alike, so that frequent things do not drown rare ones."
    else:
        lead = "Every image that deduplication left was chosen; the neighbours below are for the record."
    near: dict[tuple[str, str], list[tuple[str, float]]] = {}  # a query may be of several sets
    for row in neighbours.filter(pc.less(neighbours["rank"], NEIGHBOURS)).to_pylist():
        near.setdefault((row["query"], row["set"]), []).append((row["neighbour"], row["similarity"]))
    drawn = [
        _group(
            (gallery.figure(query, "query"), *(gallery.figure(one, f"cosine {cosine:.2f}") for one, cosine in found))
        )
        for (query, _), found in spread(sorted(near.items()), examples)
    ]
    gone = [gallery.figure(one, "left out", gone=True) for one in spread(left_out, 4 * examples)]
    return section(
        "retrieval",
        "Retrieval",
        tag("p", lead),
        account,
        tag("h3", "Queries and their nearest images") if drawn else None,
        tag("div", *drawn, class_="groups"),
        tag("h3", f"Left out: {len(left_out):,} images, such as") if gone else None,
        _group(gone),
    )


def clusters(found: TrainingClusters, gallery: Gallery) -> Html:
    """Show each cluster of the readable training images: its size before and after, and its most typical images."""
    rows: list[tuple[object, ...]] = [
        (
            f"{number + 1}",
            int(found.before[number]),
            int(found.after[number]),
            percent(int(found.after[number]), int(found.before[number])),
            _group(gallery.figure(one, "", gone=gone) for one, gone in found.typical[number]),
        )
        for number in np.argsort(-found.before, kind="stable").tolist()
    ]
    head = ("cluster", "before", "after", "stays", "most typical images")
    lead = "k-means of all readable training images: did curation take from everything alike, or from something most?"
    return section("clusters", "Clusters", tag("p", lead), table(head, rows, numbers=(1, 2, 3)))


def maps(plane: Float[np.ndarray, "n 2"], fates: Sequence[str], images: int) -> Html:
    """Draw images before and after curation on their first two principal components.

    Args:
        plane: of readable training images.
        fates: of each, one of `FATES`.
        images: how many there are; those drawn are a sample where there are more.
    """
    kinds = np.array(fates)
    bounds = np.stack([plane.min(axis=0), plane.max(axis=0)])
    by_fate = {kind: plane[kinds == kind] for kind in ("stays", "left", "duplicate", "leak")}
    lead = "Each dot is an image, near to those it resembles. Left: what came. Right: what is trained on."
    if len(plane) < images:
        lead += f" {len(plane):,} of {images:,} images are drawn."
    both = (scatter(by_fate, bounds), scatter({"stays": by_fate["stays"]}, bounds))
    return section("map", "Before and after", tag("p", lead), legend(FATES), tag("div", *both, class_="maps"))


def checks(reports: Sequence[tuple[str, Sequence[dict[str, object]]]]) -> Html:
    """List every expectation and what it found: name of a suite, its results as plain values."""
    rows: list[tuple[object, ...]] = []
    for name, results in reports:
        for one in results:
            passed = bool(one["success"])
            unexpected = one["unexpected"]
            state = tag("b", "passes" if passed else "fails", class_="good" if passed else "bad")
            rows.append((name, str(one["meaning"]), state, unexpected if unexpected else ""))
    return section("checks", "Checks", table(("of", "what must hold", "", "rows that do not"), rows, numbers=(3,)))
