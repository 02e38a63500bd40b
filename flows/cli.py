"""The command `selfsight`. Everything slow is imported inside the commands."""

import logging
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from components.errors import USER_ERROR_EXIT_CODE, UserError, no_space_is_a_user_error
from components.redaction import redact_text
from components.settings import get_settings

if TYPE_CHECKING:
    from components.settings import Settings

app = typer.Typer(
    name="selfsight",
    help="Turns unlabelled images into a vision backbone a team can trust, and keeps it current.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Data = Annotated[
    str | None,
    typer.Option("--data", metavar="SRC", help="folder, .tar, .parquet, video, .txt of URLs, s3://…, or scenes[?…]"),
]
Eval = Annotated[str | None, typer.Option("--eval", metavar="SRC", help="labelled images to evaluate on")]
Recipe = Annotated[str | None, typer.Option(metavar="NAME", help="a file of infra/recipes, without .yaml")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a parameter; may be given often")
]
Retries = Annotated[int, typer.Option(min=0, help="how often a stage that crashed is started again")]
Phases = Annotated[list[str] | None, typer.Argument(metavar="[PHASE]...", help="phases to make; default: all")]
Version = Annotated[str | None, typer.Argument(metavar="[VERSION]", help="default: the candidate")]

Force = Annotated[bool, typer.Option("--force", help="promote against the gate; the history keeps that")]

IMAGE = "a file, its name or URI in the source, or its SHA-256 or a prefix of it"
ImageList = Annotated[list[str] | None, typer.Argument(metavar="[IMAGE]...", help=IMAGE)]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="kept in data/forgotten.log")]
Copies = Annotated[bool, typer.Option("--copies", help="their near-copies, too, as deduplication has found them")]
Undo = Annotated[bool, typer.Option("--undo", help="let them be used again")]
List = Annotated[bool, typer.Option("--list", help="show the images that are forgotten; the default without IMAGE")]

Gpus = Annotated[int, typer.Option(min=1, help="GPUs, over all machines")]
Batch = Annotated[int | None, typer.Option(min=2, help="images of a step; default: as in the parameters")]
Images = Annotated[int | None, typer.Option(min=1, help="images to train on; default: the curated ones")]
Tflops = Annotated[
    float | None, typer.Option(min=0.1, help="matrix products of a GPU, TFLOP/s; default: measured, or assumed")
]
Utilisation = Annotated[float, typer.Option(min=0.01, max=1.0, help="share of that rate which training reaches")]
GpuMemory = Annotated[float | None, typer.Option("--memory", min=0.1, help="memory of a GPU, GiB; default: asked")]
Distill = Annotated[bool, typer.Option("--distill", help="plan the stage distill instead of pretrain")]
Parameters = Annotated[bool, typer.Option("--parameters", help="list every parameter with its value and meaning")]
MeasureOption = Annotated[
    Literal["agreement", "cosine"] | None, typer.Option("--measure", help="default: dedup.measure of params.yaml")
]


@app.command()
def run(
    phases: Phases = None,
    data: Data = None,
    eval_: Eval = None,
    recipe: Recipe = None,
    set_: Set = None,
    retries: Retries = 1,
) -> None:
    """Run the pipeline: a snapshot of the source, then every stage that is not up to date.

    --data, --eval, --recipe and --set change params.yaml and show the difference.
    """
    from flows.params_edit import Request
    from flows.run import run as run_pipeline

    request = Request(data, eval_, recipe, tuple(set_ or ()))
    run_pipeline(get_settings(), phases or [], request, retries=retries)


@app.command()
def snapshot(data: Data = None, eval_: Eval = None) -> None:
    """Record what the source holds now, in data/source.lock, and which embedder is used."""
    from flows.exclusion import sole_pipeline
    from flows.params_edit import Request
    from flows.run import change_parameters, take_snapshot

    settings = _settings()
    with sole_pipeline(settings.root):
        change_parameters(settings, Request(data, eval_))
        take_snapshot(settings, always=True)


@app.command()
def doctor(parameters: Parameters = False) -> None:
    """Check the machine, the experiment and the services; each problem comes with a remedy."""
    from flows.doctor import all_checks

    if parameters:
        _show_parameters(get_settings())
        return
    failed = False
    for check in all_checks(get_settings()):
        remedy = f"  → {check.remedy}" if check.level != "ok" and check.remedy else ""
        typer.echo(f"{check.level:<5} {check.name:<14} {check.detail}{remedy}")
        failed = failed or check.level == "fail"
    if failed:
        raise typer.Exit(USER_ERROR_EXIT_CODE)


def _show_parameters(settings: "Settings") -> None:
    from components.stages import paths
    from components.stages.params import load_params
    from flows.parameter_help import describe_parameters

    for key, value, description in describe_parameters(load_params(settings.root / paths.PARAMS)):
        typer.echo(f"{key} = {value}\n    {description}")


@app.command()
def plan(
    recipe: Recipe = None,
    gpus: Gpus = 1,
    batch: Batch = None,
    images: Images = None,
    set_: Set = None,
    tflops: Tflops = None,
    utilisation: Utilisation = 0.5,
    memory: GpuMemory = None,
    distill: Distill = False,
) -> None:
    """Show what training needs: weights, FLOPs, memory of a GPU, time. Nothing is written or started."""
    from components.training.planning.report import report
    from flows.params_edit import Request
    from flows.plan import Question, make_plan

    question = Question(
        "distill" if distill else "pretrain",
        Request(recipe=recipe, overrides=tuple(set_ or ())),
        gpus=gpus, batch=batch, images=images, tflops=tflops, utilisation=utilisation, memory=memory,
    )  # fmt: skip
    typer.echo(report(make_plan(question, get_settings())))


@app.command()
def status() -> None:
    """Show what is up to date, what ran last, and what is registered."""
    from flows.status import last_run, registered_versions, stage_statuses

    settings = _settings()
    for stage in stage_statuses(settings.root):
        typer.echo(f"{stage.phase:<10} {stage.stage:<10} {stage.detail}")
    try:
        typer.echo(f"last run   {last_run(settings) or 'none'}")
        versions = registered_versions(settings)
        for alias in ("candidate", "champion"):
            number = versions.get(alias)
            typer.echo(f"{alias:<10} " + (f"{settings.model_name} version {number}" if number else "none"))
    except Exception as error:  # MLflow may fail in any way, and what DVC knows stays true
        typer.echo(f"MLflow does not answer ({type(error).__name__})")


@app.command()
def retrain(retries: Retries = 1) -> None:
    """Look for new images; if there are any: the pipeline, the gate, the promotion, the push."""
    from flows.run import retrain_once

    retrain_once(get_settings(), retries=retries)


@app.command()
def drift() -> None:
    """Compare what the source holds now with the champion's images, in the champion's eyes; trains nothing."""
    from flows.drift import drift_now
    from flows.run import signals_unwind
    from flows.terminal import own_terminal

    settings = _settings()
    with own_terminal() as terminal, signals_unwind():
        decision = drift_now(settings, terminal.show)
    typer.echo("\n".join(decision.lines()))


@app.command("serve-flows")
def serve_flows() -> None:
    """Run `retrain` on the schedule of params.yaml, one at a time, until stopped."""
    from flows.deployments import serve_retrain

    serve_retrain(get_settings())


@app.command()
def promote(version: Version = None, force: Force = False) -> None:
    """Make a registered version the champion, if it passes the gate."""
    from components.stages import paths
    from components.stages.params import load_params
    from flows.promotion import promote_version

    settings = _settings()
    params = load_params(settings.root / paths.PARAMS)
    typer.echo(promote_version(params, settings, version, force=force))


@app.command()
def rollback() -> None:
    """Make the champion before this one the champion again."""
    from flows.promotion import roll_back

    typer.echo(roll_back(_settings()))


@app.command()
def forget(
    images: ImageList = None, reason: Reason = "", copies: Copies = False, undo: Undo = False, list_: List = False
) -> None:
    """Mark images as never to be used; the next run leaves them out. Shows which versions have seen them."""
    from flows.takedown import forget as forget_images
    from flows.takedown import forgotten_lines

    if list_ and (images or undo or copies):
        raise UserError("--list takes nothing else", remedy="leave it out, or leave out the rest")
    if not images and (undo or copies):
        raise UserError("no image is given", remedy="`selfsight forget --list` shows which are forgotten")
    settings = _settings()
    if not images:
        lines = forgotten_lines(settings)
    else:
        lines = forget_images(images, settings, reason=reason, copies=copies, undo=undo)
    typer.echo("\n".join(lines))


@app.command("who-saw")
def who_saw(image: Annotated[str, typer.Argument(metavar="IMAGE", help=IMAGE)]) -> None:
    """Show which registered versions were trained on an image, or began with weights that were."""
    from flows.explanation import who_saw_lines

    typer.echo("\n".join(who_saw_lines(image, _settings())))


@app.command()
def explain(
    uri: Annotated[str, typer.Argument(metavar="URI", help="models:/NAME@ALIAS or models:/NAME/VERSION")],
    images: Annotated[bool, typer.Option("--images", help="list every image that it was trained on instead")] = False,
) -> None:
    """Show what a registered version was made from: commit, data, counts, parameters."""
    from flows.explanation import explain_lines, image_lines

    typer.echo("\n".join((image_lines if images else explain_lines)(uri, _settings())))


@app.command()
def push() -> None:
    """Send every out of the pipeline to the shared bucket."""
    _transfer("push")


@app.command()
def pull() -> None:
    """Fetch every out of the checked-out commit from the shared bucket."""
    _transfer("pull")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="a backbone: folder, .pth, .safetensors, models:/… or s3://…")],
    target: Annotated[Path, typer.Argument(help="file or folder to make")],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="artifact, official, huggingface, timm or onnx")],
    heads: Annotated[int | None, typer.Option(help="attention heads, where the source does not say")] = None,
    interpolation: Annotated[
        str | None, typer.Option(metavar="RULE", help="of the position embedding: dinov2, antialias or size")
    ] = None,
) -> None:
    """Write a backbone in another format, with what gets lost there."""
    from flows.conversion import convert as convert_weights

    for note in convert_weights(source, target, to, {"heads": heads, "interpolation": interpolation}):
        typer.echo(f"note: {note}")
    typer.echo(f"wrote {target}")


@app.command()
def thresholds(
    measure: MeasureOption = None,
    pairs: Annotated[
        Path | None, typer.Option(metavar="CSV", help="labelled pairs: first,second,same; default: planted copies")
    ] = None,
    images: Annotated[int, typer.Option(min=10, help="images that copies are planted of")] = 500,
    precision: Annotated[float, typer.Option(min=0.5, max=1.0, help="wanted share of true copies")] = 0.99,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="where table and picture go")] = Path(
        "reports/thresholds"
    ),
) -> None:
    """Show what thresholds of deduplication let through and miss, on the images of the last `selfsight run`."""
    from components.stages import paths
    from components.stages.params import load_params
    from flows.thresholds import measure_pairs, write_report

    settings = _settings()
    params = load_params(settings.root / paths.PARAMS)
    for line in write_report(*measure_pairs(params, settings, measure, pairs, images), precision, out):
        typer.echo(line)


def _transfer(direction: Literal["push", "pull"]) -> None:
    from flows.sharing import transfer
    from flows.terminal import Terminal

    settings = _settings()
    terminal = Terminal(sys.stderr)
    transfer(direction, settings, terminal.show)


def _settings() -> "Settings":
    """The settings, once it is known that this is the project."""
    from flows.preflight import PROJECT, preflight

    settings = get_settings()
    preflight(settings, PROJECT)
    return settings


def main() -> None:
    """Entry point: what a user can mend is one line and exit code 2, without a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        with no_space_is_a_user_error("working"):
            app(prog_name=Path(sys.argv[0]).name)
    except UserError as error:
        sys.stderr.write(f"selfsight: {error}\n")
        sys.exit(USER_ERROR_EXIT_CODE)
    except Exception as error:
        code = _stage_code(error)
        shown = traceback.format_exc() if code is None else f"selfsight: {error}\n"
        sys.stderr.write(redact_text(shown))
        sys.exit(1 if code is None else code)


def _stage_code(error: Exception) -> int | None:
    """The stage's own exit code, if it is a stage that failed; its traceback, if any, has been shown already."""
    if "flows.repro" not in sys.modules:
        return None
    from flows.repro import StageError

    return error.code if isinstance(error, StageError) else None


if __name__ == "__main__":
    main()
