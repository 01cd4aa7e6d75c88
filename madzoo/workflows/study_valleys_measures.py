"""What is measured of a network that has (nearly) fitted its pictures: flatness, dimension, what rounding costs."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from madzoo.geometry.hessian import hessian_vector_product
from madzoo.geometry.lanczos import extreme_eigenpairs
from madzoo.geometry.rank import measure_spectrum
from madzoo.quantization.plan import make_plan
from madzoo.quantization.quantized import load_quantized, quantize_weights
from madzoo.workflows.study_valleys_networks import Pictures, half_square

__all__ = ["accuracy", "fitted_loss", "largest_eigenvalue", "measure"]

OBSERVER = "mse"  # scales by least squares
CLEAR = 1e-3  # of the largest singular value: directions that float32 and rounding can still tell from nothing


@torch.no_grad()
def fitted_loss(model: nn.Module, data: Pictures) -> float:
    """Returns the loss on the fitted pictures."""
    return half_square(model(data.train), data.targets).item()


@torch.no_grad()
def accuracy(model: nn.Module, data: Pictures) -> float:
    """Returns the share of test pictures whose largest answer is the label's."""
    return (model(data.test).argmax(-1) == data.labels).double().mean().item()


def largest_eigenvalue(model: nn.Module, data: Pictures) -> dict[str, float]:
    """Returns the largest eigenvalue of the Hessian of the fitted loss, in float64, with its residual."""
    H = hessian_vector_product(model, (data.train, data.targets), half_square)
    found = extreme_eigenpairs(H, H.num_params, seed=0, tolerance=1e-3, max_products=60).largest
    return {"lambda_max": found.value, "residual": found.residual}


def measure(model: nn.Module, data: Pictures, bits: Sequence[int], *, whole: bool = False) -> dict[str, Any]:
    """Measures flatness, rank on the fitted pictures, and rounding; the model is left as it is.

    Args:
        model: in any mode; nothing in it depends on it.
        data: see :class:`Pictures`.
        bits: of rounding after training.
        whole: measures the local dimension of the whole network too, on the unseen pictures.

    Returns:
        ``loss``, ``accuracy``; ``lambda_max``, ``residual``; ``trace``: of J^T J / n, the Hessian's where the loss is
        0; ``sigma_max_squared``: the largest eigenvalue of J^T J / n; ``rank``, ``clear_rank`` (singular values above
        1e-3 of the largest), ``rows``; ``rounded``: by bits, the loss and the accuracy; ``dimension``,
        ``clear_dimension``, ``dimension_rows`` where ``whole``.
    """
    found, sigma = measure_spectrum(model, data.train)
    n = len(data.train)
    result: dict[str, Any] = {"loss": fitted_loss(model, data), "accuracy": accuracy(model, data)}
    result |= largest_eigenvalue(model, data)
    result |= {"trace": sigma.square().sum().item() / n, "sigma_max_squared": sigma[0].item() ** 2 / n}
    result |= {"rank": found.rank, "clear_rank": int((sigma > CLEAR * sigma[0]).sum()), "rows": found.rows}
    result["rounded"] = [_rounded(model, data, b) for b in bits]
    if whole:
        found, sigma = measure_spectrum(model, data.fresh)
        clear = int((sigma > CLEAR * sigma[0]).sum())
        result |= {"dimension": found.rank, "clear_dimension": clear, "dimension_rows": found.rows}
    return result


def _rounded(model: nn.Module, data: Pictures, bits: int) -> dict[str, float]:
    twin = copy.deepcopy(model)
    load_quantized(twin, quantize_weights(twin, make_plan(twin, bits), observer=OBSERVER))
    return {"bits": bits, "loss": fitted_loss(twin, data), "accuracy": accuracy(twin, data)}
