"""Says when a program is being written for ONNX, which has no scan of ours and no complex exponential."""

import torch

__all__ = ["is_onnx_export"]


def is_onnx_export() -> bool:
    """Returns whether ``torch.onnx.export(..., dynamo=True)`` is tracing the caller."""
    # The second question imports the exporter, so it is asked only of programs that are being exported at all.
    return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()
