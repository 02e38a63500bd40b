"""What tests of data share: pictures, folders of them, and settings without services."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.settings import Settings


@pytest.fixture
def bare_settings(tmp_path: Path) -> Settings:
    """Settings whose every folder is the test's own, without a database."""
    home = tmp_path / "home"
    return Settings(root=tmp_path, home=home, threads=1, _env_file=None)


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Makes the bytes of a noisy picture: `picture(seed, size=(24, 16), format="JPEG")`."""
    return encoded_noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three pictures, a text file and a hidden one."""
    root = tmp_path / "images"
    for index in range(6):
        path = root / ("cat" if index < 3 else "dog") / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded_noise(index))
    (root / "notes.txt").write_text("no image")
    (root / "cat" / "._0.jpg").write_bytes(b"left by another system")
    return root


def encoded_noise(seed: int, size: tuple[int, int] = (24, 16), format: str = "JPEG", **options: object) -> bytes:
    """A picture of blocks of random colour, encoded."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, format, **options)
    return buffer.getvalue()
