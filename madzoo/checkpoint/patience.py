"""How long a pull waits for nothing: a clock that only progress sets back."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Patience"]

LIMIT = 20.0  # seconds without progress; a pull that has none ends
READ = 8.0  # seconds without a byte, after which a request is made anew
STEP = 1 << 14  # bytes that count as progress, so that a byte now and then does not keep a pull waiting for ever


class Patience:
    """Ends after a time without progress, whatever was tried meanwhile: one for all requests of a pull.

    Attributes:
        reached: bytes of the present file that had come when progress was last seen.

    Example:
        >>> patience = Patience(limit=60.0)
        >>> patience.reach(1000), patience.reached  # less than counts
        (None, 0)
        >>> patience.reach(1 << 20), patience.reached
        (None, 1048576)
    """

    def __init__(self, *, limit: float | None = None) -> None:
        self.limit = LIMIT if limit is None else limit
        self.renew()

    @property
    def left(self) -> float:
        """Seconds that are left, at least a little: a request with no time at all would say nothing of its cause."""
        return max(self._end - time.monotonic(), 0.05)

    @property
    def timeout(self) -> float:
        """How long one request may wait for its next byte."""
        return min(READ, self.left)

    def renew(self) -> None:
        """Starts anew, for the next file."""
        self.reached = 0
        self._end = time.monotonic() + self.limit

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock for a block that waits for nobody."""
        start = time.monotonic()
        yield
        self._end += time.monotonic() - start

    def reach(self, position: int) -> None:
        """Notes how many bytes are there.

        Raises:
            TimeoutError: when patience has ended.
        """
        if position >= self.reached + STEP:
            self.reached = position
            self._end = time.monotonic() + self.limit
        self.check()

    def check(self, cause: BaseException | None = None) -> None:
        """Raises TimeoutError when patience has ended."""
        if time.monotonic() >= self._end:
            raise TimeoutError(f"nothing, or next to nothing, has come for {self.limit:.0f} seconds") from cause
