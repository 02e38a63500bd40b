"""What every test shares."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from components.settings import Settings, get_settings, quiet_environment
from components.tracking import initialise_database

quiet_environment()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real MLflow database without runs; making one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("mlflow")
    initialise_database(Settings(root=folder, home=folder, _env_file=None))
    return folder / "mlflow.db"


@pytest.fixture
def settings(tmp_path: Path, empty_database: Path) -> Settings:
    """Settings whose every folder and service is the test's own."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Settings(root=tmp_path, home=tmp_path, _env_file=None)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project folder that is the current one, with settings read afresh from a clean environment."""
    for name in [name for name in os.environ if name.startswith("SELFSIGHT_") and name != "SELFSIGHT_REAL_DATA"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SELFSIGHT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, where there is one."""
    folder = os.environ.get("SELFSIGHT_REAL_DATA")
    if not folder:
        pytest.skip("SELFSIGHT_REAL_DATA is not set: no real images here")
    return Path(folder)
