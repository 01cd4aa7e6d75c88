"""What is differentiated, and with respect to what: outputs by name or function, parameters by pattern."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from madzoo.errors import ConfigError, nearest

__all__ = ["OUTPUTS", "Output", "count", "output_name", "resolve_output", "select_parameters"]

# A name of OUTPUTS, or a function of whatever the module's forward returns, giving one tensor with a row per sample.
Output = str | Callable[[Any], Tensor]

OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda y: y,
    "forecast": lambda y: y,
    "median": lambda y: y[..., y.shape[-1] // 2],
    "log_probs": lambda y: y.log_softmax(-1),
    "probabilities": lambda y: y.softmax(-1),
}


def resolve_output(output: Output) -> Callable[[Any], Tensor]:
    """Returns the function that is applied to the forward's value before differentiating.

    Raises:
        ConfigError: when a name is unknown.
    """
    if callable(output):
        return output
    if output not in OUTPUTS:
        raise ConfigError(
            f"unknown output {output!r}.", asked=output, looked=", ".join(OUTPUTS), todo=nearest(output, OUTPUTS)
        )
    return OUTPUTS[output]


def output_name(output: Output) -> str:
    """Returns how a record names an output: its key, or the function's own name."""
    return output if isinstance(output, str) else getattr(output, "__qualname__", type(output).__name__)


def select_parameters(model: nn.Module, parameters: str | Sequence[str] | None = None) -> dict[str, nn.Parameter]:
    """Returns the parameters that are columns of the Jacobian, by name: floating or complex, tied ones once.

    Args:
        model: any module. Frozen parameters count like the others.
        parameters: None for all, else one or several shell patterns: ``"*A_log"``, ``"blocks.3.*"``, ``"*lora_*"``.
            A tied parameter goes by its first name and is chosen by any of its names.

    Raises:
        ConfigError: when a pattern matches no parameter.
    """
    first = {id(p): name for name, p in model.named_parameters()}
    every = [
        (n, p) for n, p in model.named_parameters(remove_duplicate=False) if p.is_floating_point() or p.is_complex()
    ]
    if parameters is None:
        return {first[id(p)]: p for _, p in every}
    patterns = [parameters] if isinstance(parameters, str) else list(parameters)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in every):
            names = [name for name, _ in every]
            raise ConfigError(f"no parameter matches {pattern!r}.", asked=pattern, todo=nearest(pattern, names))
    return {first[id(p)]: p for n, p in every if any(fnmatchcase(n, pattern) for pattern in patterns)}


def count(parameters: dict[str, nn.Parameter]) -> int:
    """Counts real degrees of freedom: a complex element is two."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in parameters.values())
