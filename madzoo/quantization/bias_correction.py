"""Bias correction: the mean by which rounding shifts what a layer gives goes into the layer's bias."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from madzoo.quantization.quantized import Plan, QuantizedTensor, quantize_tensor

__all__ = ["correct_biases"]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LAYERS = (nn.Linear, nn.LayerNorm, _ConvNd, *BATCH_NORMS)


@torch.no_grad()
def correct_biases(
    rounded: nn.Module, model: nn.Module, inputs: Tensor, *, plan: Plan, observer: str = "min_max"
) -> dict[str, QuantizedTensor]:
    """Moves the mean shift of each layer's output into its bias, in place, layer by layer in order of execution.

    Layers are linear maps, convolutions, and batch and layer norms, which hold the bias of a convolution without one.
    Each is corrected while all before it are rounded and corrected already, and its new bias is rounded to its own grid
    before the next layer sees it, so that what remains of the mean shift is the rounding of the bias. A layer that runs
    twice, or whose bias another layer shares, is left alone: no one bias serves it.

    Args:
        rounded: a copy of the model, weights on their levels, in eval mode; its biases change.
        model: the same before rounding.
        inputs: calibration samples.
        plan: the grids; a bias without one stays a float.
        observer: scales the biases.

    Returns:
        The rounded biases, by name.

    Shapes:
        inputs [n, ...].

    Cost: one forward pass of either model.

    Source: arXiv 1906.04721, section 4.2 and appendix D (the empirical correction).

    Example:
        >>> layer, x = nn.Linear(3, 2), torch.randn(50, 3)
        >>> twin = nn.Linear(3, 2)
        >>> _ = twin.load_state_dict({"weight": layer.weight.round(), "bias": layer.bias})
        >>> correct_biases(twin, layer, x, plan={})
        {}
        >>> bool(torch.allclose(twin(x).mean(0), layer(x).mean(0), atol=1e-6))
        True
    """
    means = _output_means(model, inputs)
    weights: dict[str, QuantizedTensor] = {}

    def correct(path: str, layer: nn.Module, output: Tensor) -> Tensor:
        before = layer.get_parameter("bias").clone()
        bias = (before + (means[path] - _mean(layer, output)).to(before)).to(before.dtype)
        name = f"{path}.bias" if path else "bias"
        if name in plan:
            weights[name] = quantize_tensor(bias, plan[name], observer=observer)
            bias = weights[name].dequantize()
        layer.get_parameter("bias").copy_(bias)
        return output + _along(layer, bias - before, output)

    layers = {path: layer for path, layer in _layers(rounded) if path in means}
    handles = [layer.register_forward_hook(_hook(correct, path)) for path, layer in layers.items()]
    _run(rounded, inputs, handles)
    return weights


def _output_means(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Returns the mean output of each layer that runs exactly once, by path, [channels]."""
    found: dict[str, list[Tensor]] = {}

    def note(path: str, layer: nn.Module, output: Tensor) -> None:
        found.setdefault(path, []).append(_mean(layer, output))

    _run(model, inputs, [layer.register_forward_hook(_hook(note, path)) for path, layer in _layers(model)])
    return {path: means[0] for path, means in found.items() if len(means) == 1}


def _run(model: nn.Module, inputs: Tensor, handles: list[Any]) -> None:
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()


def _hook(act: Any, path: str) -> Any:
    return lambda layer, _inputs, output: act(path, layer, output)


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields the layers whose bias is theirs alone."""
    owners: dict[int, int] = {}
    for _, p in model.named_parameters(remove_duplicate=False):
        owners[id(p)] = owners.get(id(p), 0) + 1
    for path, layer in model.named_modules():
        bias = getattr(layer, "bias", None)
        plain = isinstance(layer, LAYERS) and (not isinstance(layer, nn.LayerNorm) or len(layer.normalized_shape) == 1)
        if plain and isinstance(bias, Tensor) and owners.get(id(bias)) == 1:
            yield path, layer


def _mean(layer: nn.Module, output: Tensor) -> Tensor:
    channel = _axis(layer, output)
    return output.double().movedim(channel, -1).reshape(-1, output.shape[channel]).mean(0)


def _along(layer: nn.Module, values: Tensor, output: Tensor) -> Tensor:
    shape = [1] * output.ndim
    shape[_axis(layer, output)] = -1
    return values.reshape(shape).to(output.dtype)


def _axis(layer: nn.Module, output: Tensor) -> int:
    if isinstance(layer, _ConvNd):  # of one sample without a batch axis too
        return output.ndim - 1 - len(layer.kernel_size)
    return 1 if isinstance(layer, BATCH_NORMS) else output.ndim - 1
