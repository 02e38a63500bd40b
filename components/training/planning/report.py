"""A plan as text."""

from dataclasses import asdict

from components.training.planning.flops import run_flops
from components.training.planning.plan import TERA, Plan
from components.training.planning.workload import Workload

GIB = 2**30
MINUTE, HOUR, DAY = 60, 3600, 86400
PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "averages": "averages (EMA)",
    "activations": "activations",
    "heads": "heads and logits",
    "crops": "crops",
}


def report(plan: Plan) -> str:
    """The plan, section by section."""
    sections = (_what(plan), _parameters(plan), _flops(plan), _memory(plan), _time(plan), _warnings(plan))
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _what(plan: Plan) -> list[str]:
    params, machines = plan.params, plan.machines
    engine, model = params.engine, params.model
    kinds = ", then ".join(_crops(work) for work in plan.workloads)
    return [
        f"{plan.stage} {model.name}: width {model.width}, depth {model.depth}, heads {model.heads}, "
        f"patch {model.patch_size}, {model.ffn}; crops {kinds} pixels",
        f"{machines.gpus} GPU(s), ZeRO-{engine.zero_stage}, {engine.precision}; a step of {params.batch_size} images = "
        f"{machines.gpus} GPU(s) x {plan.micro_batches} forward pass(es) x {plan.images} images",
        f"learning rate {plan.peak_lr:.3g} after the warm-up, scaled to this batch",
    ]


def _crops(work: Workload) -> str:
    return " + ".join(f"{kind.views} x {kind.size}" for kind in work.student.crops)


def _parameters(plan: Plan) -> list[str]:
    found = [
        _row(f"{branch} {part.replace('_', ' ')}", f"{count / 1e6:10.1f}")
        for (branch, part), count in plan.inventory.parts.items()
    ]
    inventory = plan.inventory
    return [
        "parameters (millions)",
        *found,
        _row("trained, frozen", f"{inventory.trained / 1e6:10.1f}, {inventory.frozen / 1e6:.1f}"),
    ]


def _flops(plan: Plan) -> list[str]:
    flops, batch = plan.model_flops, plan.params.batch_size
    return [
        "FLOPs of a step (1e12): all crops at full depth, student forward and backward, teacher forward",
        _row("student backbone", f"{flops.backbone * batch / TERA:10.1f}"),
        _row("teacher backbone", f"{flops.teacher * batch / TERA:10.1f}"),
        _row("heads of both", f"{flops.heads * batch / TERA:10.1f}"),
        _row("sum", f"{flops.total * batch / TERA:10.1f}"),
        _row(
            "of which are run",
            f"{plan.run_flops.total * batch / TERA:10.1f}  (stochastic depth, last block, recomputation)",
        ),
        *(
            _row("in the last phase", f"{run_flops(work).total * batch / TERA:10.1f}  are run, crops {_crops(work)}")
            for work in plan.workloads[1:]
        ),
    ]


def _memory(plan: Plan) -> list[str]:
    rows = [_row(PARTS[name], f"{size / GIB:10.2f}") for name, size in asdict(plan.memory).items()]
    total = _row("sum", f"{plan.memory.total / GIB:10.2f}  of {plan.machines.memory / GIB:.0f}")
    return ["memory of a GPU (GiB), beside the CUDA context", *rows, total]


def _time(plan: Plan) -> list[str]:
    machines = plan.machines
    known = "measured here" if machines.measured else "assumed: --tflops for another"
    lines = [
        "time, without communication and loading",
        _row("rate of a GPU", f"{machines.tflops:10.1f}  TFLOP/s of matrix products, {known}"),
        _row("of it used", f"{machines.utilisation:10.0%}  --utilisation for another"),
        _row("images/s", ", then ".join(f"{rate:10.0f}" for rate in plan.images_per_second)),
    ]
    if plan.steps is None or plan.seconds is None:
        return [*lines, _row("to finish", "not known: the recipe counts epochs, give --images")]
    seen = f"{plan.steps} steps, {plan.steps * plan.params.batch_size / 1e6:.1f} million images"
    epochs = f" = {plan.steps * plan.params.batch_size / plan.dataset:.1f} epochs" if plan.dataset else ""
    return [
        *lines,
        _row("to finish", f"{_duration(plan.seconds):>10}  {seen}{epochs}"),
        _row("GPU hours", f"{plan.seconds * machines.gpus / HOUR:10.1f}"),
    ]


def _warnings(plan: Plan) -> list[str]:
    return [f"warning: {text}" for text in plan.warnings]


def _row(name: str, value: str) -> str:
    return f"  {name:<22}{value}"


def _duration(seconds: float) -> str:
    for unit, size in (("d", DAY), ("h", HOUR), ("min", MINUTE)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
