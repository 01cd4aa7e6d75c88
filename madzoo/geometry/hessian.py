"""Hessian- and GGN-vector products of any network, by two reverse passes.

Plain torch rather than curvlinops: its release 3.0.1 takes parameters as a list, its next one as a dict; it brings
eight packages (scipy, backpack, linear_operator, ...); it differentiates functions, so that the compiled scans of
:mod:`madzoo.ops` would give way to the reference loop in both passes; and the products it spares are the ten lines of
each factory below. ``tests/geometry/test_curvature.py`` compares with it where it is installed.

Legend: P real parameters, n samples, H Hessian of the mean loss, J Jacobian of the outputs, G = J^T (d2 loss) J.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from madzoo.errors import BackendError, ShapeError, check_choice
from madzoo.geometry.sampled_loss import Loss, SampledLoss, derivative, flatten, twice_differentiable

__all__ = [
    "OPERATORS",
    "CurvatureOperator",
    "Linearised",
    "hessian_vector_product",
    "linearise_ggn",
    "linearise_hessian",
]

Product = Callable[[Tensor], Tensor]


class Linearised(NamedTuple):
    """Holds a loss, its gradient [P], and the product with its curvature [P] -> [P], at one point."""

    loss: Tensor
    gradient: Tensor
    product: Product


def linearise_hessian(sampled: SampledLoss, inputs: Tensor, targets: Any) -> Linearised:
    """Differentiates the loss once, keeping the graph; each product is one more reverse pass through it."""
    loss = sampled.loss(sampled.network(inputs), targets)
    gradient = derivative([loss], sampled.parameters, [torch.ones_like(loss)], create_graph=True)
    _refuse_dead_ends(gradient)

    def product(v: Tensor) -> Tensor:
        return flatten(derivative(gradient, sampled.parameters, sampled.split(v)))

    return Linearised(loss.detach(), flatten(gradient).detach(), product)


def linearise_ggn(sampled: SampledLoss, inputs: Tensor, targets: Any) -> Linearised:
    """Differentiates the outputs and the loss apart; each product is three reverse passes.

    J v is taken by differentiating u -> J^T u, which is linear, so no forward mode is asked of any operator.

    Raises:
        ShapeError: when the network does not return one tensor.
    """
    outputs = sampled.network(inputs)
    if not isinstance(outputs, Tensor):
        raise ShapeError("the GGN needs a forward that returns one tensor.", asked=type(outputs).__name__)
    leaf = outputs.detach().requires_grad_()
    loss = sampled.loss(leaf, targets)
    slope = derivative([loss], [leaf], [torch.ones_like(loss)], create_graph=True)
    u = torch.zeros_like(outputs).requires_grad_()
    pulled_back = derivative([outputs], sampled.parameters, [u], create_graph=True)
    _refuse_dead_ends([*slope, *pulled_back])

    def product(v: Tensor) -> Tensor:
        along = derivative(pulled_back, [u], sampled.split(v))
        return flatten(derivative([outputs], sampled.parameters, derivative(slope, [leaf], along)))

    gradient = derivative([outputs], sampled.parameters, [slope[0].detach()])
    return Linearised(loss.detach(), flatten(gradient), product)


def _refuse_dead_ends(gradient: Sequence[Tensor]) -> None:
    """Refuses a graph in which an operator is marked once_differentiable.

    Torch raises only where a derivative runs into the mark. Asked for the derivative by the parameters it runs around
    it, and the product silently lacks a term.
    """
    waiting, seen = [g.grad_fn for g in gradient if g.grad_fn is not None], set()
    while waiting:
        node = waiting.pop()
        if node.name() == "torch::autograd::Error":
            raise BackendError(
                "an operator of this network has no second derivative.",
                asked="a function marked once_differentiable",
                todo="another implementation of that operator",
            )
        ahead = {following for following, _ in node.next_functions if following is not None}
        waiting += ahead - seen
        seen |= ahead


OPERATORS = {"hessian": linearise_hessian, "ggn": linearise_ggn}


class CurvatureOperator:
    """The curvature of a sampled loss as a linear map of flat vectors: ``operator(v)`` or ``operator @ v``.

    Attributes:
        sampled: the loss; its ``names``, ``flatten`` and ``unflatten`` tell what lies where in a vector.
        loss, gradient: at the present parameters.
        num_params: P.
    """

    def __init__(self, sampled: SampledLoss, *, operator: str, chunk_size: int | None) -> None:
        check_choice("curvature operator", operator, list(OPERATORS))
        self.sampled, self.num_params = sampled, sampled.num_params
        self._linearise, self._chunk_size = OPERATORS[operator], chunk_size
        self._kept: Linearised | None = None
        with twice_differentiable():
            parts = [(share, part.loss.item(), part.gradient) for share, part in self._parts()]
            self.loss = sum(share * loss for share, loss, _ in parts)
            self.gradient = torch.stack([share * gradient for share, _, gradient in parts]).sum(0)

    def __call__(self, v: Tensor) -> Tensor:
        """Multiplies by a flat vector [P]; computes in the operator's dtype.

        Raises:
            ShapeError: when v is not one real vector of P numbers.
        """
        if v.shape != (self.num_params,) or v.is_complex():
            raise ShapeError("not a flat vector of the parameters.", asked=tuple(v.shape), todo=f"[{self.num_params}]")
        with twice_differentiable():
            v = v.detach().clone().to(self.gradient)
            total = torch.zeros_like(v)
            for share, part in self._parts():
                total += share * part.product(v)
            return total

    __matmul__ = __call__

    def product(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Multiplies by tensors given by parameter name, absent ones 0; returns all parameters' tensors."""
        return self.sampled.unflatten(self(self.sampled.flatten(tensors)))

    def _parts(self) -> Iterator[tuple[float, Linearised]]:
        if self._kept is not None:
            yield 1.0, self._kept
            return
        for share, inputs, targets in self.sampled.chunks(self._chunk_size):
            part = self._linearise(self.sampled, inputs, targets)
            if share == 1.0:
                self._kept = part  # the whole batch at once: its graph serves every product
            yield share, part


def hessian_vector_product(
    model: nn.Module,
    batch: tuple[Tensor, Any],
    loss_fn: Loss,
    *,
    parameters: str | Sequence[str] | None = None,
    operator: str = "hessian",
    chunk_size: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> CurvatureOperator:
    """Makes the map ``v -> H v`` of a network's mean loss on a batch, at its present parameters.

    Args:
        model: any module; it is copied (eval mode), never changed.
        batch: (inputs [n, ...], targets [n, ...]).
        loss_fn: (outputs, targets) -> the mean over samples.
        parameters: patterns of the parameters that move, as :func:`select_parameters`; None for all, frozen ones too.
        operator: ``"hessian"``, or ``"ggn"``: the Gauss-Newton matrix, positive semidefinite for a convex loss.
        chunk_size: samples differentiated at a time. None keeps the graph of the whole batch, so that a product is
            one backward pass; a number bounds memory and pays the forward again in every product.
        dtype: float64 or float32.

    Raises:
        ConfigError, ShapeError, DataError: as :class:`SampledLoss` and its ``loss``.
        BackendError: when an operator of the network has no second derivative.

    Cost: like a few training steps on the batch to build (a network without chunks), then about two backward passes
    per product.

    Source: Pearlmutter 1994 (the product); arXiv 1412.1193 (the GGN).

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> H = hessian_vector_product(net, (x, torch.zeros(2, 1)), nn.functional.mse_loss)
        >>> H(torch.ones(2)).tolist()  # 2 / n * x^T x
        [1.0, 4.0]
    """
    sampled = SampledLoss(model, batch, loss_fn, parameters=parameters, dtype=dtype)
    return CurvatureOperator(sampled, operator=operator, chunk_size=chunk_size)
