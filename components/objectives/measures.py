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
    """Standard deviation over the batch of L2-normalised features, times the root of dim: 0 at collapse, near 1.

    A collective; every process has the same number of rows.
    """
    unit = F.normalize(features.float(), dim=-1).double()
    mean, square = _mean_over_processes(torch.stack([unit.mean(dim=0), unit.square().mean(dim=0)]))
    spread: Tensor = (square - mean.square()).clamp(min=0.0).sqrt().mean()
    scale: float = features.shape[1] ** 0.5
    return (spread * scale).float()


def effective_rank(features: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """Exponential of the entropy of the centred features' singular values (Roy & Vetterli 2007).

    They are the roots of the eigenvalues of a matrix of dim x dim, whatever the number of rows and processes. Not a
    number where a feature is none: eigenvalues cannot be computed then, and torch would raise.

    A collective; every process has the same number of rows.
    """
    rows = features.double()
    centred = rows - _mean_over_processes(rows.mean(dim=0))
    products = _mean_over_processes(centred.mT @ centred)
    found = torch.linalg.eigvalsh(products.nan_to_num(0.0, 0.0, 0.0))
    # what rounding leaves of a direction that there is not; its root would count
    found = torch.where(found > found[-1] * len(found) * torch.finfo(found.dtype).eps, found, 0.0)
    values = found.sqrt()
    rank = entropy((values / values.sum().clamp(min=1e-12))[None]).exp()
    return torch.where(products.isfinite().all(), rank, torch.nan).float()


def of_features(rows: Float[Tensor, "rows dim"], prefix: str = "") -> dict[str, Float[Tensor, ""]]:
    """`feature_std` and `effective_rank` of the rows of all processes, by name after the prefix. A collective."""
    return {f"{prefix}feature_std": feature_std(rows), f"{prefix}effective_rank": effective_rank(rows)}


def teacher_student_cosine(student: Float[Tensor, "rows dim"], teacher: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """Mean cosine between the features of student and teacher."""
    return F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()


def _mean_over_processes(value: Tensor) -> Tensor:
    return sum_over_processes(value) / dist.get_world_size() if _several_processes() else value


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
