"""Cross entropy between a student's and a teacher's views."""

import mmengine.dist as dist
import torch
from mmengine.model import BaseModule
from torch import Tensor

from mmctx.registry import MODELS, register


@register(MODELS)
class DINOLoss(BaseModule):
    """Cross entropy of the student under a centred, sharpened teacher.

    For each teacher view and each *other* student view of an image:
    -sum_k P_t(k) log P_s(k), with P_t the softmax of the teacher's logits
    minus their centre over ``teacher_temp`` and P_s that of the student's over
    ``student_temp``; averaged over pairs of views and images (Eq. 1 to 3). The
    centre is a moving average of the teacher's mean logits over all processes
    (Eq. 4); a batch is compared before it moves the centre.

    Source: `Emerging Properties in Self-Supervised Vision Transformers
    <https://arxiv.org/abs/2104.14294>`_, Sec. 3.1.

    Args:
        num_prototypes (int): Number of logits K.
        student_temp (float): Temperature of the student. Defaults to 0.1.
        teacher_temp (float): Temperature of the teacher. Defaults to 0.04.
        center_momentum (float): Share of the centre that a step keeps.
            Defaults to 0.9.
    """

    def __init__(
        self,
        num_prototypes: int,
        student_temp: float = 0.1,
        teacher_temp: float = 0.04,
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.student_temp = student_temp
        self.teacher_temp = teacher_temp
        self.center_momentum = center_momentum
        self.register_buffer('center', torch.zeros(num_prototypes))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss, in float32 whatever the dtype of the logits.

        Args:
            student (Tensor): Logits (V, N, K) of V views of N images.
            teacher (Tensor): Logits (G, N, K) of the first G of them, V > 1.
        """
        teacher = teacher.detach().float()
        targets = ((teacher - self.center) / self.teacher_temp).softmax(-1)
        log_probs = (student.float() / self.student_temp).log_softmax(-1)
        self._update_center(teacher)
        # For each teacher view, the sum over all other student views.
        others = log_probs.sum(0) - log_probs[: len(targets)]
        pairs = len(targets) * (len(log_probs) - 1)
        return -(targets * others).sum() / (pairs * targets.shape[1])

    @torch.no_grad()
    def _update_center(self, teacher: Tensor) -> None:
        mean = teacher.mean(dim=(0, 1))
        dist.all_reduce(mean, op='mean')
        self.center.lerp_(mean, 1 - self.center_momentum)
