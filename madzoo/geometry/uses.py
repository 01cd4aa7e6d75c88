"""Where a forward pass uses its parameters, and what the derivative by each of them is made of, sample by sample.

Legend: c samples in the batch, G groups, T places (tokens, pixels) where a weight is used, I and O its two sides.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.nn import functional as F

__all__ = ["Bias", "Convolution", "Copies", "Grouped", "Matrix", "Use", "windows"]


@dataclass(frozen=True, kw_only=True)
class Use(ABC):
    """Names one place where a weight meets the data.

    Attributes:
        weight: a parameter, or a tensor that is computed from parameters alone.
        edge: where in autograd's graph the gradient is read that :meth:`rows` asks for.
        batch: samples c; whatever has samples has them in its leading axis, the rows of one sample together.
    """

    weight: Tensor
    edge: GradientEdge
    batch: int

    @abstractmethod
    def rows(self, grad: Tensor, samples: slice) -> Tensor:
        """Returns the gradient by the weight of every sample on its own.

        Shapes:
            grad: as the edge's tensor. returns [samples, numel].
        """


@dataclass(frozen=True, kw_only=True)
class Copies(Use):
    """A weight that was given to every sample as a copy of its own: the copies' gradients are the rows."""

    def rows(self, grad: Tensor, samples: slice) -> Tensor:
        """See :meth:`Use.rows`; the edge's tensor is [c, numel] in any shape."""
        return grad.reshape(self.batch, -1)[samples]


@dataclass(frozen=True, kw_only=True)
class Bias(Use):
    """A vector that is added to one axis of a result."""

    axis: int

    def rows(self, grad: Tensor, samples: slice) -> Tensor:
        """See :meth:`Use.rows`; the edge's tensor is the result."""
        return grad.movedim(self.axis, -1).reshape(self.batch, -1, grad.shape[self.axis])[samples].sum(1)


@dataclass(frozen=True, kw_only=True)
class Matrix(Use):
    """A weight [O, I] (``transposed``: [I, O]) that multiplies the last axis of x."""

    x: Tensor
    transposed: bool = False

    @property
    def places(self) -> int:
        """Returns T: places of one sample."""
        return self.x.numel() // (self.x.shape[-1] * self.batch)

    @property
    def single(self) -> bool:
        """Returns whether rows are plain outer products [O, I], with real numbers and no groups."""
        return not (self.transposed or self.weight.is_complex())

    def inputs(self, samples: slice) -> Tensor:
        """Returns what the weight reads, [samples, G, T, I]."""
        return self.x.reshape(self.batch, -1, self.x.shape[-1])[samples].unsqueeze(1)

    def outputs(self, grad: Tensor, samples: slice) -> Tensor:
        """Returns the gradient by what it writes, [samples, G, T, O]."""
        return grad.reshape(self.batch, -1, grad.shape[-1])[samples].unsqueeze(1)

    def rows(self, grad: Tensor, samples: slice) -> Tensor:
        """See :meth:`Use.rows`; the edge's tensor is the result."""
        left, right = self.outputs(grad, samples).mT, self.inputs(samples).conj()
        found = (right.mT @ left.mT) if self.transposed else left @ right
        return found.flatten(1)


@dataclass(frozen=True, kw_only=True)
class Grouped(Matrix):
    """Weights [G, O, I] that multiply x [G, I, c T], whose last axis holds the samples."""

    @property
    def places(self) -> int:
        """Returns T: columns of one sample."""
        return self.x.shape[-1] // self.batch

    @property
    def single(self) -> bool:
        """Returns False: there are groups."""
        return False

    def inputs(self, samples: slice) -> Tensor:
        """See :meth:`Matrix.inputs`."""
        return self.x.unflatten(-1, (self.batch, -1)).permute(2, 0, 3, 1)[samples]

    def outputs(self, grad: Tensor, samples: slice) -> Tensor:
        """See :meth:`Matrix.outputs`."""
        return grad.unflatten(-1, (self.batch, -1)).permute(2, 0, 3, 1)[samples]


@dataclass(frozen=True, kw_only=True)
class Convolution(Matrix):
    """The weight [G O, I / G, *kernel] of a convolution; x [c, G I, *space] is padded already."""

    stride: Sequence[int]
    dilation: Sequence[int]
    groups: int

    @property
    def places(self) -> int:
        """Returns T: positions of the kernel on one sample."""
        size, kernel = self.x.shape[2:], self.weight.shape[2:]
        spans = zip(size, kernel, self.stride, self.dilation, strict=True)
        steps = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in spans]
        return int(torch.Size(steps).numel()) * self.x.shape[0] // self.batch

    @property
    def single(self) -> bool:
        """Returns whether rows are plain outer products: one group."""
        return self.groups == 1 and super().single

    def inputs(self, samples: slice) -> Tensor:
        """Returns every window the kernel reads, [samples, G, T, I k]."""
        x = self.x.unflatten(0, (self.batch, -1))[samples]
        count, each = x.shape[:2]
        seen = windows(x.flatten(0, 1), self.weight.shape[2:], self.stride, self.dilation)
        seen = seen.reshape(count, each, self.groups, -1, *seen.shape[2:])
        space = len(self.stride)
        order = (0, 2, 1, *range(4, 4 + space), 3, *range(4 + space, 4 + 2 * space))
        return seen.permute(order).reshape(count, self.groups, -1, self.weight[0].numel())

    def outputs(self, grad: Tensor, samples: slice) -> Tensor:
        """See :meth:`Matrix.outputs`."""
        grad = grad.unflatten(0, (self.batch, -1))[samples].flatten(3)
        return grad.unflatten(2, (self.groups, -1)).permute(0, 2, 1, 4, 3).flatten(2, 3)


def windows(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Returns a view of what every position of a kernel covers.

    Shapes:
        x [B, C, *space] -> [B, C, *positions, *kernel].

    Example:
        >>> windows(torch.arange(5.0).reshape(1, 1, 5), (2,), (2,), (1,)).tolist()
        [[[[0.0, 1.0], [2.0, 3.0]]]]
    """
    steps = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)]
    strides = x.stride()[2:]
    moves = [a * s for a, s in zip(strides, stride, strict=True)] + [
        a * d for a, d in zip(strides, dilation, strict=True)
    ]
    return x.as_strided((*x.shape[:2], *steps, *kernel), (*x.stride()[:2], *moves))


def pad_for(x: Tensor, weight: Tensor, padding: str | int | Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Returns x with the zeros around it that a convolution would add."""
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(weight.shape[2:], dilation, strict=True)]
        sides = [(each // 2, each - each // 2) for each in total]
    elif isinstance(padding, str):
        sides = [(0, 0)] * len(dilation)
    else:
        sides = [(each, each) for each in spread(padding, len(dilation))]
    flat = [side for pair in reversed(sides) for side in pair]
    return F.pad(x, flat) if any(flat) else x


def spread(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Returns one number per axis of space."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * count if len(values) == 1 else values
