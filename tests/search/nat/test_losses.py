"""Distillation: values that can be worked out by hand, gradients as published, and no NaN."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from encas.search.nat.losses import DISTILLATIONS, adaptive_alpha, kl


def logits(probs: list[list[float]]) -> Tensor:
    return torch.tensor(probs, dtype=torch.float64).log()


def test_kl_is_the_sum_of_p_log_p_over_q() -> None:
    value = kl(logits([[0.5, 0.5]]), logits([[0.25, 0.75]]))
    assert float(value) == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5))


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_there_is_nothing_to_learn_from_an_equal_teacher(name: str) -> None:
    student = torch.randn(4, 5, requires_grad=True, generator=torch.Generator().manual_seed(0))
    loss = DISTILLATIONS[name](student, student.detach().clone())
    torch.autograd.backward(loss)
    assert student.grad is not None
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert float(student.grad.abs().max()) < 1e-6


def test_a_student_that_overlooks_a_class_is_told_by_kl() -> None:
    student, teacher = logits([[0.999, 0.001]]), logits([[0.5, 0.5]])
    assert float(adaptive_alpha(student, teacher)) == pytest.approx(float(kl(student, teacher)), rel=1e-5)


def test_a_student_that_is_too_broad_is_told_by_the_other_divergence() -> None:
    # alpha = -1: (sum of q^2 / p - 1) / 2, here with a ratio q / p of 0.5 / 0.25 and 0.5 / 0.75.
    student, teacher = logits([[0.5, 0.5]]), logits([[0.25, 0.75]])
    assert float(adaptive_alpha(student, teacher)) == pytest.approx((0.5 * 2 + 0.5 * 2 / 3 - 1) / 2, rel=1e-5)


def naive_surrogate(student: Tensor, teacher: Tensor) -> Tensor:
    """As it is published, from probabilities; the sample's larger divergence decides."""
    p, q = F.softmax(teacher, 1), F.softmax(student, 1)
    fixed = q.detach()
    small = (fixed * ((fixed / p).clamp(max=5) - 1)).sum(1) / 2
    large = (p * (p / fixed).log()).sum(1)
    by_small = (fixed * (fixed / p).clamp(max=5) * q.log()).sum(1)
    by_large = -(fixed * (p / fixed) * q.log()).sum(1)
    return torch.where(small > large, by_small, by_large).mean()


def test_gradients_are_those_of_the_published_surrogate() -> None:
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(64, 10, dtype=torch.float64, generator=generator) * 3
    teacher = torch.randn(64, 10, dtype=torch.float64, generator=generator) * 3
    found = []
    for loss in (adaptive_alpha, naive_surrogate):
        leaf = student.clone().requires_grad_()
        torch.autograd.backward(loss(leaf, teacher))
        assert leaf.grad is not None
        found.append(leaf.grad)
    assert torch.allclose(found[0], found[1], atol=1e-7)


@pytest.mark.parametrize("name", DISTILLATIONS)
@pytest.mark.parametrize("gap", [120.0, -120.0, 1e4])
def test_a_gap_of_120_between_logits_is_no_nan(name: str, gap: float) -> None:
    student = torch.tensor([[gap, 0.0], [0.0, gap]], requires_grad=True)
    loss = DISTILLATIONS[name](student, torch.tensor([[0.0, gap], [0.0, gap]]))
    torch.autograd.backward(loss)
    assert student.grad is not None
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(student.grad).all())
