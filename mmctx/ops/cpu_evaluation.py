"""When forms that are faster on a CPU may stand in."""

import torch
from torch import Tensor


def is_cpu_evaluation(x: Tensor) -> bool:
    """Whether operators run on a CPU one by one and need no gradient.

    A fused or in-place form may then replace the plain one. Compilers,
    tracers and exporters see the plain one.
    """
    return x.device.type == 'cpu' and not (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled('cpu')
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch.onnx.is_in_onnx_export()
    )
