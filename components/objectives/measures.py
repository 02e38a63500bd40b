"""Health measures of a step: is the teacher informative, are prototypes used, have features collapsed?

Those that are no means over rows look at the rows of all processes: half a batch varies in fewer directions than the
whole, and a bound on a measure must not depend on the number of processes.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from components.objectives.centring import sum_over_processes


def entropy(probabilities: Float[Tensor, "rows prototypes"]) -> Float[Tensor, ""]:
    """Mean Shannon entropy of the rows, in nats."""
    information: Tensor = torch.special.xlogy(probabilities, probabilities)
    return -information.sum(dim=-1).mean()


def prototype_usage(probabilities: Float[Tensor, "rows prototypes"]) -> Float[Tensor, ""]:
    """Perplexity of the mean assignment over the number of prototypes, in (0, 1]: 1 when all are used alike.

    A collective; every process has the same number of rows.
    """
    return usage_of_mean(probabilities.mean(dim=0))


def usage_of_mean(mean: Float[Tensor, " prototypes"]) -> Float[Tensor, ""]:
    """`prototype_usage` from the mean assignment of this process. A collective."""
    return entropy(_mean_over_processes(mean)[None]).exp() / float(len(mean))


def feature_std(features: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """Standard deviation over the batch of L2-normalised features, times the root of dim: 0 at collapse, near 1."""
    unit = F.normalize(features.float(), dim=-1)
    spread: Tensor = unit.std(dim=0, correction=0).mean()
    scale: float = features.shape[1] ** 0.5
    return spread * scale


def effective_rank(features: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """Exponential of the entropy of the centred features' singular values (Roy & Vetterli 2007).

    Not a number where a feature is none: singular values cannot be computed then, and torch would raise.
    """
    centred = features.float() - features.float().mean(dim=0)
    values = torch.linalg.svdvals(centred.nan_to_num(0.0, 0.0, 0.0))
    rank = entropy((values / values.sum().clamp(min=1e-12))[None]).exp()
    return torch.where(centred.isfinite().all(), rank, torch.nan)


def of_features(rows: Float[Tensor, "rows dim"], prefix: str = "") -> dict[str, Float[Tensor, ""]]:
    """`feature_std` and `effective_rank` of the rows of all processes, by name after the prefix. A collective."""
    features = rows_of_all_processes(rows)
    return {f"{prefix}feature_std": feature_std(features), f"{prefix}effective_rank": effective_rank(features)}


def teacher_student_cosine(student: Float[Tensor, "rows dim"], teacher: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """Mean cosine between the features of student and teacher."""
    return F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()


def rows_of_all_processes(rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "all_rows dim"]:
    """The rows of all processes, which have the same number of them, in fp32. A collective."""
    rows = rows.float().contiguous()
    if not _several_processes():
        return rows
    found = rows.new_empty(dist.get_world_size() * len(rows), rows.shape[1])
    dist.all_gather_into_tensor(found, rows)
    return found


def _mean_over_processes(value: Tensor) -> Tensor:
    return sum_over_processes(value) / dist.get_world_size() if _several_processes() else value


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
