"""What small networks of a supernetwork learn from its largest: in-place distillation.

All losses are means over a batch of (n, c) logits; the teacher's are taken as they are, without gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Distillation = Callable[[Tensor, Tensor], Tensor]  # student's and teacher's logits

_LARGEST_RATIO = 5.0  # keeps single classes from deciding the gradient
_SMALL, _LARGE = -1.0, 1.0  # alpha of the two divergences


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
    small = _divergence(gap, q, _SMALL)
    large = (p * gap).sum(1)
    ratio = (_SMALL * gap).exp().clamp(max=_LARGEST_RATIO)
    surrogate_small = -(q * ratio * log_q).sum(1) / _SMALL
    surrogate_large = -(p * log_q).sum(1)
    surrogate = torch.where(small > large, surrogate_small, surrogate_large)
    value = torch.maximum(small, large)
    return (surrogate - surrogate.detach() + value).mean()


def _divergence(gap: Tensor, q: Tensor, alpha: float) -> Tensor:
    """1 / (alpha (alpha - 1)) * sum of q ((p / q)^alpha - 1), with the same clipped ratio as the gradient."""
    ratio = (alpha * gap).exp().clamp(max=_LARGEST_RATIO)
    return (q * (ratio - 1)).sum(1) / (alpha * (alpha - 1))


DISTILLATIONS: dict[str, Distillation] = {"kl": kl, "alpha": adaptive_alpha}
