"""What every test shares."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from components.settings import Settings, get_settings, quiet_environment  # noqa: E402

quiet_environment()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose every folder and service is below the test's own folder."""
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
