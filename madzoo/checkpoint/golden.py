"""Golden tensors: a fixed input, the output it must give, and how far an answer may be from it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from madzoo.checkpoint.weights import read_metadata, read_weights, write_weights
from madzoo.errors import CheckpointError

__all__ = ["TOLERANCE", "Golden", "read_golden", "replay_golden", "write_golden"]

TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """Holds what a model answered when its weights were written.

    Attributes:
        input: the fixed input; NaN where a forecaster's values are missing.
        output: the answer in evaluation mode.
        tolerance: the largest allowed difference, relative to the largest absolute output.
        weights_sha256: of the weight file that gave the answer.
    """

    input: Tensor
    output: Tensor
    tolerance: float
    weights_sha256: str


def write_golden(
    path: Path, input: Tensor, output: Tensor, *, weights_sha256: str, tolerance: float = TOLERANCE
) -> None:
    """Writes ``golden.safetensors`` atomically.

    Raises:
        CheckpointError: when the output is not finite, so that no replay could confirm it.
    """
    if not output.numel() or not torch.isfinite(output).all():
        raise CheckpointError(
            "a golden output must be finite and not empty.", asked=path, todo="another input, or other weights"
        )
    metadata = {"tolerance": repr(tolerance), "weights_sha256": weights_sha256}
    write_weights(path, {"input": input, "output": output}, metadata=metadata)


def read_golden(path: Path) -> Golden:
    """Reads ``golden.safetensors``.

    Raises:
        CheckpointError: when the file is missing, damaged, or holds something else.
    """
    tensors, metadata = read_weights(path), read_metadata(path)
    try:
        tolerance = float(metadata["tolerance"])
        sha256 = metadata["weights_sha256"]
        return Golden(input=tensors["input"], output=tensors["output"], tolerance=tolerance, weights_sha256=sha256)
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} holds no golden tensors: {error} is missing or unreadable.",
            asked=path,
            resolved="tensors input and output, metadata tolerance and weights_sha256",
            todo="load with verify=False, or write the folder again",
        ) from error


def replay_golden(answer: Callable[[Tensor], Tensor], path: Path, *, weights_sha256: str | None = None) -> float:
    """Gives the golden input to ``answer`` and returns the relative difference from the golden output.

    Args:
        answer: the model in evaluation mode, or any function from input to output.
        path: ``golden.safetensors``.
        weights_sha256: of the weights in use; None: not compared.

    Raises:
        CheckpointError: when the answer differs by more than the tolerance, in shape, or belongs to other weights.
    """
    golden = read_golden(path)
    if weights_sha256 not in (None, golden.weights_sha256):
        raise _refused(path, f"belongs to other weights (sha256 {golden.weights_sha256}, not {weights_sha256})")
    output = answer(golden.input)
    if not isinstance(output, Tensor) or output.shape != golden.output.shape:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise _refused(path, f"was not repeated: answer {found} instead of shape {tuple(golden.output.shape)}")
    expected = golden.output.to(torch.float64)
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    difference = (output.detach().cpu().to(torch.float64) - expected).abs().max() / scale
    if not difference <= golden.tolerance:  # NaN is refused, too
        raise _refused(path, f"was not repeated: relative difference {difference:.2e} > {golden.tolerance:.0e}")
    return difference.item()


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"the golden output of {path} {why}.",
        asked="verify=True",
        looked=path,
        todo="fetch the checkpoint again; if it persists, this machine computes something else: please report it",
    )
