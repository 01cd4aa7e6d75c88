"""Routes through a two-dimensional token grid: a grid becomes a sequence and back.

B batch, H height, W width, L = H W, D channels.
"""

from torch import Tensor

from madzoo.errors import ConfigError

__all__ = ["ROUTES", "to_grid", "to_sequence"]

ROUTES = ("rows", "columns")


def to_sequence(x_BHWD: Tensor, *, route: str) -> Tensor:
    """Lays the tokens of a grid out as a sequence, row after row or column after column.

    Shapes:
        [B, H, W, D] -> [B, H W, D].

    Raises:
        ConfigError: on an unknown route.
    """
    _check(route)
    return (x_BHWD if route == "rows" else x_BHWD.transpose(1, 2)).flatten(1, 2)


def to_grid(x_BLD: Tensor, height: int, width: int, *, route: str) -> Tensor:
    """Inverts :func:`to_sequence`.

    Shapes:
        [B, H W, D] -> [B, H, W, D].

    Raises:
        ConfigError: on an unknown route.
    """
    _check(route)
    if route == "rows":
        return x_BLD.unflatten(1, (height, width))
    return x_BLD.unflatten(1, (width, height)).transpose(1, 2)


def _check(route: str) -> None:
    if route not in ROUTES:
        raise ConfigError(f"unknown route {route!r}.", asked=route, looked=", ".join(ROUTES))
