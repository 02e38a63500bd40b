"""F11: of two promotions at once exactly one wins, and the history shows both."""

import subprocess
import sys
from pathlib import Path

import pytest
from artifacts import make_artifact

from components.registry.promotion import champions, current_champion, history, promote
from components.registry.registration import register
from components.settings import Settings

PROMOTER = """
import sys
from pathlib import Path
from components.registry.promotion import PromotionConflict, current_champion, promote
from components.settings import Settings, quiet_environment

quiet_environment()
home, version = Path(sys.argv[1]), sys.argv[2]
settings = Settings(root=home, home=home, _env_file=None)
seen = current_champion(settings)
print("decided", flush=True)
sys.stdin.readline()
try:
    promote(version, settings, expected=seen, reason="at once")
    print("won")
except PromotionConflict:
    print("lost")
"""


def at_once(settings: Settings, versions: list[str]) -> list[str]:
    """Promotes the versions in one process each, all having seen the same champion; what became of each."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTER, str(settings.root), version],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for version in versions
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "decided\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [process.communicate(timeout=120)[0].strip() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture
def versions(settings: Settings, tmp_path: Path) -> list[str]:
    return [register(make_artifact(tmp_path / f"artifact{seed}", seed), settings).version for seed in range(3)]


def test_F11_of_two_promotions_at_once_exactly_one_wins_and_the_history_shows_both(
    settings: Settings, versions: list[str]
) -> None:
    outcomes = at_once(settings, versions[:2])
    assert sorted(outcomes) == ["lost", "won"]
    winner, loser = versions[outcomes.index("won")], versions[outcomes.index("lost")]
    assert current_champion(settings) == winner
    entries = history(settings)
    assert [(entry.action, entry.version) for entry in entries] == [("promote", winner), ("refuse", loser)]
    assert champions(entries) == [winner]


def test_F11_over_a_champion_too_there_is_one_winner(settings: Settings, versions: list[str]) -> None:
    promote(versions[0], settings, expected=None, reason="the first")
    outcomes = at_once(settings, versions[1:])
    assert sorted(outcomes) == ["lost", "won"]
    entries = history(settings)
    assert {entry.version for entry in entries[1:]} == set(versions[1:])
    assert [entry.action for entry in entries] == ["promote", "promote", "refuse"]
    assert champions(entries) == [versions[0], current_champion(settings)]
