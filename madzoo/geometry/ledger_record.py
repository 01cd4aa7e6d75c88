"""The records of a symmetry ledger: what each symmetry takes away, and the bound that is left."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from madzoo.errors import ConfigError

__all__ = ["LedgerItem", "SymmetryLedger"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerItem:
    """One symmetry, over all modules that have it.

    Attributes:
        name: what acts. One that ends in ``on_this_sample`` has generators that hang on the sample, as many on any
            other sample that is one batch.
        modules: how many modules have it.
        generators: their generators.
        lost: parameters it takes away beyond those of the items before it.
        relative_jvp: the largest (|J v| / |v|) / (|J u| / |u|) of its mixtures v, u random.
        independent: True where ``lost`` is a computed rank, False where it is the formula alone.
        on_data: True where it holds on the sample only: a unit dead or always active there.
    """

    name: str
    modules: int
    generators: int
    lost: int
    relative_jvp: float
    independent: bool = True
    on_data: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SymmetryLedger:
    """States how many parameters continuous symmetries take away, item by item.

    Attributes:
        num_params: real parameters, frozen ones included, tied ones once.
        items: in the order they were counted: symmetries, then what holds on the sample only.
        rejected: symmetries that a rule proposed and the check refused: they count for nothing.
        generators_checked: of all items, each in every mixture of its item.
        max_relative_jvp: the largest of all items; at most :data:`madzoo.geometry.ledger.TOLERANCE`.
        output: what is differentiated.
        dead_units, always_active_units: ReLU units on this sample.
        patterns: distinct activation patterns of ReLU units among the samples; 0 where there are none.
    """

    num_params: int
    items: tuple[LedgerItem, ...]
    rejected: tuple[LedgerItem, ...]
    generators_checked: int
    max_relative_jvp: float
    output: str
    dead_units: int = 0
    always_active_units: int = 0
    patterns: int = 0

    @property
    def lost(self) -> int:
        """Parameters taken away by symmetries: on any sample."""
        return sum(item.lost for item in self.items if not item.on_data)

    @property
    def inactive(self) -> int:
        """Parameters taken away further by units dead or always active on this sample."""
        return sum(item.lost for item in self.items if item.on_data)

    @property
    def upper_bound(self) -> int:
        """No sample shows a larger local dimension; where an item is ``on_this_sample``, no single batch does."""
        return self.num_params - self.lost

    @property
    def verified(self) -> bool:
        """True where all counts are computed ranks; else the bound is a formula."""
        return all(item.independent for item in self.items)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        derived = {"lost": self.lost, "inactive": self.inactive, "upper_bound": self.upper_bound}
        return {**dataclasses.asdict(self), **derived, "verified": self.verified}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SymmetryLedger":
        """Builds from the JSON values of :meth:`to_dict`.

        Raises:
            ConfigError: on an unknown or missing key.
        """
        derived = {"lost", "inactive", "upper_bound", "verified"}
        own = {key: value for key, value in values.items() if key not in derived}
        try:
            for key in ("items", "rejected"):
                own[key] = tuple(LedgerItem(**item) for item in own[key])
            return cls(**own)
        except (TypeError, KeyError) as error:
            raise ConfigError(f"not a SymmetryLedger: {error}.", asked=sorted(values)) from error
