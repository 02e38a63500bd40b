"""Frozen features of teacher, student, untrained backbone and raw pixels on one split."""

from components.data.forgotten import load_usable
from components.data.shard_access import open_shards
from components.data.tables import read_table
from components.evaluation.evaluate import evaluate
from components.evaluation.report import EvaluateParams
from components.models.backbone import load_backbone
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute


def run(params: EvaluateParams, context: StageContext) -> dict[str, float]:
    """Reads models and manifest, writes reports/evaluate."""
    manifest = load_usable(paths.MANIFEST, paths.DEDUP)
    kept = read_table(paths.DEDUP / "kept.parquet")["id"].to_pylist()
    models = {"teacher": load_backbone(paths.TEACHER), "student": load_backbone(paths.STUDENT)}
    with open_shards(paths.SHARDS, manifest.locations, context.settings) as reader, publish(paths.EVALUATION) as folder:
        folder.mkdir(parents=True)
        metrics = evaluate(models, manifest, kept, reader, params, folder, device=context.settings.torch_device())
    context.run.log_artifact(paths.EVALUATION)
    return metrics


if __name__ == "__main__":
    execute("evaluate", EvaluateParams, run)
