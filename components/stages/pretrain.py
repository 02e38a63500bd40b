"""Stage `pretrain`: curated images to a teacher backbone."""

from components.settings import Settings
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute
from components.training.initial import check_asked_for, read_initial_lock
from components.training.launch import Training, TrainingInputs
from components.training.pretrain import PretrainParams

HISTORY = paths.PLOTS / "pretrain.csv"


def training(params: PretrainParams, settings: Settings) -> Training:
    """The training run that the parameters and the curated images ask for."""
    initial = read_initial_lock(paths.INITIAL_LOCK)
    check_asked_for(initial, params.initial)
    inputs = TrainingInputs(paths.LOCATIONS, paths.SHARDS, paths.CURATED, initial=initial)
    return Training("pretrain", params, inputs, settings)


def resume_key(params: PretrainParams, settings: Settings) -> str | None:
    """Tracking run to go on with."""
    return training(params, settings).resume_key()


def run(params: PretrainParams, context: StageContext) -> dict[str, float]:
    """Trains and publishes the teacher."""
    with publish(paths.TEACHER) as artifact, publish(HISTORY) as history:
        return training(params, context.settings).run(artifact=artifact, history=history, tracking=context.run.key)


def assist(params: PretrainParams, settings: Settings) -> None:
    """Trains with machine 0."""
    training(params, settings).assist()


if __name__ == "__main__":
    execute("pretrain", PretrainParams, run, resume_key=resume_key, assist=assist)
