"""The benchmarks: variants compute the same thing, tables say what was measured, and nothing wrong is ever timed."""

import argparse
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import bench_geometry
import bench_limits
import bench_ops
import bench_scan_measure
from bench_models import draw, forecasting, inference, table, timed
from bench_peers import MEMORY, Variant, make_inputs, our_variants, peer_variants
from bench_report import Report, describe_machine, dot_plot
from bench_scan import growth_table, limits_table, memory_table, times_table
from bench_scan_measure import deviation, errors, growth, run, served, stepping, time_pairs, time_variants

SIZE = (2, 5, 7, 4)

PUBLISHED = """
import no_such_package


def selective_scan_ref(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    return u if delta_softplus else F.relu(delta)
"""


@pytest.fixture
def args():
    return argparse.Namespace(clock="wall", threads=1, rounds=1)


def test_all_variants_compute_the_same():
    variants = served(our_variants(("cpu", "torch", "reference"))) + peer_variants()
    truth, *others = (run(variant, make_inputs(SIZE), training=True)() for variant in reversed(variants))
    assert len(truth) == 9
    assert {"madzoo torch", "madzoo reference"} <= {variant.name for variant in variants}
    assert all(max(deviation(other, truth)) < 1e-5 for other in others)


@pytest.mark.parametrize("memory", MEMORY)
def test_memory_is_laid_out_as_said(memory):
    x = make_inputs(SIZE)
    y = x.in_memory(memory)
    assert all(torch.equal(a, b) for a, b in zip(x.tensors(), y.tensors(), strict=True))
    for name in ("u", "delta", "z", "B", "C"):
        sequence = getattr(y, name)
        assert (sequence.mT if name in MEMORY[memory] else sequence).is_contiguous()


def test_inputs_have_the_scale_of_an_initialised_mamba():
    x = make_inputs((1, 4096, 2, 16))
    steps = torch.nn.functional.softplus(x.bias.double())
    assert 0.9e-3 < steps.min() < 1.1e-3
    assert 0.09 < steps.max() < 0.11
    assert steps.log().median().exp().item() == pytest.approx(0.01, rel=0.1)
    assert x.A[7].tolist() == [-float(n) for n in range(1, 17)]


def test_the_published_function_comes_without_its_imports(tmp_path):
    (tmp_path / "interface.py").write_text(PUBLISHED)
    x = make_inputs(SIZE)
    variant = peer_variants(tmp_path / "interface.py")[-1]
    assert variant.name == "selective_scan_ref"
    assert variant.call(x) is x.u
    (tmp_path / "empty.py").touch()
    with pytest.raises(SystemExit, match="selective_scan_ref"):
        peer_variants(tmp_path / "empty.py")


def test_what_deviates_is_not_timed():
    good = our_variants(("torch",))
    wrong = Variant(name="wrong", call=lambda x: 1.001 * good[0].call(x), memory="channel-last")
    timing = {"training": False, "rounds": 1, "clock": lambda: 0.0}
    assert time_variants(good, SIZE, **timing) == {"rounds": 1, "seconds": {"madzoo torch": 0.0}}
    with pytest.raises(SystemExit, match=r"wrong deviates by 1\.0e-03"):
        time_variants([*good, wrong], SIZE, **timing)


def test_growth_and_errors():
    (lean,) = our_variants(("torch",))
    assert list(growth(lean, (3, 6), rounds=1, clock=lambda: 0.0)) == [3, 6]
    forward, gradient = errors([lean], SIZE)["madzoo torch"]
    assert 0 < forward < 1e-6
    assert 0 < gradient < 1e-5


def test_rates_of_the_machine_are_positive(monkeypatch):
    monkeypatch.setattr(bench_limits, "SECONDS", 0.001)
    found = bench_limits.limits()
    assert "copy, bytes read and written" in found
    assert all(rate > 1e6 for rate in found.values())


def test_a_pair_is_timed_in_a_process_of_its_own():
    variants = served(our_variants(("cpu", "torch")))
    names = [variants[0].name, variants[-1].name]
    found = time_pairs(names, SIZE, training=False, options=["--rounds", "2"])
    assert found["rounds"] == [2, 2]
    assert list(found["seconds"]) == list(found["ratios"]) == names
    assert min(*found["seconds"].values(), *found["ratios"].values()) > 0
    assert found["ratios"][names[0]] == 1


def test_pairs_are_put_together(monkeypatch):
    told, asked = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "c": 1.5}], []
    pairs = [{"rounds": 5 + i, "seconds": seconds} for i, seconds in enumerate(told)]
    monkeypatch.setattr(bench_scan_measure, "_child", lambda *words: asked.append(words) or pairs[len(asked) - 1])
    assert time_pairs(["a", "b", "c"], SIZE, training=True, options=["--rounds", "9"]) == {
        "rounds": [5, 6],
        "seconds": {"a": 2.0, "b": 2.0, "c": 1.5},
        "ratios": {"a": 1.0, "b": 2.0, "c": 0.5},
    }
    assert asked == [("--rounds", "9", "--pair", name, "training", "2", "5", "7", "4") for name in ("b", "c")]


def test_tables(args):
    times = {
        "(1, 2, 3, 4)": {
            "rounds": [7, 9],
            "seconds": {"ours": 0.001, "theirs": 0.25},
            "ratios": {"ours": 1.0, "theirs": 240.0},
        }
    }
    shown = times_table("forward", times, args)
    assert "n = 7-9" in shown
    assert "| ours | 1 (1x) |" in shown
    assert "| theirs | 250 (240x) |" in shown
    shown = growth_table({"variant": "ours", "seconds": {512: 0.001, 1024: 0.002, 2048: 0.004}})
    assert "mean 2.00" in shown
    assert "| 1024 | 2 | 2.00 |" in shown
    rates = {"state updates in registers, avx512": 12e9, "torch.exp in cache": 1e9}
    speeds = {"ours": {"forward": 6e9, "training": 2e9}}
    shown = limits_table({"machine": rates, "hot": speeds, "size": SIZE})
    assert "| ours, forward, state updates | 6 G/s | 50% |" in shown
    del rates["state updates in registers, avx512"]
    assert "%" not in limits_table({"machine": rates, "hot": speeds, "size": SIZE})
    shown = memory_table({"ours": {"forward": 1.25, "training": None}}, SIZE)
    assert "| ours | 1.2 |  |" in shown


def test_table_of_models(tmp_path, args):
    found = timed(inference("weft_micro_patch4_28", 2, baselines=()), args) + timed(forecasting(1), args)
    shown = table(found, "wall")
    assert all(f"| {name} |" in shown for name, _ in found)
    assert shown.index("series") < shown.index("images")  # by batch, then by speed
    draw(found, tmp_path / "models.png")
    assert (tmp_path / "models.png").stat().st_size < 200_000


@pytest.mark.parametrize("key", bench_ops.OPERATORS)
def test_paths_of_an_operator_compute_the_same(key):
    make, (size,) = bench_ops.OPERATORS[key][-1], bench_ops.QUICK[key]
    torch.manual_seed(0)
    first, *others = (call() for call in make(*size).values())
    assert others or key in ("diagonal", "short")
    assert all(torch.allclose(first, other, atol=1e-4) for other in others)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # in curvlinops
@pytest.mark.parametrize("key", bench_geometry.QUICK)
def test_everyone_finds_the_same_gram_matrix(key, monkeypatch):
    case, names = bench_geometry.QUICK[key], list(bench_geometry.contestants())
    assert bench_geometry.agreeing(names, case) == names
    monkeypatch.setattr(bench_geometry, "by_jacrev", lambda model, x: bench_geometry.ours(model, x) * 1.001)
    with pytest.raises(SystemExit, match=r"torch.func.jacrev deviates by 1\.0e-03"):
        bench_geometry.agreeing(names, case)


def test_table_of_gram_matrices(args):
    args.quick, case = True, bench_geometry.QUICK["mlp"]
    found = {bench_geometry.OURS: {"seconds": 0.5, "MiB": 20.0}, "theirs": {"seconds": 2.0, "MiB": None}}
    shown = bench_geometry.table("mlp", case, found, args)
    assert "P = 785, n = 6 samples (20,)" in shown and "n = 1;" in shown
    assert "| madzoo gram_matrix | 0.5 (1x) | 20 (1x) |" in shown
    assert "| theirs | 2 (4x) | not known |" in shown
    assert bench_geometry.apart("mlp", bench_geometry.OURS, args) is not None or sys.platform != "linux"


def test_the_plot_is_small(tmp_path):
    cases = {f"forward\n{i}": {f"path {j}": 10.0**j for j in range(9)} for i in range(6)}
    dot_plot(tmp_path / "plot.svg", cases, label="ms", title="times", filled={"path 0"})
    assert (tmp_path / "plot.svg").stat().st_size < 200_000
    assert describe_machine()["torch"] == torch.__version__


def test_a_report_goes_between_its_markers(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n")
    report = Report("bench", page)
    report.tell("new")
    report.write(picture=tmp_path / "plots" / "a.png")
    text = page.read_text()
    assert text.startswith("before\n<!-- bench:begin -->\n\n")
    assert text.endswith("\n\nnew\n\n![The same numbers as a picture](plots/a.png)\n\n<!-- bench:end -->\nafter\n")
    assert "old" not in text
    assert "new" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="other:begin"):
        Report("other", page)


def test_a_step_costs_the_same_whenever_it_comes():
    assert list(stepping((0, 3), width=8, block=2)) == [0, 3]


def test_the_page_has_the_markers():
    page = (Path(__file__).parents[1] / "docs" / "performance.md").read_text()
    for name in ("bench_scan", "bench_models", "bench_ops", "bench_geometry"):
        assert page.index(f"<!-- {name}:begin -->") < page.index(f"<!-- {name}:end -->")
