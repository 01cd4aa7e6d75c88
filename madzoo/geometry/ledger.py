"""The symmetry ledger: where the parameters of a network go that its outputs can not see, at any size.

Each module's declared symmetries, and those rules know, are composed over the module tree, checked to leave the output
alone, and counted once: ``num_params - lost`` is an upper bound of the local dimension on any sample.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from madzoo.errors import ShapeError, SymmetryError
from madzoo.geometry.compose import Placed, declared, mixture, parameters_of, place
from madzoo.geometry.flow_trace import trace_flow
from madzoo.geometry.inactive import InactiveUnits, inactive_units
from madzoo.geometry.independence import joint_ranks
from madzoo.geometry.jacobian import count_parameters, float64_copy
from madzoo.geometry.ledger_record import LedgerItem, SymmetryLedger
from madzoo.geometry.rules import rule_symmetries
from madzoo.geometry.selection import Output, output_name, resolve_output
from madzoo.geometry.verify import Probe, check_mode, generic_parameters, off_zeros
from madzoo.symmetry import Term

__all__ = ["TOLERANCE", "symmetry_ledger"]

TOLERANCE = 1e-9
MIXTURES = 3
SAMPLES = (2, 8)  # of the check: the more, the surer that each unit fires on one of them
BUDGET = 1_000_000  # parameters, and a hundred times the elements of the input, of all samples of the check


def symmetry_ledger(
    model: nn.Module, inputs: Tensor, *, output: Output = "logits", mode: str = "reverse", seed: int = 0
) -> SymmetryLedger:
    """Collects, checks and counts the continuous symmetries of a network.

    For each item, :data:`MIXTURES` Gaussian mixtures v of all its generators have to satisfy
    |J v| / |v| <= 1e-9 |J u| / |u|, u random, in float64, at the model's weights and at a generic point near them: with
    probability one that holds only if every generator is in the kernel of J.

    Args:
        model: any module whose forward takes one tensor. Its modules declare ``symmetries()``; classes of torch.nn and
            timm are known by rules.
        inputs: samples [n, ...]; the check runs on the first two (eight, where the network is small), dead and always
            active units are sought on all. Where norms take the statistics of the batch, a sample is a whole batch.
        output: what is differentiated; ``"log_probs"`` and ``"probabilities"`` lose the logits' common shift.
        mode: ``"reverse"`` (one backward pass checks all items) or ``"forward"`` (one jvp per mixture).
        seed: of mixtures, probes and the generic point.

    Raises:
        SymmetryError: when a module declares a symmetry that moves the output. One that a rule proposed wrongly is
            listed in ``rejected`` instead.
        ConfigError: on an unknown output or mode, or a symmetry that names no parameter.
        ShapeError: when inputs are no tensor of samples.
        DataError: when the derivative is not finite.

    Cost: reverse: two forward and eight backward passes of few samples, and the rank of the generators (seconds for
    some ten thousand).

    Source: arXiv 2402.08269 for the local dimension; the counts of docs/glossary.md for what each symmetry takes away.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> symmetry_ledger(net, torch.randn(4, 3)).upper_bound  # 32 parameters, one scale per hidden unit
        27
    """
    if not isinstance(inputs, Tensor) or inputs.ndim == 0 or len(inputs) == 0:
        raise ShapeError("inputs must be one tensor of samples [n, ...], n >= 1.", asked=type(inputs).__name__)
    resolve_output(output)  # a network without symmetries refuses a wrong name too
    check_mode(mode)
    twin = float64_copy(model).cpu()  # terms are indices and slices: nothing for an accelerator
    x = inputs.detach().cpu().clone()
    x = x.double() if x.is_floating_point() else x
    flow = trace_flow(twin, x)
    units = inactive_units(flow, twin)
    found = [*declared(twin), *rule_symmetries(twin, flow, output=output)]
    found += [place(twin, "", symmetry, declared=False, on_data=True) for symmetry in units.symmetries]
    return _Count(model=twin, inputs=x, output=output, mode=mode, seed=seed).ledger(found, units)


@dataclass(frozen=True, kw_only=True)
class _Count:
    """The model and sample of one ledger."""

    model: nn.Module
    inputs: Tensor
    output: Output
    mode: str
    seed: int

    def ledger(self, found: Sequence[Placed], units: InactiveUnits) -> SymmetryLedger:
        params = parameters_of(self.model)
        generic = generic_parameters(params, seed=self.seed + 1)
        groups = _by_name(found)
        accepted, rejected = self._verify(groups, [params, generic])
        # A rank can only fall at special weights (a gain of 0), and that of J with it: the generic count bounds both.
        items = self._count(accepted, generic)
        if units.masks:
            dead = self._dead(units, accepted, items, params, generic)
            (items if dead.relative_jvp <= TOLERANCE else rejected).append(dead)
        return SymmetryLedger(
            num_params=count_parameters(self.model),
            items=tuple(items),
            rejected=tuple(rejected),
            generators_checked=sum(item.generators for item in items),
            max_relative_jvp=max((item.relative_jvp for item in items), default=0.0),
            output=output_name(self.output),
            dead_units=units.dead,
            always_active_units=units.always_active,
            patterns=units.patterns,
        )

    def _dead(
        self,
        units: InactiveUnits,
        accepted: list[tuple[str, list[Placed], float]],
        items: list[LedgerItem],
        params: dict[str, Tensor],
        generic: dict[str, Tensor],
    ) -> LedgerItem:
        """Counts what dead units hide beyond the symmetries: all hidden elements, less the symmetries among them."""
        random = torch.Generator().manual_seed(self.seed)
        probe = self._probe(params, self.inputs)
        draws = [
            {k: torch.randn(m.shape, generator=random).double() * m for k, m in units.masks.items()} for _ in range(3)
        ]
        hidden = sum(int(mask.sum()) for mask in units.masks.values())
        joined = [_joined(places, generic) for _, places, _ in accepted]
        masked = [(size, [_masked(t, units.masks, generic) for t in terms]) for terms, size in joined]
        ranks = joint_ranks(masked, generic, seed=self.seed)
        visible = sum(size if rank is None else rank for (size, _), rank in zip(masked, ranks, strict=True))
        return LedgerItem(
            name="dead_units",
            modules=len(units.masks),
            generators=hidden,
            lost=hidden + visible - sum(item.lost for item in items),
            relative_jvp=max(probe.relative(draw) for draw in draws),
            independent=None not in ranks,
            on_data=True,
        )

    def _verify(
        self, groups: dict[str, list[Placed]], points: list[dict[str, Tensor]]
    ) -> tuple[list[tuple[str, list[Placed], float]], list[LedgerItem]]:
        # What holds on the sample only is checked on the sample, at these weights: elsewhere other units are dead.
        few, whole = self.inputs[: self._samples(points[0])], self.inputs
        probes = [self._probe(params, few) for params in points] if groups else []
        on_data = [self._probe(points[0], whole)] if any(g[0].on_data for g in groups.values()) else []
        accepted, rejected = [], []
        for name, places in groups.items():
            used = on_data if places[0].on_data else probes
            worst = self._worst(places, used)
            if worst <= TOLERANCE:
                accepted.append((name, places, worst))
            elif places[0].declared:
                raise self._refusal(name, places, probes, worst)
            else:
                good, bad = self._sorted(places, used)
                accepted += [(name, [p for p, _ in good], max(r for _, r in good))] if good else []
                rejected.append(_item(name, [p for p, _ in bad], lost=0, relative_jvp=worst))
        return accepted, rejected

    def _sorted(
        self, places: Sequence[Placed], probes: Sequence[Probe]
    ) -> tuple[list[tuple[Placed, float]], list[tuple[Placed, float]]]:
        """Looks at the places one by one where together they failed."""
        measured = [(place, self._worst([place], probes)) for place in places]
        return [m for m in measured if m[1] <= TOLERANCE], [m for m in measured if m[1] > TOLERANCE]

    def _worst(self, places: Sequence[Placed], probes: Sequence[Probe]) -> float:
        """Returns the largest growth; not a number only where generators are not finite beside these weights either."""
        found = [self._relative(places, probe) for probe in probes]
        return _largest([v if math.isfinite(v) else self._relative(places, self._beside) for v in found])

    @cached_property
    def _beside(self) -> Probe:
        """Stands next to the weights, off their zeros.

        Some generators divide by a gain. Where one is exactly 0, as rounded weights have it, they are checked as near
        as can be: the rank of J is at most what it is at all points arbitrarily near.
        """
        params = parameters_of(self.model)
        return self._probe(off_zeros(params, seed=self.seed + 2), self.inputs[: self._samples(params)])

    def _samples(self, params: Mapping[str, Tensor]) -> int:
        size = sum(p.numel() for p in params.values()) + 100 * self.inputs[0].numel()
        return min(max(BUDGET // size, SAMPLES[0]), SAMPLES[1])

    def _probe(self, params: dict[str, Tensor], inputs: Tensor) -> Probe:
        return Probe(self.model, params, inputs, output=self.output, mode=self.mode, seed=self.seed)

    def _relative(self, places: Sequence[Placed], probe: Probe) -> float:
        terms, size = _joined(places, probe.params)
        draws = torch.randn(MIXTURES, size, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        return _largest([probe.relative(mixture(terms, draw, probe.params)) for draw in draws])

    def _refusal(self, name: str, places: Sequence[Placed], probes: list[Probe], worst: float) -> SymmetryError:
        wrong = [place.path or "the model" for place in places if not self._worst([place], probes[:1]) <= TOLERANCE]
        return SymmetryError(
            f"symmetry {name!r} moves the output: |Jv|/|v| is {worst:.1e} of a random tangent's.",
            asked=f"{sum(p.symmetry.dimension for p in places)} generators, at most {TOLERANCE:.0e}",
            looked=", ".join(wrong[:3]) or "a generic point",
            todo="mend the generators of the module's symmetries(), or leave this one out",
        )

    def _count(self, accepted: list[tuple[str, list[Placed], float]], params: dict[str, Tensor]) -> list[LedgerItem]:
        joined = [_joined(places, params) for _, places, _ in accepted]
        ranks = joint_ranks([(size, terms) for terms, size in joined], params, seed=self.seed)
        return [
            _item(name, places, lost=size if rank is None else rank, relative_jvp=worst, independent=rank is not None)
            for (name, places, worst), (_, size), rank in zip(accepted, joined, ranks, strict=True)
        ]


def _by_name(found: Sequence[Placed]) -> dict[str, list[Placed]]:
    """Groups the same symmetry of many modules; what holds on the sample only comes last."""
    groups: dict[tuple[str, bool, bool], list[Placed]] = {}
    for each in sorted(found, key=lambda p: p.on_data):
        if each.symmetry.dimension:
            groups.setdefault((each.symmetry.name, each.declared, each.on_data), []).append(each)
    return {name if declared else f"{name} ": places for (name, declared, _), places in groups.items()}


def _joined(places: Sequence[Placed], params: dict[str, Tensor]) -> tuple[list[Term], int]:
    terms, size = [], 0
    for each in places:
        terms += [dataclasses.replace(t, coefficients=t.coefficients + size) for t in each.terms(params)]
        size += each.symmetry.dimension
    return terms, size


def _masked(term: Term, masks: Mapping[str, Tensor], params: dict[str, Tensor]) -> Term:
    """Sets to zero what a term adds to hidden elements."""
    if term.parameter not in masks:
        return term
    axis = term.axis % params[term.parameter].ndim
    shown = ~masks[term.parameter].movedim(axis, 0)[term.rows]
    return dataclasses.replace(
        term, source=term.source[term.source_rows] * shown, source_rows=torch.arange(len(term.rows))
    )


def _largest(values: Sequence[float]) -> float:
    """Returns the largest; not a number where one is not finite, which max would pass over."""
    return max(values) if all(map(math.isfinite, values)) else math.nan


def _item(
    name: str, places: Sequence[Placed], *, lost: int, relative_jvp: float, independent: bool = True
) -> LedgerItem:
    return LedgerItem(
        name=name.strip(),
        modules=len(places),
        generators=sum(place.symmetry.dimension for place in places),
        lost=lost,
        relative_jvp=relative_jvp,
        independent=independent,
        on_data=places[0].on_data,
    )
