"""Efficient stochastic depth: which samples each residual branch runs on.

The branch runs on a subset of the samples and is added back with scale batch/kept (DINOv2, section 5). The subset is
drawn within fixed groups of the global batch, from the seed, the step and the group alone, so that one process and
several drop the same samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BRANCHES = 2
DEFAULT_GROUP = 16


@dataclass(frozen=True)
class DropPathRng:
    """What a draw depends on.

    Attributes:
        seed: seed of the run.
        step: optimizer step.
        first: position in the global batch of this process's first image; the images that follow are contiguous.
        images: number of images here; a tensor of crops holds views x images rows, view after view.
        group: images of one group. When it does not divide `images`, all the images here form one group: still
            correct, but the draw then depends on the number of processes.
    """

    seed: int
    step: int
    first: int
    images: int
    group: int = DEFAULT_GROUP

    @property
    def group_size(self) -> int:
        """Images in each group, here."""
        return self.group if self.images % self.group == 0 and self.first % self.group == 0 else self.images


def kept_count(samples: int, rate: float) -> int:
    """Samples of `samples` that a branch runs on: at least one, so that every process runs every module."""
    return max(int(samples * (1.0 - rate)), 1)


def draw_kept(rng: DropPathRng, rows: Sequence[int], *, depth: int, rate: float) -> list[Tensor]:
    """Draw the kept samples of every branch of every block.

    Args:
        rng: what the draw depends on.
        rows: crops of each kind (global, local, …); a multiple of `rng.images`.
        depth: number of blocks.
        rate: probability that a sample skips a branch, in [0, 1).

    Returns:
        For each kind, Long[depth, 2, kept] on the CPU: sorted row numbers for the attention and feed-forward branch.

    Raises:
        ValueError: when the rows of a kind are not a multiple of the images.
    """
    size = rng.group_size
    drawn = []
    for kind, count in enumerate(rows):
        views, rest = divmod(count, rng.images)
        if rest:
            raise ValueError(f"{count} crops of kind {kind} are not a multiple of {rng.images} images")
        members = (np.arange(views)[:, None] * rng.images + np.arange(size)[None]).reshape(-1)
        keep = kept_count(len(members), rate)
        groups = []
        for offset in range(0, rng.images, size):
            seeds = np.random.SeedSequence([rng.seed, rng.step, kind, (rng.first + offset) // size])
            noise = np.random.Generator(np.random.Philox(seeds)).random((depth, BRANCHES, len(members)))
            order = noise.argsort(axis=-1, kind="stable")[..., :keep]
            groups.append(members[order] + offset)
        drawn.append(torch.from_numpy(np.sort(np.concatenate(groups, axis=-1), axis=-1)))
    return drawn
