"""Which bundled model is measured on which benchmark, and why each other pair is left out; no data is read."""

from dataclasses import dataclass

from madzoo.errors import ConfigError
from madzoo.evaluation import BENCHMARKS, find_benchmarks
from madzoo.workflows.card_rows import bundled_models, card_rows
from madzoo.workflows.registered_benchmarks import check_fit
from madzoo.workflows.weights_record import create_measured

__all__ = ["CARD", "Pair", "SkippedPair", "plan_pairs"]

CARD = "card"  # asks for what each model's own card reports


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Names a bundled model and a registered benchmark."""

    model: str
    benchmark: str

    def __str__(self) -> str:
        return f"{self.model} on {self.benchmark}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedPair:
    """Says why a model is not measured on a benchmark."""

    pair: Pair
    why: str


def plan_pairs(benchmark: str, *, pattern: str = "*") -> tuple[list[Pair], list[SkippedPair]]:
    """Returns the pairs to measure, and those that do not fit.

    A forecaster is measured on every benchmark of series, an image model on the test part that its images and classes
    fit. The order is that of the benchmarks asked for; what the cards report comes first, the quickest first.

    Args:
        benchmark: names as :func:`madzoo.evaluation.find_benchmarks` reads them; ``"card"`` among them stands for
            those that each model's own card reports.
        pattern: a shell pattern of full names.

    Raises:
        ConfigError: when no bundled model matches, or no benchmark has such a name.
    """
    names = bundled_models(pattern)
    if not names:
        raise ConfigError("no bundled model matches the pattern.", asked=pattern, looked=", ".join(bundled_models()))
    words = [word.strip() for word in benchmark.split(",")]
    if not any(words):
        raise ConfigError("no benchmark is asked for.", asked=repr(benchmark), looked=", ".join([CARD, *BENCHMARKS]))
    asked = ",".join(word for word in words if word != CARD)
    specs = find_benchmarks(asked) if asked else []
    misfits = _misfits(names, [spec.name for spec in specs])
    pairs = [Pair(model=name, benchmark=spec.name) for spec in specs for name in names]
    reported = _reported(names) if CARD in words else []
    skipped = [SkippedPair(pair=pair, why=misfits[pair]) for pair in pairs if pair in misfits]
    return list(dict.fromkeys([*reported, *(pair for pair in pairs if pair not in misfits)])), skipped


def _reported(names: list[str]) -> list[Pair]:
    known = [(row.seconds, name, benchmark) for name in names for benchmark, row in card_rows(name).items()]
    return [Pair(model=name, benchmark=benchmark) for _, name, benchmark in sorted(known)]


def _misfits(names: list[str], benchmarks: list[str]) -> dict[Pair, str]:
    found = {}
    for name in names if benchmarks else []:
        model = create_measured(name)
        for benchmark in benchmarks:
            try:
                check_fit(model, BENCHMARKS[benchmark])
            except ConfigError as error:
                found[Pair(model=name, benchmark=benchmark)] = str(error).split("\n")[0]
    return found
