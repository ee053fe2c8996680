"""What small networks of a supernetwork learn from its largest: in-place distillation.

All losses are means over a batch of (n, c) logits; the teacher's are taken as they are, without gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Distillation = Callable[[Tensor, Tensor], Tensor]  # student's and teacher's logits

_LARGEST_RATIO = 5.0  # keeps single classes from deciding the gradient


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence of the student from the teacher, as AttentiveNAS and once-for-all use it."""
    return F.kl_div(
        F.log_softmax(student, 1), F.log_softmax(teacher.detach(), 1), reduction="batchmean", log_target=True
    )


def adaptive_alpha(student: Tensor, teacher: Tensor) -> Tensor:
    """The larger of two alpha-divergences for each sample, as AlphaNet uses it (arXiv:2102.07954).

    alpha = -1 punishes a student that is too sure, alpha = 1 (which is KL) one that overlooks a class. The
    value is that of the divergence; the gradient is that of the published surrogate, with clipped ratios.
    Everything is computed from logarithms, so that confident networks do not make it NaN.
    """
    log_q, log_p = F.log_softmax(student.float(), 1), F.log_softmax(teacher.detach().float(), 1)
    p, q = log_p.exp(), log_q.detach().exp()
    gap = log_p - log_q.detach()
    ratio = (-gap).exp().clamp(max=_LARGEST_RATIO)  # q / p
    small = (q * (ratio - 1)).sum(1) / 2  # alpha = -1
    large = (p * gap).sum(1)  # alpha = 1
    surrogate_small = (q * ratio * log_q).sum(1)
    surrogate_large = -(p * log_q).sum(1)
    surrogate = torch.where(small > large, surrogate_small, surrogate_large)
    value = torch.maximum(small, large)
    return (surrogate - surrogate.detach() + value).mean()


DISTILLATIONS: dict[str, Distillation] = {"kl": kl, "alpha": adaptive_alpha}
