"""Where each stage's dependencies and outs are, relative to the root of the project."""

from pathlib import Path

PARAMS = Path("params.yaml")
SOURCE_LOCK = Path("data/source.lock")
EMBEDDER_LOCK = Path("data/embedder.lock")
INITIAL_LOCK = Path("data/initial.lock")

MANIFEST = Path("data/manifest")
LOCATIONS = MANIFEST / "locations.parquet"
SHARDS = Path("data/shards")
VALIDATION = Path("data/validation")
EMBEDDINGS = Path("data/embeddings")
DEDUP = Path("data/dedup")
CURATED = Path("data/curated")

TEACHER = Path("models/teacher")
STUDENT = Path("models/student")
RELEASE = Path("models/release")

EVALUATION = Path("reports/evaluate")
PLOTS = Path("plots")
METRICS = Path("metrics")
RUNS = Path("runs")
