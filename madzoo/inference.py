"""A model made ready for inference on a CPU: linear layers in oneDNN's packed form, batch norms folded, all frozen.

What :mod:`madzoo.ops.linear` does for one product, done once: weights lie in oneDNN's own order, also in bfloat16
(twice the rate again), and other packages' linear layers profit too. Convolutions stay with ``F.conv2d``: it is oneDNN
already, and weights packed without knowing the image size made a 16 x 16 patch stem ten times slower.

All that is prepared is derived: the dense weights stay where they were, under their names, so ``state_dict``, readers
of ``layer.weight``, copies and pickles are those of the model before. The price is a second copy of the linear weights.
"""

import copy
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError
from madzoo.layers.linear import Linear
from madzoo.ops.kernels.memory import keep_freed_memory
from madzoo.ops.linear import HAS_ONEDNN, onednn_serves

__all__ = ["FoldedBatchNorm2d", "FoldedConv2d", "PackedLinear", "optimize_for_cpu"]

Model = TypeVar("Model", bound=nn.Module)
DTYPES = (torch.float32, torch.bfloat16)
# A bfloat16 layer casts its input and output; layers narrower than this lose more by that than they gain. In state
# space models they make step sizes, B and C, which want float32 anyway.
NARROW = 64
_log = logging.getLogger(__name__)


def optimize_for_cpu(model: Model, *, dtype: torch.dtype | None = None) -> Model:
    """Returns a frozen copy of a model that runs faster on a CPU; the given one is left as it was.

    The copy is in evaluation mode, none of its parameters asks for gradients, and ``state_dict`` is unchanged.
    Linear layers use oneDNN's packed kernels, a batch norm behind a convolution in an ``nn.Sequential`` is folded into
    it, scans, norms and convolutions stay in float32. Any batch size and input shape works. Loading other weights into
    the copy, deep copies, pickles, ``torch.export`` and gradients by the input work too. ``copy.train()`` followed by a
    call is an error. Optimising an optimised model again gives a new copy, also in the other dtype.
    With glibc the process keeps up to 64 MiB of freed memory from then on instead of returning it after every block.

    Args:
        model: any module with float32 parameters on the CPU.
        dtype: of the products in wide linear layers. None and float32 are exact to 1e-5 of the largest output.
            bfloat16 keeps 8 bits of each factor; inputs, outputs, the head (``get_classifier()``) and narrow
            layers stay in float32. It is quicker where the processor has bfloat16 instructions; elsewhere it is slow
            but right, and a logged line says so.

    Raises:
        ConfigError: on another dtype, or a parameter that is not float32 or not on the CPU.

    Cost: a second copy of the linear weights in memory (bfloat16: half of it).

    Example:
        >>> fast = optimize_for_cpu(nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)))
        >>> fast(torch.zeros(2, 10, 64)).shape
        torch.Size([2, 10, 64])
    """
    dtype = torch.float32 if dtype is None else dtype
    _check(model, dtype)
    _tell_what_is_slow(dtype)
    keep_freed_memory()
    with torch.inference_mode(False):  # tensors made in inference mode would not tell when they are changed
        optimized = copy.deepcopy(model).eval().requires_grad_(False)
    _fold_batch_norms(optimized)
    classifier = getattr(optimized, "get_classifier", None)
    head = classifier() if callable(classifier) else None
    for module in optimized.modules():
        if isinstance(module, nn.Linear) and (isinstance(module, PackedLinear) or _is_plain(module, nn.Linear, Linear)):
            wide = min(module.in_features, module.out_features) >= NARROW and module is not head
            PackedLinear.turn(module, dtype if wide else torch.float32)
    return optimized


class _Prepared:
    """Keeps what a layer derives from its tensors until one of them changes; copies and pickles leave it out."""

    prepared: tuple[Any, Any, Any] | None = None

    def derived(self, tensors: tuple[Tensor | None, ...], derive: Callable[[], Any]) -> Any:
        state = [None if x is None else (id(x), x.data_ptr(), _version(x)) for x in tensors]
        if self.prepared is None or self.prepared[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self.prepared = (state, tensors, derive())  # the tensors are held, so that no other gets their id
        return self.prepared[2]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"prepared": None}


class PackedLinear(_Prepared, nn.Linear):
    """A linear layer that multiplies by a packed copy of its weight where that is quicker.

    ``F.linear`` serves small products, other dtypes and devices, gradients, function transforms and tracing.

    Attributes:
        product_dtype: of the factors; input and output are float32 in any case.
    """

    product_dtype: torch.dtype = torch.float32

    @classmethod
    def turn(cls, linear: nn.Linear, product_dtype: torch.dtype) -> None:
        """Turns a linear layer into a packed one in place: hooks, sharing and parameters stay what they are."""
        linear.__class__ = cls
        linear.__dict__ |= {"product_dtype": product_dtype, "prepared": None}

    def forward(self, input: Tensor) -> Tensor:
        """Returns ``input @ weight.T + bias``."""
        _refuse_training(self)
        weight, bias = self.weight, self.bias
        if not onednn_serves(input, weight):
            return F.linear(input, weight, bias)
        packed, packed_bias = self.derived((weight, bias), self.derive)
        if self.product_dtype == torch.float32:
            return torch.ops.mkldnn._linear_pointwise(input, packed, packed_bias, "none", [], "")
        if not _bfloat16_packs():
            return F.linear(input.to(self.product_dtype), packed, packed_bias).float()
        y = torch.ops.mkldnn._linear_pointwise(input.to(self.product_dtype), packed, packed_bias, "none", [], "")
        return y.float()

    def derive(self) -> tuple[Tensor, Tensor | None]:
        """Returns weight and bias as the kernel wants them."""
        weight = self.weight.detach().to(self.product_dtype)
        bias = None if self.bias is None else self.bias.detach().to(self.product_dtype)
        if self.product_dtype == torch.float32 or _bfloat16_packs():
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        return weight, bias


class FoldedConv2d(_Prepared, nn.Conv2d):
    """A convolution that also applies the batch norm behind it, by scaled taps and a shifted bias."""

    norm: tuple[nn.BatchNorm2d]  # in a tuple, so that it is no child of two modules

    @classmethod
    def turn(cls, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        """Turns a convolution and the batch norm behind it into folded ones, in place."""
        conv.__class__, norm.__class__ = cls, FoldedBatchNorm2d
        conv.__dict__ |= {"norm": (norm,)}

    def forward(self, input: Tensor) -> Tensor:
        """Returns the normalised result of the convolution."""
        _refuse_training(self)
        (norm,) = self.norm
        tensors = (self.weight, self.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        weight, bias = self.derived(tensors, self.derive) if _is_constant(*tensors) else self.derive()
        return self._conv_forward(input, weight, bias)

    def derive(self) -> tuple[Tensor, Tensor]:
        """Returns the taps and the bias that contain the norm."""
        (norm,) = self.norm
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None  # norms without statistics are not folded
        assert var is not None
        scale = torch.rsqrt(var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -mean * scale if self.bias is None else (self.bias - mean) * scale
        taps = self.weight * scale.view(-1, 1, 1, 1)
        return taps, shift if norm.bias is None else shift + norm.bias


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that the convolution before it has applied; it keeps its tensors and hands its input on."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns the input."""
        _refuse_training(self)
        return input


def _check(model: nn.Module, dtype: torch.dtype) -> None:
    if dtype not in DTYPES:
        raise ConfigError("linear layers run in float32 or bfloat16.", asked=dtype, todo="dtype=torch.bfloat16")
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu":
            raise ConfigError("the model is not on the CPU.", asked=f"{name} on {parameter.device}", todo="model.cpu()")
        if parameter.dtype != torch.float32:
            raise ConfigError("the model is not in float32.", asked=f"{name} {parameter.dtype}", todo="model.float()")


def _tell_what_is_slow(dtype: torch.dtype) -> None:
    if not HAS_ONEDNN:
        _log.info("optimize_for_cpu: this torch was built without oneDNN; linear layers run as before")
    elif dtype == torch.bfloat16 and not _bfloat16_is_native():
        _log.info("optimize_for_cpu: this processor has no bfloat16 instructions; float32 is quicker")


def _bfloat16_is_native() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _bfloat16_packs() -> bool:
    return HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _is_constant(*tensors: Tensor | None) -> bool:
    # What is derived once must not be asked for gradients, transformed, or written into a graph.
    return not (
        (torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors))
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state()
        or torch._C._are_functorch_transforms_active()
    )


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def _is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    # A subclass may compute something else, and a hook may replace a weight or look at what passes.
    hooked = module._forward_pre_hooks or module._forward_hooks or module._backward_hooks
    return type(module) in kinds and not hooked


def _fold_batch_norms(model: nn.Module) -> None:
    places: dict[nn.Module, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        places[module] = places.get(module, 0) + 1
    for sequence in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for conv, norm in zip(list(sequence)[:-1], list(sequence)[1:], strict=True):
            if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
                continue
            plain = _is_plain(conv, nn.Conv2d) and _is_plain(norm, nn.BatchNorm2d)
            alone = places[conv] == places[norm] == 1
            if not (plain and alone) or norm.running_mean is None or norm.num_features != conv.out_channels:
                continue
            FoldedConv2d.turn(conv, norm)


def _refuse_training(module: nn.Module) -> None:
    if module.training:
        raise ConfigError("an optimised model is for inference only.", todo="model.eval(), or train the model before")
