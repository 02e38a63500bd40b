"""Is training still sane? A step whose loss or gradient is not finite changes nothing and is counted here."""

import logging
from dataclasses import dataclass, field

from pydantic import Field

from components.errors import UserError
from components.parameters import Params

_log = logging.getLogger(__name__)
SHOWN_IDS = 8


class HealthParams(Params):
    """When training is given up."""

    max_skipped: int = Field(
        default=10, ge=1, description="steps in a row without a finite loss and gradient after which training stops"
    )


@dataclass
class Health:
    """Counts the steps that had to be skipped.

    Attributes:
        params: when to give up.
        skipped: skipped steps of the whole run.
        in_a_row: skipped steps since the last good one.
        ids: images of the skipped steps since the last good one, by step.
    """

    params: HealthParams
    skipped: int = 0
    in_a_row: int = 0
    ids: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def good(self) -> None:
        """A step was applied."""
        self.in_a_row = 0
        self.ids.clear()

    def bad(self, step: int, ids: tuple[str, ...]) -> None:
        """A step was skipped.

        Args:
            step: its number.
            ids: images of this process in it.

        Raises:
            UserError: if there were too many in a row.
        """
        self.skipped += 1
        self.in_a_row += 1
        self.ids[step] = ids
        shown = ", ".join(one[:12] for one in ids[:SHOWN_IDS])
        _log.warning("step %d: loss or gradient is not finite, nothing was changed; images %s …", step, shown)
        if self.in_a_row >= self.params.max_skipped:
            first = min(self.ids)
            raise UserError(
                f"loss or gradient was not finite in steps {first} to {step}, {self.in_a_row} in a row",
                remedy="lower schedule.lr or clip.max_norm, or look at the images named in the log, and run again",
            )
