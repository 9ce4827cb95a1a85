"""Reference implementation of attention."""

from typing import Optional

from torch import Tensor


def attention_reference(
    query: Tensor, key: Tensor, value: Tensor, bias: Optional[Tensor] = None
) -> Tensor:
    """As :func:`mmctx.ops.attention`, with the matrix of weights."""
    logits = query * query.shape[-1] ** -0.5 @ key.mT
    return (logits if bias is None else logits + bias).softmax(-1) @ value
