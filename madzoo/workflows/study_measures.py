"""What the study of the local dimension measures on one network: ranks under four conventions, flatness, tolerance.

Legend: n pictures, K classes, m = n K rows, P parameters, J Jacobian of the logits [m, P].
"""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from madzoo.geometry import curvature
from madzoo.geometry.jacobian import float64_copy
from madzoo.geometry.rank import singular_values
from madzoo.geometry.sampled_loss import twice_differentiable
from madzoo.quantization import quantize

__all__ = ["accuracy", "flatness", "jacobian", "numerical_rank", "pruned", "rank_conventions", "ranks", "tolerance"]

EPS = torch.finfo(torch.float64).eps
CHUNK = 50  # pictures differentiated at a time


def jacobian(model: nn.Module, x: Tensor, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Returns J in eval mode, computed in a dtype and handed back in float64, [n K, P]."""
    twin = float64_copy(model).to(dtype)
    parameters = {name: p.detach() for name, p in twin.named_parameters()}

    def logits(theta: dict[str, Tensor], picture: Tensor) -> Tensor:
        return functional_call(twin, theta, (picture.unsqueeze(0),)).squeeze(0)

    with warnings.catch_warnings(), twice_differentiable():  # the plain attention: the fused one has no batching rule
        warnings.filterwarnings("ignore", message="There is a performance drop")
        blocks = vmap(jacrev(logits), (None, 0), chunk_size=CHUNK)(parameters, x.to(dtype))
    return torch.cat([block.detach().flatten(2) for block in blocks.values()], dim=2).flatten(0, 1).double()


def numerical_rank(J: Tensor) -> dict[str, Any]:
    """Returns the rank at numpy's threshold for float64, at looser ones, and how clear the cut is."""
    sigma = singular_values(J, J.shape[1]).sigma
    top = sigma[0].item()
    rank = int((sigma > max(J.shape) * EPS * top).sum())
    following = sigma[rank].item() if rank < len(sigma) else None
    return {
        "rank": rank,
        "sigma_max": top,
        "smallest_counted": sigma[rank - 1].item() / top,
        "largest_not_counted": None if following is None else following / top,
        "rank_at": {key: int((sigma > float(key) * top).sum()) for key in ("1e-10", "1e-6", "1e-3")},
    }


def ranks(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Measures the local dimension on pictures, and how many parameters do nothing at all there.

    ``inactive`` counts the columns of J that are exactly zero: weights from pixels that are black in every picture,
    and all that surrounds a dead ReLU. Removing them changes nothing, so ``rank / (P - inactive)`` is the share that
    is left once trivial losses are counted.
    """
    J = jacobian(model, x)
    found = numerical_rank(J)
    return found | {"rows": J.shape[0], "num_params": J.shape[1], "inactive": int((J == 0).all(0).sum())}


def rank_conventions(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Counts by the float64 rule the rank of four matrices: logits or softmax, differentiated in float64 or float32.

    ``logits_float64`` is the local dimension; ``softmax_float32`` is what the published code computes as it stands.
    """
    found = {}
    for dtype in (torch.float64, torch.float32):
        J = jacobian(model, x, dtype=dtype)
        with torch.no_grad():
            p = float64_copy(model).to(dtype)(x.to(dtype)).softmax(-1)
        S = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
        J_softmax = torch.einsum("nkl,nlp->nkp", S, J.view(len(x), -1, J.shape[1]).to(dtype)).flatten(0, 1).double()
        name = str(dtype).removeprefix("torch.")
        found[f"logits_{name}"] = numerical_rank(J)["rank"]
        found[f"softmax_{name}"] = numerical_rank(J_softmax)["rank"]
    return found


def flatness(model: nn.Module, x: Tensor, y: Tensor, *, probes: int, microbatch: int) -> dict[str, Any]:
    """Measures the Hessian of the cross-entropy on the training pictures."""
    found = curvature(
        model, (x, y), nn.functional.cross_entropy, probes=probes, seed=0, tolerance=1e-3, microbatch=microbatch
    )
    kept = ("loss", "gradient_norm", "lambda_max", "lambda_max_residual", "trace", "trace_stderr", "noise_scale")
    return {key: getattr(found, key) for key in kept}


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Returns the share of right answers in eval mode; the model's mode is kept."""
    training = model.training
    right = (model.eval()(x).argmax(-1) == y).double().mean().item()
    model.train(training)
    return right


def pruned(model: nn.Module, ratio: float) -> nn.Module:
    """Returns a copy without the smallest weights: one threshold over all tensors of two or more axes."""
    twin = copy.deepcopy(model)
    weights = [p for p in twin.parameters() if p.ndim >= 2]
    sizes = torch.cat([p.detach().abs().flatten() for p in weights])
    count = round(ratio * len(sizes))
    if count:
        threshold = sizes.kthvalue(count).values
        with torch.no_grad():
            for p in weights:
                p.masked_fill_(p.abs() <= threshold, 0.0)
    return twin


def tolerance(
    model: nn.Module, x: Tensor, y: Tensor, *, ratios: Sequence[float], bits: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Returns the accuracy of pruned and of rounded copies, without any training after."""
    return {
        "pruning": {str(ratio): accuracy(pruned(model, ratio), x, y) for ratio in ratios},
        "quantization": {str(b): accuracy(quantize(model, b), x, y) for b in bits},
    }
