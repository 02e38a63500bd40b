"""The picture and the table of `benchmarks.converging`."""

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- written by benchmarks.converging -->\n", "<!-- end -->\n"
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


def draw(found: dict[str, dict[str, Any]], one: str, seed: str, picture: Path, page: Path) -> None:
    """Draws the curves and writes the table between the marks of a page.

    Args:
        found: curves by way: `loss` and `knn` as (step, value), `seconds`.
        one: the way that the others are held against.
        seed: the one that need not agree.
        picture: SVG to write.
        page: Markdown; made of the marks alone if there is none.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "converging"  # the same curves give the same file
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for number, (name, curves) in enumerate(found.items()):
        style = {"linestyle": LINES[number % len(LINES)], "linewidth": 1.4}
        if name == seed:
            style |= {"color": "lightgrey", "zorder": 0}
        left.plot(*zip(*curves["loss"], strict=True), label=name, **style)
        right.plot(*zip(*curves["knn"], strict=True), label=name, marker="o", markersize=3, **style)
    left.set(xlabel="step", ylabel="loss")
    right.set(xlabel="step", ylabel="kNN top-1, teacher")
    left.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})
    pyplot.close(figure)
    text = page.read_text(encoding="utf-8") if page.exists() else BEGIN + END
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    written = f"![Loss and kNN of every way](assets/{picture.name})\n\n{table(found, one)}"
    page.write_text(f"{before}{BEGIN}{written}{END}{after}", encoding="utf-8")


def table(found: dict[str, dict[str, Any]], one: str) -> str:
    """Losses and kNN at the end, in Markdown."""
    lines = ["| way | loss at the end | of one process | kNN top-1 |", "|---|---|---|---|"]
    truth = end_of(found[one]["loss"])
    for name, curves in found.items():
        loss = end_of(curves["loss"])
        lines.append(f"| {name} | {loss:.4f} | {loss / truth - 1:+.2%} | {curves['knn'][-1][1]:.1%} |")
    return "\n".join(lines) + "\n"


def end_of(curve: list[tuple[int, float]]) -> float:
    """Mean over the last tenth of the steps."""
    last = [value for step, value in curve if step > 0.9 * curve[-1][0]]
    return sum(last) / len(last)
