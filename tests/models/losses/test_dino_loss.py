"""DINO's loss is its formula, and its centre follows the teacher."""

import math

import pytest
import torch

from mmctx.models.losses import DINOLoss

VIEWS, GLOBAL_VIEWS, IMAGES, PROTOTYPES = 5, 2, 3, 7


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    student = torch.rand(VIEWS, IMAGES, PROTOTYPES, generator=generator)
    teacher = torch.rand(GLOBAL_VIEWS, IMAGES, PROTOTYPES, generator=generator)
    return 2 * student - 1, 2 * teacher - 1


def softmax(logits, temperature):
    exponents = [math.exp(x / temperature) for x in logits]
    return [e / sum(exponents) for e in exponents]


def formula(student, teacher, center):
    """Eq. 1 to 3 of the paper, one pair of views at a time."""
    terms = []
    for t in range(GLOBAL_VIEWS):
        for s in range(VIEWS):
            for i in range(IMAGES):
                if s != t:
                    target = softmax((teacher[t, i] - center).tolist(), 0.04)
                    prob = softmax(student[s, i].tolist(), 0.1)
                    terms.append(
                        -sum(p * math.log(q) for p, q in zip(target, prob))
                    )
    return sum(terms) / len(terms)


def test_is_the_formula(logits):
    loss = DINOLoss(PROTOTYPES)
    center = torch.linspace(-0.3, 0.4, PROTOTYPES)
    loss.center.copy_(center)
    expected = formula(*logits, center)
    assert loss(*logits).item() == pytest.approx(expected, rel=1e-5)
    # The batch has moved the centre for the next one.
    center = 0.9 * center + 0.1 * logits[1].mean((0, 1))
    torch.testing.assert_close(loss.center, center)
    expected = formula(*logits, center)
    assert loss(*logits).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_is_summed_in_float32(logits, dtype):
    low = [x.to(dtype) for x in logits]
    with torch.autocast('cpu', torch.bfloat16):
        result = DINOLoss(PROTOTYPES)(*low)
    assert result.dtype == torch.float32
    assert result == DINOLoss(PROTOTYPES)(*(x.float() for x in low))


def test_no_gradient_reaches_the_teacher(logits):
    student, teacher = (x.requires_grad_() for x in logits)
    DINOLoss(PROTOTYPES)(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_temperatures(logits):
    """A student equal to a teacher of its temperature pays the entropy."""
    loss = DINOLoss(PROTOTYPES, student_temp=0.5, teacher_temp=0.5)
    same = logits[1][:1].repeat(2, 1, 1)
    probs = (same[0] / 0.5).softmax(-1)
    entropy = torch.distributions.Categorical(probs).entropy().mean()
    torch.testing.assert_close(loss(same, same), entropy)
