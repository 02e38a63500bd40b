"""Turns of the loop of retraining."""

from components.registry.versions import CHAMPION, by_alias
from components.settings import get_settings
from flows.retrain import retrain


def turn() -> tuple[str, str]:
    """A turn of the loop of the project that is the current folder: how it ended, and what it said."""
    state = retrain(retries=0, return_state=True)
    state.result()
    return state.name, state.message


def champion() -> str | None:
    """The champion's version."""
    found = by_alias(CHAMPION, get_settings())
    return found and found.version
