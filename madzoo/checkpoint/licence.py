"""One line, once per name, about weights that may not be used commercially."""

import logging

__all__ = ["tell_licence"]

logger = logging.getLogger(__name__)
_told: set[str] = set()


def tell_licence(name: str, licence: str | None) -> None:
    """Logs a warning when weights with a non-commercial licence are asked for, the first time for each name.

    Args:
        name: of the weights, ``arch.tag``.
        licence: their SPDX identifier; one part of a non-commercial one is ``nc``.
    """
    if "nc" in (licence or "").lower().split("-") and name not in _told:
        _told.add(name)
        logger.warning("The weights %s are licensed %s: not for commercial use.", name, licence)
