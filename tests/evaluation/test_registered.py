"""The registry of benchmarks, and what a checkpoint has seen of them."""

import pytest

from madzoo.errors import ConfigError
from madzoo.evaluation import BENCHMARKS, BenchmarkSpec, find_benchmarks
from madzoo.evaluation.leakage import BenchmarkRows, Leakage, find_leakage
from madzoo.evaluation.registered import benchmark_of


def test_names_stand_for_one_or_for_a_family():
    assert [spec.name for spec in find_benchmarks("fev-ett-1d")] == ["fev-ett-1d"]
    assert [spec.horizon for spec in find_benchmarks("fev-ett")] == [168, 28, 13]
    assert [spec.horizon for spec in find_benchmarks("ltsf-exchange")] == [96, 192, 336, 720]
    assert len(find_benchmarks("ltsf")) == 20 and len(find_benchmarks("monash")) == 8
    assert len(find_benchmarks("monash-m3")) == 4
    for wrong in ("fev-et", "ltsf-etth1-9", ""):
        with pytest.raises(ConfigError, match="no benchmark is named"):
            find_benchmarks(wrong)
    with pytest.raises(ConfigError, match="did you mean fev-ett"):
        find_benchmarks("fev-et")


def test_commas_join_names_and_nothing_is_named_twice():
    names = [spec.name for spec in find_benchmarks("fev-ett-1d, cifar10,fev-ett")]
    assert names == ["fev-ett-1d", "cifar10", "fev-ett-1h", "fev-ett-1w"]
    with pytest.raises(ConfigError, match="no benchmark is named 'cifar11'"):
        find_benchmarks("cifar10,cifar11")


@pytest.mark.parametrize(
    ("dataset", "horizon", "name"),
    [
        ("etth1", 96, "ltsf-etth1-96"),
        ("exchange_rate", 720, "ltsf-exchange-720"),
        ("monash-m3-other", 8, "monash-m3-other"),
        ("cifar10", None, "cifar10"),
        ("etth1", 24, None),
        ("citylearn", 96, None),
    ],
)
def test_a_card_row_belongs_to_the_benchmark_of_its_data_and_horizon(dataset, horizon, name):
    assert benchmark_of(dataset, horizon) == name


def test_every_record_says_what_it_tests():
    images = {name for name, spec in BENCHMARKS.items() if not isinstance(spec, BenchmarkSpec)}
    assert images == {"fashion_mnist", "cifar10", "imagenette_128"}
    for spec in BENCHMARKS.values():
        assert spec.train_rows and set(spec.datasets) and spec.metrics
        assert isinstance(spec, BenchmarkSpec) or spec.test_rows.datasets == (spec.name,)
    for spec in (one for one in BENCHMARKS.values() if isinstance(one, BenchmarkSpec)):
        assert spec.horizon > 0 and spec.seasonality > 0 and spec.train_rows and set(spec.datasets)
        assert spec.linear_holdout >= spec.horizon or spec.num_windows == 0
        assert set(spec.datasets) <= set(spec.test_rows.datasets)


@pytest.mark.parametrize(
    ("trained_on", "benchmark", "trained", "leaked"),
    [
        ("synthetic", "fev-ett-1h", False, False),
        ("etth1", "ltsf-etth1-96", True, False),
        ("etth1", "ltsf-ettm1-96", True, False),  # one recording
        ("etth1", "ltsf-etth2-96", False, False),
        ("etth1", "fev-ett-1h", True, False),
        ("etth1", "fev-ett-1d", True, True),  # whose windows begin in December 2016
        ("ettm1", "fev-ett-1w", True, True),
        ("fev-ett-1h", "fev-ett-1h", True, False),
        ("fev-ett-1h", "ltsf-etth2-720", True, True),
        ("weather", "ltsf-weather-96", True, False),
        ("weather", "monash-nn5-daily", False, False),
        ("cifar10", "cifar10", True, False),
        ("cifar10", "fashion_mnist", False, False),
        (None, "cifar10", None, None),
        ("synthetic-frequencies-long+citylearn", "fev-ett-1h", False, False),
        ("synthetic+weather", "ltsf-weather-96", True, False),
        ("synthetic+etth1", "fev-ett-1d", True, True),
        (None, "monash-nn5-daily", None, None),
    ],
)
def test_leakage(trained_on, benchmark, trained, leaked):
    found = find_leakage(trained_on, BENCHMARKS[benchmark].test_rows)
    assert found == Leakage(trained_on_this_dataset=trained, testdata_leakage=leaked)


def test_rows_up_to_the_first_tested_are_no_leak():
    for first, leaked in ((11520, False), (11519, True)):
        rows = BenchmarkRows(datasets=("etth1",), first_hour={"ett1": first})
        assert find_leakage("etth1", rows).testdata_leakage is leaked
