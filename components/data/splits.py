"""Which images are held out for evaluation where no evaluation source is given."""

import hashlib
from collections.abc import Iterable

from components.errors import UserError


def held_out(keys: Iterable[str], *, fraction: float, seed: int) -> frozenset[str]:
    """Draws the keys that are held out, by hash: a key's side depends on nothing but itself and the seed.

    Only where that leaves a side empty is the nearest key moved over.

    Args:
        keys: group of each image (video or instance), or its id where it has none.
        fraction: share to hold out, in (0, 1).
        seed: another seed, another draw.

    Returns:
        The held-out keys: at least one, and not all.

    Raises:
        UserError: if there are fewer than two keys.
    """
    scores = {key: _score(key, seed) for key in keys}
    if len(scores) < 2:
        remedy = "give an evaluation source (`--eval`, snapshot.eval)"
        raise UserError("the images are all one, or of one group: none can be held out", remedy=remedy)
    chosen = {key for key, score in scores.items() if score < fraction}
    ranked = sorted(scores, key=lambda key: (scores[key], key))
    if not chosen:
        chosen = {ranked[0]}
    elif len(chosen) == len(scores):
        chosen.remove(ranked[-1])
    return frozenset(chosen)


def _score(key: str, seed: int) -> float:
    """Uniform in [0, 1)."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
