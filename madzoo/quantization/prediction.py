"""What a rounding should cost, from derivatives of the loss at the unrounded weights.

Legend: w weights of a group, dw what rounding adds to them, g gradient and G curvature of the mean loss, n samples,
P real numbers in w.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.geometry.hessian import hessian_vector_product
from madzoo.geometry.hutchinson import block_traces
from madzoo.quantization.plan import quantized_parameters
from madzoo.quantization.scores import Batch, Loss

__all__ = ["Predicted", "Prediction", "mean_gradient", "predict_changes"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prediction:
    """Says what predictions are computed on, and how.

    The gradient takes all samples: at a minimum it is the small mean of large terms, and costs a backward pass only.
    The curvature takes the first few, whose terms are of one size.

    Attributes:
        batch: (inputs [n, ...], targets [n, ...]).
        loss_fn: (outputs, targets) -> the mean over samples; its gradient is taken.
        curved_loss_fn: the same for the curvature, where ``loss_fn`` has none but in its kinks, as the pinball loss;
            None: ``loss_fn``.
        curvature_samples: at most so many of them, the first, for the curvature.
        operator: ``"ggn"``, whose quadratic is the change of the loss of the outputs' linear part, or ``"hessian"``,
            which adds second derivatives of the outputs times residuals. Those average out over samples, slowly, and
            for rounding steps as large as those of dt and A they are larger than what they are added to.
        probes, seed: of the trace.
        chunk_size: samples whose graph is held at a time.
        dtype: of the curvature.

    Raises:
        ConfigError: when ``curvature_samples``, ``probes`` or ``chunk_size`` is no whole number above 0.
    """

    batch: Batch
    loss_fn: Loss
    curvature_samples: int
    operator: str
    probes: int
    seed: int
    chunk_size: int
    dtype: torch.dtype
    curved_loss_fn: Loss | None = None

    def __post_init__(self) -> None:
        for name in ("curvature_samples", "probes", "chunk_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError("a prediction takes at least one sample and one probe.", asked=f"{name}={value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """States the predicted change of the mean loss.

    Attributes:
        quadratic: ``g . dw + dw . G dw / 2``.
        trace: ``tr(G) / P * |dw|^2 / 2``: the mean curvature in place of that along dw, and no gradient.
    """

    quadratic: float
    trace: float


@torch.inference_mode(False)
@torch.enable_grad()
def mean_gradient(model: nn.Module, asked: Prediction) -> dict[str, Tensor]:
    """Returns the gradient of the mean loss on all samples by parameter name, in float64; the model is copied.

    Cost: one forward and backward pass over the samples, by the quickest kernels there are.
    """
    twin = copy.deepcopy(model).eval()
    parameters = {name: p.requires_grad_(True) for name, p in quantized_parameters(twin).items()}
    total = {name: torch.zeros_like(p, dtype=_wide(p), requires_grad=False) for name, p in parameters.items()}
    place = next(iter(parameters.values())).device
    for share, (x, y) in _chunks(asked.batch, asked.chunk_size):
        loss = asked.loss_fn(twin(x.to(place)), y.to(place))
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        for name, g in zip(parameters, found, strict=True):
            total[name] += share * g
    return total


def predict_changes(
    model: nn.Module, asked: Prediction, *, gradient: Mapping[str, Tensor], changes: Sequence[Mapping[str, Tensor]]
) -> list[Predicted]:
    """Predicts how the mean loss moves when some tensors of a model change, each change alone.

    Args:
        model: any module; it is copied (eval mode), never changed.
        asked: samples and settings.
        gradient: see :func:`mean_gradient`.
        changes: each {parameter name: what is added}, all of the same names, so that the graph of one block of the
            curvature serves them all.

    Raises:
        ConfigError, ShapeError, DataError, BackendError: as :func:`madzoo.geometry.hessian.hessian_vector_product`.

    Cost: one twice differentiable gradient and ``len(changes) + probes`` products with the block.

    Source: Pearlmutter 1994 and Schraudolph 2002 (the products); arXiv 1911.03852, section 3 (the mean trace as a
    layer's sensitivity).

    Example:
        >>> net, x = nn.Linear(1, 1, bias=False), torch.ones(2, 1)
        >>> with torch.no_grad():
        ...     _ = net.weight.fill_(2.0)
        >>> settings = {"curvature_samples": 2, "operator": "ggn", "probes": 1, "seed": 0, "chunk_size": 2}
        >>> asked = Prediction(batch=(x, 0 * x), loss_fn=nn.functional.mse_loss, dtype=torch.float64, **settings)
        >>> step = {"weight": torch.tensor([[0.5]])}
        >>> predict_changes(net, asked, gradient=mean_gradient(net, asked), changes=[step])
        [Predicted(quadratic=2.25, trace=0.25)]
    """
    totals = torch.zeros(len(changes), 2, dtype=torch.float64)
    few = asked.batch[0][: asked.curvature_samples], asked.batch[1][: asked.curvature_samples]
    for share, part in _chunks(few, asked.chunk_size):
        settings = {"parameters": list(changes[0]), "operator": asked.operator, "dtype": asked.dtype}
        G = hessian_vector_product(model, part, asked.curved_loss_fn or asked.loss_fn, **settings)
        place = G.sampled.device
        whole, _ = block_traces(G, {}, G.num_params, probes=asked.probes, seed=asked.seed, device=place)
        for number, change in enumerate(changes):
            dw = G.sampled.flatten(change).double()
            bent = torch.stack([dw @ G(dw).double(), whole.trace / G.num_params * dw @ dw])
            totals[number] += share * bent.cpu() / 2
    slopes = [sum(float(_inner(gradient[name], dw)) for name, dw in change.items()) for change in changes]
    return [
        Predicted(quadratic=slope + bent, trace=mean)
        for slope, (bent, mean) in zip(slopes, totals.tolist(), strict=True)
    ]


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """Returns the real inner product, in which a complex number is a pair."""
    return (first * second.conj()).real.sum() if first.is_complex() else (first * second).sum()


def _wide(p: Tensor) -> torch.dtype:
    return torch.complex128 if p.is_complex() else torch.float64


def _chunks(batch: Batch, size: int) -> Iterator[tuple[float, Batch]]:
    n = len(batch[0])
    for start in range(0, n, size):
        piece = batch[0][start : start + size], batch[1][start : start + size]
        yield len(piece[0]) / n, piece
