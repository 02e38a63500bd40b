"""HTML from values: every text is escaped, because names of files come from anywhere."""

import html
from typing import Final

VOID: Final = frozenset({"img", "meta", "circle", "rect", "path", "line"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Make one element.

    Args:
        name: of the element; underscores are hyphens.
        children: `Html` goes in as it is, anything else as escaped text; None is left out.
        attributes: names as in HTML, with `_` for `-` and a final `_` where Python has the word, such as `class_`.
    """
    values = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{values}/>")
    return Html(f"<{name}{values}>{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """Put elements and texts one after another."""
    return Html("".join(one if isinstance(one, Html) else html.escape(str(one)) for one in children if one is not None))


def table(head: tuple[str, ...], rows: list[tuple[object, ...]], *, numbers: tuple[int, ...] = ()) -> Html:
    """Make a table.

    Args:
        head: titles of the columns.
        rows: cells; numbers are written with thin separators.
        numbers: columns that are set flush right.
    """

    def cell(name: str, column: int, value: object) -> Html:
        shown = f"{value:,}" if isinstance(value, int) else value
        return tag(name, shown, class_="number" if column in numbers else None)

    titles = tag("tr", *(cell("th", column, one) for column, one in enumerate(head)))
    body = [tag("tr", *(cell("td", column, one) for column, one in enumerate(row))) for row in rows]
    return tag("div", tag("table", tag("thead", titles), tag("tbody", *body)), class_="wide")


def percent(part: int, whole: int) -> str:
    """A share to show, such as `3.1 %`."""
    return f"{100 * part / whole:.1f} %" if whole else "–"
