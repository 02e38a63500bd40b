import pytest

from components.data.splits import held_out
from components.errors import UserError

KEYS = [f"clip-{n}" for n in range(2000)]


def test_the_share_held_out_is_about_the_fraction() -> None:
    assert 160 < len(held_out(KEYS, fraction=0.1, seed=0)) < 240


def test_a_key_stays_on_its_side_when_others_come() -> None:
    before, after = (held_out(keys, fraction=0.1, seed=0) for keys in (KEYS[:1000], KEYS))
    assert before == after & set(KEYS[:1000])


def test_order_does_not_matter_and_the_seed_does() -> None:
    assert held_out(KEYS[::-1], fraction=0.1, seed=0) == held_out(KEYS, fraction=0.1, seed=0)
    assert held_out(KEYS, fraction=0.1, seed=1) != held_out(KEYS, fraction=0.1, seed=0)


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_neither_side_is_ever_empty(fraction: float) -> None:
    chosen = held_out(KEYS[:2], fraction=fraction, seed=0)
    assert len(chosen) == 1


def test_one_group_alone_cannot_be_split() -> None:
    with pytest.raises(UserError, match="none can be held out"):
        held_out(["clip", "clip"], fraction=0.5, seed=0)
