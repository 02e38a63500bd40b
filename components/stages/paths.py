"""Where each stage's dependencies and outs are, relative to the root of the project."""

from pathlib import Path

PARAMS = Path("params.yaml")
SOURCE_LOCK = Path("data/source.lock")
REMOVED = Path("data/source.removed")
EMBEDDER_LOCK = Path("data/embedder.lock")
INITIAL_LOCK = Path("data/initial.lock")
FORGOTTEN_LOCK = Path("data/forgotten.lock")
FORGOTTEN_LOG = Path("data/forgotten.log")

MANIFEST = Path("data/manifest")
LOCATIONS = MANIFEST / "locations.parquet"
SHARDS = Path("data/shards")
VALIDATION = Path("data/validation")
EMBEDDINGS = Path("data/embeddings")
DEDUP = Path("data/dedup")
RETRIEVAL = Path("data/retrieval")
CURATED = Path("data/curated")
AUDIT = Path("data/audit")

TEACHER = Path("models/teacher")
STUDENT = Path("models/student")
RELEASE = Path("models/release")

CURATION = Path("reports/curation")
EVALUATION = Path("reports/evaluate")
PLOTS = Path("plots")
METRICS = Path("metrics")
RUNS = Path("runs")
