"""Published state dicts of S5, brought to the names and shapes of :class:`~madzoo.layers.s5.S5`."""

from typing import Any

import torch

__all__ = ["adopt_published_names"]


def adopt_published_names(state_dict: dict[str, Any], prefix: str) -> None:
    """Renames the entries under a prefix in place; what already has our names stays as it is.

    The JAX code keeps one output map per direction (``C1``, ``C2``) and ``log_step`` [P, 1]; its PyTorch port keeps the
    layer under ``seq.`` with complex ``Lambda`` [P] and ``C`` [H, P].

    Source: lindermanlab/S5, s5/ssm.py; i404788/s5-pytorch, s5/s5_model.py.
    """
    inner = prefix + "seq."
    for key in [key for key in state_dict if key.startswith(inner)]:
        state_dict[prefix + key.removeprefix(inner)] = state_dict.pop(key)
    rates, both = state_dict.pop(prefix + "Lambda", None), (prefix + "C1", prefix + "C2")
    if rates is not None:
        state_dict[prefix + "Lambda_re"], state_dict[prefix + "Lambda_im"] = rates.real, rates.imag
    if all(name in state_dict for name in both):
        state_dict[prefix + "C"] = torch.cat([state_dict.pop(name) for name in both], dim=1)
    outputs, steps = state_dict.get(prefix + "C"), state_dict.get(prefix + "log_step")
    if outputs is not None and outputs.is_complex():
        state_dict[prefix + "C"] = torch.view_as_real(outputs)
    if steps is not None and steps.dim() == 2:
        state_dict[prefix + "log_step"] = steps.squeeze(-1)
