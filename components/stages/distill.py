"""Stage `distill`: the teacher and the curated images to a smaller backbone."""

from components.settings import Settings
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute
from components.training.distill import DistillParams
from components.training.launch import Training, TrainingInputs

HISTORY = paths.PLOTS / "distill.csv"


def training(params: DistillParams, settings: Settings) -> Training:
    """The training run that the parameters and the curated images ask for."""
    inputs = TrainingInputs(paths.LOCATIONS, paths.SHARDS, paths.CURATED, paths.TEACHER)
    return Training("distill", params, inputs, settings)


def resume_key(params: DistillParams, settings: Settings) -> str | None:
    """Tracking run to go on with."""
    return training(params, settings).resume_key()


def run(params: DistillParams, context: StageContext) -> dict[str, float]:
    """Trains and publishes the student."""
    with publish(paths.STUDENT) as artifact, publish(HISTORY) as history:
        return training(params, context.settings).run(artifact=artifact, history=history, tracking=context.run.key)


def assist(params: DistillParams, settings: Settings) -> None:
    """Trains with machine 0."""
    training(params, settings).assist()


if __name__ == "__main__":
    execute("distill", DistillParams, run, resume_key=resume_key, assist=assist)
