"""What a parameter is for: its kind, by the name that published modules give it, and which kinds a recurrence is."""

from torch import Tensor

__all__ = ["KINDS_OF_TENSORS", "RECURRENT", "is_delicate", "kind_of"]

# What a recurrence is made of: its matrix, its step, the maps into and out of its state, its skip, where it starts.
RECURRENT = ("A", "dt", "B", "C", "D", "initial_state")

# The last part of a name that says what a parameter of a sequence operator is.
STATE_SPACE = {
    # Mamba 1 to 3, Vim, VMamba, PlainMamba, Hydra
    "A_log": "A", "A_logs": "A", "A_b_log": "A", "dt_bias": "dt", "dt_projs_weight": "dt", "dt_projs_bias": "dt",
    "direction_Bs": "B", "B_bias": "B", "C_bias": "C", "Ds": "D", "D_b": "D", "init_states": "initial_state",
    # S4D, S4 and S4ND (A = diag - P P^*), S5, LinOSS
    "log_A_real": "A", "A_real": "A", "A_imag": "A", "P": "A", "log_dt": "dt", "inv_dt": "dt",
    "Lambda_re": "A", "Lambda_im": "A", "A_re": "A", "A_im": "A", "log_step": "dt", "A_diag": "A", "steps": "dt",
    "B": "B", "C": "C", "D": "D",
    "kernel": "conv",  # a long convolution is no recurrence
}  # fmt: skip
# A part anywhere in the name, tried in this order. The step of the delta rule comes from its ``b_proj``.
ROLES = {
    "dt_proj": "dt", "b_proj": "dt", "fc_D": "D", "x_proj": "x_proj", "in_proj": "in_proj", "out_proj": "out_proj",
    "pos_embed": "position", "patch_embed": "embed", "stem": "embed", "linear_skip": "skip", "head": "head",
    "gate": "gate", "mlp": "mlp", "feed_forward": "mlp", "ffn": "mlp",
}  # fmt: skip
KINDS_OF_TENSORS = tuple(dict.fromkeys([*STATE_SPACE.values(), *ROLES.values(), "linear", "vector"]))


def kind_of(name: str, tensor: Tensor) -> str:
    """Says what a parameter is for, by its name and shape: one of :data:`KINDS_OF_TENSORS`.

    Example:
        >>> import torch
        >>> kind_of("blocks.0.mixer.A_log", torch.zeros(4, 2)), kind_of("norm.weight", torch.zeros(4))
        ('A', 'vector')
    """
    parts = name.split(".")
    if parts[-1] in STATE_SPACE:
        return STATE_SPACE[parts[-1]]
    for part, kind in ROLES.items():
        if any(p == part or p.startswith(part) for p in parts) and (tensor.ndim > 1 or kind == "dt"):
            return kind
    if tensor.ndim < 2:
        return "vector"
    return "conv" if tensor.ndim > 2 else "linear"


def is_delicate(name: str, tensor: Tensor) -> bool:
    """Tells whether a tensor is a vector or belongs to a recurrence."""
    return tensor.ndim < 2 or kind_of(name, tensor) in RECURRENT
