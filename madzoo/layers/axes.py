"""The axes of a layer's input: how many there must be, and how long those are whose size the layer knows."""

from torch import Tensor

from madzoo.errors import ShapeError

__all__ = ["check_axes"]


def check_axes(owner: str, x: Tensor, layout: str, **sizes: int) -> None:
    """Refuses a tensor that does not have the axes of a layout.

    Args:
        owner: what the tensor was given to.
        x: the tensor.
        layout: letters of the axes, as ``"[B, L, D]"``.
        sizes: of those axes whose size is known, by their letter.

    Raises:
        ShapeError: when there are more or fewer axes, or one of these has another size.

    Example:
        >>> import torch
        >>> check_axes("Mamba", torch.zeros(2, 10, 32), "[B, L, D]", D=32)
    """
    letters = layout[1:-1].split(", ")
    if x.dim() != len(letters) or any(x.shape[letters.index(letter)] != size for letter, size in sizes.items()):
        known = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
        raise ShapeError(f"x does not fit {owner}.", asked=list(x.shape), todo=f"{layout} with {known}")
