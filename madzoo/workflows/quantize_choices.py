"""The choices of a quantization: what each may be, which go together, and the command line that states them."""

import math
from collections.abc import Mapping
from typing import Any

from madzoo.errors import ConfigError, check_choice
from madzoo.quantization.ptq import POLICIES
from madzoo.quantization.straight_through import find_estimator

__all__ = ["TRAINING", "check_choices", "command_line"]

TRAINING = ("epochs", "steps", "lr", "batch_size", "run_dir", "max_minutes")
# Whole numbers from ... to ...; the seed of held-out synthetic series is 2^32.
WHOLE = {
    "bits": (2, 8), "group_size": (1, math.inf), "epochs": (1, math.inf), "steps": (1, math.inf),
    "batch_size": (1, math.inf), "seed": (0, 2**32 - 1),
}  # fmt: skip


def check_choices(choices: Mapping[str, Any]) -> None:
    """Checks what was asked for, by the names of :func:`madzoo.workflows.quantize.quantize`; None: not given.

    Raises:
        ConfigError: on a number that cannot be, or choices that do not go together.
    """
    for name, (lowest, highest) in WHOLE.items():
        _check_whole(name, choices[name], lowest, highest)
    _check_real("lr", choices["lr"], "above 0 and finite", lambda value: 0 < value < math.inf)
    _check_real("max_minutes", choices["max_minutes"], "at least 0", lambda value: value >= 0)
    qat, policy, estimator = (choices[name] for name in ("qat", "policy", "estimator"))
    if policy is not None:
        check_choice("policy", policy, POLICIES)
    find_estimator(estimator)
    if qat and policy is not None:
        raise ConfigError("a policy is for rounding after training.", asked=f"policy={policy!r}, qat", todo="one")
    given = [name for name in TRAINING if choices[name] is not None]
    given += ["estimator"] if estimator != "lsq" else []
    if not qat and given:
        raise ConfigError("only a training has steps and rates.", asked=", ".join(given), todo="--qat")


def command_line(name: str, choices: Mapping[str, Any]) -> str:
    """Returns the command line that makes the folder again."""
    words = ["madzoo", "quantize", name]
    for key, value in choices.items():
        option = f"--{key.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not None and value is not False and (key, value) != ("estimator", "lsq"):
            words += [option, f"{value}"]
    return " ".join(words)


def _check_whole(name: str, value: Any, lowest: int, highest: float) -> None:
    if value is None and name not in ("bits", "seed"):
        return
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        span = f"at least {lowest}" if highest == math.inf else f"{lowest} to {highest}"
        raise ConfigError(f"{name} is a whole number, {span}.", asked=f"{name}={value!r}")


def _check_real(name: str, value: Any, words: str, fits: Any) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not fits(value):
        raise ConfigError(f"{name} is a number {words}.", asked=f"{name}={value!r}")
