"""A benchmark shared by several processes: whole batches in turn, their outcomes put together in the batches' order."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from madzoo.errors import ConfigError, MadzooError

__all__ = ["ALONE", "Shard"]

Item = TypeVar("Item")
Found = TypeVar("Found")


def _only(mine: Any) -> list[Any]:
    return [mine]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Says which batches this process takes, and how it hears of the others' outcomes.

    A batch is cut in the same place whatever the number of processes, is computed whole by one of them, and its outcome
    arrives unchanged; so the numbers have the same bits as with one process (of as many threads).

    Attributes:
        rank, world: this process and the number of all; batch i belongs to rank i mod world.
        gather: hands in this process's object and returns the objects of all, by rank; every process calls it equally
            often.

    Raises:
        ConfigError: when rank lies outside the processes.

    Example:
        >>> ALONE.map(len, ["a", "bcd"])
        [1, 3]
    """

    rank: int = 0
    world: int = 1
    gather: Callable[[Any], list[Any]] = _only

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ConfigError(
                "a rank lies between 0 and the number of processes.", asked=f"{self.rank} of {self.world}"
            )

    def map(self, function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
        """Applies a function to each item in one of the processes; all of them return all results, in order.

        Raises:
            MadzooError: the first that the function raised, in every process: nobody waits for one that has failed.
        """
        found = self._ask(lambda: [function(x) for i, x in enumerate(items) if i % self.world == self.rank])
        return [found[place % self.world][place // self.world] for place in range(sum(map(len, found)))]

    def first(self, function: Callable[[], Found]) -> Found:
        """Calls a function in the first process alone; all of them return its result.

        Raises:
            MadzooError: as :meth:`map`.
        """
        return self.map(lambda _: function(), [None])[0]

    def together(self, function: Callable[[], Found]) -> Found:
        """Calls a function in every process; each returns its own result, where none has failed.

        Raises:
            MadzooError: as :meth:`map`.
        """
        mine: list[Found] = []
        self._ask(lambda: mine.append(function()))
        return mine[0]

    def _ask(self, function: Callable[[], Found]) -> list[Found]:
        found, failure = None, None
        try:
            found = function()
        except MadzooError as error:
            if self.world == 1:
                raise
            failure = error
        told = self.gather((found, failure))
        for _, error in told:
            if error is not None:
                raise error
        return [results for results, _ in told]


ALONE = Shard()
