"""`selfsight convert`: weights from one format to another."""

from pathlib import Path
from typing import Any

from components.models.conversion.convert import check_target, write
from components.models.conversion.imported import ImportOptions
from components.models.conversion.source import read_source
from components.parameters import validate
from components.stages.publish import publish


def convert(source: str, target: Path, to: str, options: dict[str, Any]) -> list[str]:
    """Write a backbone in another format; the target appears whole or not at all.

    Args:
        source: as for `load_backbone`.
        target: file or folder that does not exist.
        to: one of the formats.
        options: of the command line, those of `ImportOptions`; None: not given.

    Returns:
        What gets lost or is computed otherwise there, in sentences.

    Raises:
        UserError: if the source cannot be read, or the format has no such architecture.
    """
    known = check_target(target, to)
    given = {name: value for name, value in options.items() if value is not None}
    found = read_source(source, validate(ImportOptions, given, where="options"))
    with publish(target) as partial:
        return write(found, partial, known)
