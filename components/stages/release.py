"""Stage `release`: the chosen model with its lineage and card, ready to be registered."""

from components.registry.release import ReleaseParams, ReleaseSources, assemble_release
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute

UNRELATED = {"snapshot", "drift", "retrain"}
"""Sections that no weight depends on: the source lock stands for the first. All others are params of the stage."""
SOURCES = ReleaseSources(
    teacher=paths.TEACHER,
    student=paths.STUDENT,
    manifest=paths.MANIFEST,
    dedup=paths.DEDUP,
    curated=paths.CURATED,
    metrics=paths.METRICS / "evaluate.json",
    source_lock=paths.SOURCE_LOCK,
    embedder_lock=paths.EMBEDDER_LOCK,
)


def run(params: ReleaseParams, context: StageContext) -> dict[str, float]:
    """Publishes `models/release`."""
    # what params.yaml says: defaults are in the code, on which this stage does not depend
    parameters = context.all_params.model_dump(mode="json", by_alias=True, exclude=UNRELATED, exclude_unset=True)
    with publish(paths.RELEASE) as folder:
        protocol = context.all_params.evaluate.protocol()
        return assemble_release(params, SOURCES, folder, parameters=parameters, protocol=protocol)


if __name__ == "__main__":
    execute("release", ReleaseParams, run)
