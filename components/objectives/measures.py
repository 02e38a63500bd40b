"""Health measures of a step: is the teacher informative, are prototypes used, have features collapsed?"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def entropy(probabilities: Float[Tensor, "rows prototypes"]) -> Float[Tensor, ""]:
    """Mean Shannon entropy of the rows, in nats."""
    information: Tensor = torch.special.xlogy(probabilities, probabilities)
    return -information.sum(dim=-1).mean()


def prototype_usage(probabilities: Float[Tensor, "rows prototypes"]) -> Float[Tensor, ""]:
    """Perplexity of the mean assignment over the number of prototypes, in (0, 1]: 1 when all are used alike."""
    mean = probabilities.mean(dim=0, keepdim=True)
    return entropy(mean).exp() / float(probabilities.shape[1])


def feature_std(features: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """Standard deviation over the batch of L2-normalised features, times the root of dim: 0 at collapse, near 1."""
    unit = F.normalize(features.float(), dim=-1)
    spread: Tensor = unit.std(dim=0, correction=0).mean()
    scale: float = features.shape[1] ** 0.5
    return spread * scale


def effective_rank(features: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """Exponential of the entropy of the centred features' singular values (Roy & Vetterli 2007)."""
    values = torch.linalg.svdvals(features.float() - features.float().mean(dim=0))
    return entropy((values / values.sum().clamp(min=1e-12))[None]).exp()


def teacher_student_cosine(student: Float[Tensor, "rows dim"], teacher: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """Mean cosine between the features of student and teacher."""
    return F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()
