from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.curation.embedder import EmbedderLock, write_embedder_lock
from components.curation.thresholds import ScoredPairs
from components.data.forgotten import write_forgotten
from components.data.manifest import IMAGES, SOURCES, Manifest
from components.data.shards import LOCATIONS
from components.data.tables import write_table
from components.errors import UserError
from components.settings import Settings
from components.stages import paths
from components.stages.params import load_params
from flows.thresholds import measure_pairs, write_report

ROOT = Path(__file__).parents[3]


def pairs(*others: float) -> ScoredPairs:
    copies = [0.95, 0.9, 0.85, 0.8]
    names = [f"{number:02d}" for number in range(len(copies) + len(others))]
    same = np.arange(len(names)) < len(copies)
    transform = ["flip", "flip", "text", "text", *[None] * len(others)]
    return ScoredPairs(names, names, np.array([*copies, *others], np.float32), same, transform)


def test_table_picture_and_pairs_are_written_and_the_suggestion_is_shown(tmp_path: Path) -> None:
    lines = write_report("cosine", pairs(0.82, 0.3), 0.99, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"thresholds.csv", "thresholds.png", "pairs.csv"}
    assert "suggested for precision 0.99: 0.85, recall 0.750" in lines
    assert "  text             recall 0.50" in lines
    assert (tmp_path / "pairs.csv").read_text().splitlines()[1].startswith('"04","04",false,0.82')
    assert len((tmp_path / "thresholds.csv").read_text().splitlines()) == 102


def test_without_a_fitting_threshold_the_pairs_to_look_at_are_named(tmp_path: Path) -> None:
    lines = write_report("agreement", pairs(0.99), 0.99, tmp_path)
    assert any("no threshold has a precision of 0.99" in line and "pairs.csv" in line for line in lines)


def test_before_anything_was_curated_the_remedy_is_named(settings: Settings) -> None:
    params = load_params(ROOT / "params.yaml")
    write_forgotten((), settings.root / paths.FORGOTTEN_LOCK)
    with pytest.raises(UserError, match=r"images\.parquet: no such file"):
        measure_pairs(params, settings, None, None, 10)


def test_no_copy_of_a_forgotten_image_is_planted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    params, data = load_params(ROOT / "params.yaml"), settings.root / "data"
    ids = ["a" * 64, "b" * 64]
    for folder in ("manifest", "embeddings", "shards"):
        (data / folder).mkdir(parents=True)
    Manifest(
        images=pa.Table.from_pylist([{"id": one, "status": "ok"} for one in ids], schema=IMAGES),
        sources=pa.Table.from_pylist([{"id": one, "name": one, "split": "train"} for one in ids], schema=SOURCES),
        locations=LOCATIONS.empty_table(),
    ).save(data / "manifest")
    write_table(pa.table({"id": ids}), data / "embeddings" / "ids.parquet")
    np.save(data / "embeddings" / "embeddings.npy", np.eye(2, dtype=np.float32))
    write_embedder_lock(EmbedderLock("builtin", "", ""), data / "embedder.lock")
    write_forgotten(ids[:1], data / "forgotten.lock")
    planted: list[str] = []
    monkeypatch.setattr(
        "flows.thresholds.planted_pairs", lambda _, described, *__, **___: planted.extend(described.ids)
    )
    measure_pairs(params, settings, None, None, 10)
    assert planted == ids[1:]
