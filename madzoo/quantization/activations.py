"""What modules read, rounded: the inputs of linear maps and convolutions on a grid, by scales fixed or of each call.

A hook sees what a module is called with. A module whose weights an operator reads without calling it (the ``conv1d``
of a Mamba block, what a selective scan reads) is not seen; the inputs of scans are :mod:`madzoo.ops.scan_taps`'s.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, DataError
from madzoo.quantization.grid import Grid
from madzoo.quantization.observers import find_scale
from madzoo.quantization.straight_through import clipped_ste

__all__ = ["ROUNDED_MODULES", "ActivationRounding", "Scale", "calibrate_activations"]

ROUNDED_MODULES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
SAMPLE = 1 << 16  # values of a call that a percentile or the squared error is taken over


class Scale(NamedTuple):
    """Holds the scale and zero point of a module's input, [1, 1] each, and the grid that they belong to."""

    scale: Tensor
    zero_point: Tensor | None
    grid: Grid


class ActivationRounding:
    """Rounds the input of every matching linear map and convolution of a model, from now until :meth:`remove`.

    The gradient passes straight through where a value lies between the lowest and the highest level, and is zero
    beyond them, so a model can be trained under it. Used as a context it removes itself.

    Args:
        model: any module; its hooks change, its parameters do not.
        grid: of every input, with one scale for the whole tensor (``axis=None``).
        patterns: shell patterns of module names, ``"*"`` for all.
        scales: from :func:`calibrate_activations`, of the modules to round; None takes the range of each call.

    Attributes:
        names: the modules that are rounded.
        seen: those of them that have been called.

    Raises:
        ConfigError: when a pattern matches no linear map or convolution, a scale belongs to none or to another grid,
            or the grid has an axis.

    Example:
        >>> model, x = nn.Linear(2, 1, bias=False), torch.tensor([[0.4, 1.0]])
        >>> with torch.no_grad(), ActivationRounding(model, Grid(bits=2, axis=None)):
        ...     rounded = model(x)
        >>> torch.equal(rounded, model(torch.tensor([[0.0, 1.0]])))
        True
    """

    def __init__(
        self,
        model: nn.Module,
        grid: Grid,
        *,
        patterns: Sequence[str] = ("*",),
        scales: Mapping[str, Scale] | None = None,
    ) -> None:
        modules = _matching(model, patterns, grid)
        if scales is not None:
            _check_scales(scales, modules, grid)
            modules = {name: module for name, module in modules.items() if name in scales}
        self.names, self.seen = tuple(modules), set[str]()
        self._grid, self._scales = grid, scales
        self._handles = [_before(module, self._round(name)) for name, module in modules.items()]

    def remove(self) -> None:
        """Lets the modules read what they are given again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> "ActivationRounding":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def _round(self, name: str) -> Callable[[Tensor], Tensor]:
        def read(x: Tensor) -> Tensor:
            self.seen.add(name)
            scale = find_scale(x, self._grid) if self._scales is None else self._scales[name][:2]
            return clipped_ste(x, self._grid, *scale)

        return read


@torch.no_grad()
def calibrate_activations(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Any]],
    grid: Grid,
    *,
    patterns: Sequence[str] = ("*",),
    observer: str = "min_max",
) -> dict[str, Scale]:
    """Finds the scale of the input of every matching module that a model calls on some batches.

    Args:
        model: run in the mode it is in.
        batches: ``(inputs, anything)``.
        grid: see :class:`ActivationRounding`.
        patterns: shell patterns of module names.
        observer: of :func:`madzoo.quantization.observers.find_scale`; ``"min_max"`` is exact, the others see an even
            sample of at most 65536 values of each call.

    Returns:
        A scale by module name; modules that were never called are absent.

    Raises:
        ConfigError: when a pattern matches nothing, or on an unknown observer.
        DataError: when there is no batch, or an input is not finite.

    Cost: one forward pass per batch.
    """
    seen: dict[str, list[Tensor]] = {}

    def collect(name: str) -> Callable[[Tensor], Tensor]:
        def read(x: Tensor) -> Tensor:
            seen.setdefault(name, []).append(_summary(x, exact=observer == "min_max"))
            return x

        return read

    modules = _matching(model, patterns, grid)
    handles = [_before(module, collect(name)) for name, module in modules.items()]
    try:
        for inputs, _ in batches:
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise DataError("no matching module was called.", asked=list(patterns), looked=sorted(modules))
    found = {name: find_scale(torch.cat(values), grid, observer=observer) for name, values in seen.items()}
    return {name: Scale(*scale, grid) for name, scale in found.items()}


def _before(module: nn.Module, read: Callable[[Tensor], Tensor]) -> Any:
    """Puts a function between a module and its input, by whichever way the input is handed over."""

    def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if inputs:
            return (read(inputs[0]), *inputs[1:]), named
        return inputs, {**named, "input": read(named["input"])} if "input" in named else named

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _check_scales(scales: Mapping[str, Scale], modules: Mapping[str, nn.Module], grid: Grid) -> None:
    if strange := sorted(set(scales) - set(modules)):
        raise ConfigError("a scale belongs to no rounded module.", asked=strange, looked=sorted(modules))
    for name, scale in scales.items():
        if not isinstance(scale, Scale) or scale.grid != grid:
            found = f"{name}: {scale.grid}" if isinstance(scale, Scale) else f"{name}: {type(scale).__name__}"
            todo = "scales=calibrate_activations(model, batches, grid)"
            raise ConfigError("a scale belongs to another grid.", asked=grid, looked=found, todo=todo)


def _matching(model: nn.Module, patterns: Sequence[str], grid: Grid) -> dict[str, nn.Module]:
    if grid.axis is not None or grid.group_size is not None:
        raise ConfigError("an activation has one scale.", asked=f"{grid}", todo="axis=None, group_size=None")
    known = {name: module for name, module in model.named_modules() if isinstance(module, ROUNDED_MODULES)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ConfigError("no linear map or convolution has such a name.", asked=pattern, looked=sorted(known))
    return {name: m for name, m in known.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _summary(x: Tensor, *, exact: bool) -> Tensor:
    flat = x.detach().reshape(-1)
    if flat.numel() == 0:
        return flat
    # The sample is copied: a view would keep every activation alive.
    return torch.stack(list(flat.aminmax())) if exact else flat[:: -(-flat.numel() // SAMPLE)].clone()
