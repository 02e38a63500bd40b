"""`data/initial.lock` follows `pretrain.initial`, and nothing else unless asked to look again."""

from pathlib import Path

import pytest
from artifacts import make_artifact
from ruamel.yaml import YAML

from components.errors import UserError
from components.settings import Settings
from components.stages import paths
from components.stages.params import PipelineParams, load_params
from components.training.initial import InitialLock, read_initial_lock
from flows.snapshot import refresh_initial

PARAMS = Path(__file__).parents[3] / "params.yaml"


def params(folder: Path, initial: str | None) -> PipelineParams:
    """The shipped parameters, with an architecture like `make_artifact`'s."""
    values = YAML(typ="safe").load(PARAMS.read_text())
    values["pretrain"]["initial"] = initial
    values["pretrain"]["model"] |= {"width": 8, "depth": 2, "heads": 2, "layer_scale": None}
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    return load_params(folder / "params.yaml")


def test_without_a_beginning_the_lock_says_so(tmp_path: Path, settings: Settings) -> None:
    wanted = params(tmp_path, None)
    assert refresh_initial(wanted, settings, always=False) == "weights from the seed"
    assert refresh_initial(wanted, settings, always=True) is None
    assert read_initial_lock(settings.root / paths.INITIAL_LOCK) == InitialLock()


def test_a_new_beginning_is_locked_with_its_hash_and_kept_until_asked_to_look_again(
    tmp_path: Path, settings: Settings
) -> None:
    source = make_artifact(tmp_path / "given")
    wanted = params(tmp_path, str(source))
    assert refresh_initial(wanted, settings, always=False) == str(source)
    first = read_initial_lock(settings.root / paths.INITIAL_LOCK)
    assert (first.uri, first.resolved, len(first.digest)) == (str(source), str(source), 64)
    make_artifact(source, seed=1)
    assert refresh_initial(wanted, settings, always=False) is None
    assert refresh_initial(wanted, settings, always=True) == str(source)
    assert read_initial_lock(settings.root / paths.INITIAL_LOCK).digest != first.digest


def test_a_beginning_that_cannot_be_adapted_leaves_the_lock_as_it_was(tmp_path: Path, settings: Settings) -> None:
    refresh_initial(params(tmp_path, None), settings, always=False)
    (tmp_path / "nothing.pth").write_bytes(b"")
    for source, says in ((tmp_path / "nothing.pth", "damaged"), (tmp_path / "nowhere", "no such backbone")):
        with pytest.raises(UserError, match=says):
            refresh_initial(params(tmp_path, str(source)), settings, always=False)
    assert read_initial_lock(settings.root / paths.INITIAL_LOCK) == InitialLock()
