"""Why images go, in words for somebody who sees this system for the first time."""

from typing import NamedTuple

from components.curation.funnel import FORGOTTEN, NOT_RETRIEVED, SAME_BYTES


class Meaning(NamedTuple):
    """Of one reason."""

    title: str
    """A few words, for one or many images."""
    why: str
    """A sentence."""
    knob: str = ""
    """Parameter or command to change it with; empty where only another source does."""
    section: str = "quarantine"
    """Of the page, that shows them; empty if none does."""


_MEANINGS = {
    SAME_BYTES: Meaning("same file again", "Another file has the very same bytes. One of them is enough.", section=""),
    "empty": Meaning("empty file", "The file has no bytes."),
    "not-an-image": Meaning("not an image", "The bytes are of no format that is read here, whatever the name says."),
    "truncated": Meaning("cut-off file", "The file ends before its image does."),
    "broken": Meaning("damaged file", "The decoder of its format cannot read it."),
    "unsupported-depth": Meaning("unsupported depth", "Its pixels have a number format without a stated conversion."),
    "too-many-pixels": Meaning(
        "too many pixels", "Decoding it would take more memory than is allowed.", "ingest.max_pixels"
    ),
    "too-many-bytes": Meaning("too large a file", "The file has more bytes than allowed.", "ingest.max_bytes"),
    "too-small": Meaning("too small", "Its shorter side has too few pixels to learn from.", "ingest.min_side"),
    "too-narrow": Meaning("too narrow", "It is a strip: one side is many times the other.", "ingest.max_aspect"),
    "duplicate": Meaning(
        "near-duplicate",
        "Another image shows the same picture: resized, cropped, mirrored, recoloured or compressed. Of each group one "
        "is kept: that of the most pixels, among equals the sharpest.",
        "dedup.threshold",
        "duplicates",
    ),
    "leak": Meaning(
        "leak",
        "It shows the same picture as an image of the evaluation part, or as one that does. Trained on, it would make "
        "scores better than the model is.",
        "dedup.leak_threshold",
        "leaks",
    ),
    FORGOTTEN: Meaning("forgotten", "Somebody asked that it never be used again.", "selfsight forget", ""),
    NOT_RETRIEVED: Meaning("not retrieved", "Retrieval chose other images; see there how.", "retrieve", "retrieval"),
}


def meaning(reason: str) -> Meaning:
    """What a reason means; one that is not known here is told by its own name."""
    return _MEANINGS.get(reason, Meaning(reason, "The step that did it gave this reason."))
