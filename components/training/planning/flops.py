"""Floating-point operations of a step; a multiplication and an addition are two.

*Model FLOPs* are those of the mathematics: every crop at full depth, student forward and backward, teacher and heads;
they are what one divides by time to compare systems. *Run FLOPs* are what this code does: stochastic depth leaves crops
out, the last block goes on with the tokens that are read out, and activation checkpointing runs each block once more.
"""

import itertools
from dataclasses import dataclass

from components.objectives.branch import HeadParams
from components.training.planning.workload import BranchWork, Workload

MATRICES_PER_FFN = {"mlp": 2, "swiglu": 3}


@dataclass(frozen=True)
class Flops:
    """FLOPs of one image.

    Attributes:
        backbone: of the student, forward and backward.
        teacher: its backbone, forward.
        heads: of both.
    """

    backbone: float
    teacher: float
    heads: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.backbone + self.teacher + self.heads


def model_flops(workload: Workload) -> Flops:
    """FLOPs of the mathematics."""
    return _flops(workload, run=False)


def run_flops(workload: Workload) -> Flops:
    """FLOPs of what is run."""
    return _flops(workload, run=True)


def _flops(workload: Workload, *, run: bool) -> Flops:
    student, teacher = workload.student, workload.teacher
    blocks = _blocks(student, run=run)
    heads = 3 * _heads(student) + _heads(teacher)
    passes = 4 if run and student.recompute else 3
    return Flops(
        # backward, a layer costs its forward twice: for its input and its weights; images want no gradient
        backbone=2.0 * (2 * _patch_embedding(student) + passes * blocks),
        teacher=2.0 * (_patch_embedding(teacher) + _blocks(teacher, run=run)),
        heads=2.0 * heads,
    )


def _patch_embedding(work: BranchWork) -> float:
    """Multiplications of one image."""
    model = work.model
    return float(work.patches * model.channels * model.patch_size**2 * model.width)


def _blocks(work: BranchWork, *, run: bool) -> float:
    """Multiplications of one image in all blocks, forward."""
    width = work.model.width
    qkv = 3.0 * width**2
    others = width**2 + MATRICES_PER_FFN[work.model.ffn] * width * work.hidden
    attention = 2.0 * width * work.pairs
    whole = work.rows * (qkv + others) + attention
    if not run:
        return work.model.depth * whole
    last = work.rows * qkv + attention + work.read_out * others
    return (work.model.depth - 1) * work.kept * whole + last


def _heads(work: BranchWork) -> float:
    """Multiplications of one image in all heads, forward."""
    return sum(rows * _head(work.model.width, head) for head, rows in work.head_rows())


def _head(width: int, head: HeadParams) -> float:
    widths = [width] + [head.hidden] * (head.layers - 1) + [head.bottleneck]
    layers = sum(before * after for before, after in itertools.pairwise(widths))
    return float(layers + head.bottleneck * head.prototypes)
