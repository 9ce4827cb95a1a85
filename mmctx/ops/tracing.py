"""Who records the operators of a network."""

import torch


def is_exporting() -> bool:
    """Whether an exporter does, which knows PyTorch's own operators only.

    A compiler takes an operator of ours as it is, and is faster for it.
    ``torch.compiler.is_exporting`` says True to both.
    """
    compiler = torch.compiler
    return (
        torch.onnx.is_in_onnx_export()
        or torch.jit.is_tracing()
        or (compiler.is_compiling() and not compiler.is_dynamo_compiling())
    )
