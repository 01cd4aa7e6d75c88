"""The study of the straight-through estimator: its measures on small cases, its store, its page, the whole in small."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import DataError
from madzoo.quantization.fake_quant import attach
from madzoo.quantization.grid import Grid
from madzoo.quantization.plan import make_plan
from madzoo.quantization.quantized import load_quantized, quantize_weights
from madzoo.workflows.study_page import render_page
from madzoo.workflows.study_ste import Store, _tuned, load_rows, run_study
from madzoo.workflows.study_ste_mismatch import gradient_mismatch
from madzoo.workflows.study_ste_networks import NETWORKS, evaluate_rows, train_rows
from madzoo.workflows.study_ste_page import BLOCKS
from madzoo.workflows.study_ste_protocol import QUICK, Protocol
from madzoo.workflows.study_ste_runs import build
from madzoo.workflows.study_ste_statistics import chosen, floats

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))

import study_ste  # noqa: E402

PAGE = ROOT / "docs" / "studies" / "straight_through.md"


def rows(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 28, 28, generator=generator), torch.randint(10, (count,), generator=generator)


def test_training_repeats_and_keeps_the_generator() -> None:
    state = torch.get_rng_state()
    ends = []
    for _ in range(2):
        model, steps = build("s4d", seed=3), []
        train_rows(
            model, rows(30), steps=3, lr=1e-2, batch_size=10, seed=1, on_step=lambda step, _, s=steps: s.append(step)
        )
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert steps == [1, 2, 3]
    assert torch.equal(ends[0], ends[1]) and torch.equal(state, torch.get_rng_state())
    start = torch.cat([p.detach().flatten() for p in build("s4d", seed=3).parameters()])
    assert (start != ends[0]).any() and not torch.equal(
        start, torch.cat([p.flatten() for p in NETWORKS["s4d"]().parameters()])
    )


def test_scores_against_torch() -> None:
    model, (x, y) = build("mamba", seed=0).train(), rows(7)
    with torch.no_grad():
        logits = model(x)
    found = evaluate_rows(model, (x, y))
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == y).double().mean().item()) and model.training
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)


def test_two_bits_are_ternary() -> None:
    plans = [make_plan(build("s4d"), 2, kind=kind) for kind in ("uniform", "ternary")]
    for observer in ("min_max", "mse"):
        twins = [load_quantized(m := build("s4d", seed=1), quantize_weights(m, p, observer=observer)) for p in plans]
        assert all(torch.equal(a, b) for a, b in zip(*(t.state_dict().values() for t in twins), strict=True))


def test_on_a_fine_grid_there_is_no_mismatch_and_a_wrong_gradient_is_seen() -> None:
    model, twin, batch = build("s4d", seed=0), build("s4d", seed=5), rows(20)
    attach(model, make_plan(model, 8), estimator="ste")
    found = gradient_mismatch(model, twin, batch, directions=16, seed=0)
    assert found["differences"] > 0.97 and found["float_gradient"] > 0.97
    again = gradient_mismatch(model, twin, batch, directions=16, seed=0)
    assert found == again

    class Turned(nn.Module):
        """Shows the logits of a model, and gives its parameters the opposite gradient."""

        def __init__(self, inner: nn.Module, sign: int) -> None:
            super().__init__()
            self.inner, self.sign = inner, sign

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            return y if self.sign > 0 else 2 * y.detach() - y

    turned = gradient_mismatch(Turned(model, -1), Turned(twin, 1), batch, directions=16, seed=0)
    assert turned["float_gradient"] < -0.97 and turned["differences"] < -0.97


def test_differences_by_hand() -> None:
    # Logits (w x, 0) with one weight w = 0.4 on the levels -1, 0, 1, x = 1, class 0. The loss is log(1 + exp(-Q(w))).
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([[0.4]]))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x @ self.w, torch.zeros(len(x), 1)], dim=1)

    model, batch = One(), (torch.ones(1, 1), torch.zeros(1, dtype=torch.long))
    attach(model, {"w": Grid(bits=2, axis=None)}, estimator="ste")
    # Any direction that moves the only weight has D . (g u) > 0: a cosine of 1; where none moves it, it is undefined.
    found = gradient_mismatch(model, One(), batch, directions=200, seed=0)
    assert found["differences"] == pytest.approx(1.0) and found["float_gradient"] == pytest.approx(1.0)
    assert gradient_mismatch(model, One(), batch, directions=1, seed=0)["differences"] is None


def test_the_first_seed_chooses_the_rate_on_held_out_pictures(tmp_path: Path) -> None:
    protocol = dataclasses.replace(QUICK, seeds=(4, 5, 6), lrs=(0.1, 0.2, 0.3))
    made: list[tuple[int, float]] = []

    def run(seed: int, lr: float) -> dict[str, Any]:
        made.append((seed, lr))
        accuracy = {0.1: 0.5, 0.2: 0.7, 0.3: 0.7}[lr]
        scores = {"held_out": {"accuracy": accuracy, "loss": lr}, "test": {"accuracy": 1 - accuracy, "loss": 0.0}}
        return {"seed": seed, "lr": lr} | scores

    store = Store(tmp_path / "runs", protocol)
    found = _tuned("cell", run, protocol, store, lambda _: None)
    assert made == [(4, 0.1), (4, 0.2), (4, 0.3), (5, 0.2), (6, 0.2)]  # of equal ones the smaller loss
    assert [(r["seed"], r["lr"]) for r in found if r["chosen"]] == [(4, 0.2), (5, 0.2), (6, 0.2)]
    assert _tuned("cell", run, protocol, Store(tmp_path / "runs", protocol), lambda _: None) == found
    assert len(made) == 5  # read again, not run again
    with pytest.raises(DataError, match="another protocol"):
        Store(tmp_path / "runs", QUICK)


def test_the_parts(data_folder: Path) -> None:
    found = load_rows(QUICK, folder=data_folder)
    assert {part: x.shape[0] for part, (x, _) in found.items()} == {"train": 60, "held_out": 40, "test": 40}
    assert found["train"][0].shape[1:] == (28, 28) and found["test"][1].dtype == torch.int64
    with pytest.raises(DataError, match="too few"):
        load_rows(dataclasses.replace(QUICK, test=71), folder=data_folder)


def test_the_whole_study_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"train": rows(60), "held_out": rows(40, 1), "test": rows(40, 2)}
    monkeypatch.setattr(study_ste, "load_rows", lambda protocol, *, folder: parts)
    page = tmp_path / "straight_through.md"
    page.write_text(PAGE.read_text())
    files = ["--runs", str(tmp_path / "runs"), "--json", str(tmp_path / "found.json"), "--page", str(page)]
    study_ste.main(["--quick", *files])
    study = json.loads((tmp_path / "found.json").read_text())
    assert len(study["runs"]) == len(QUICK.networks) * (2 + len(QUICK.estimators))
    for kind in ("known", "training"):
        assert imread(tmp_path / f"straight_through_{kind}.png").std() > 0
    text = page.read_text()
    study_ste.main(["--render", *files])
    assert page.read_text() == text
    monkeypatch.setattr("madzoo.workflows.study_ste.run_float", None)  # what is kept is not run again
    assert run_study(parts, QUICK, runs=tmp_path / "runs") == study
    with pytest.raises(DataError, match="no place"):
        render_page(study, text.replace("study:sparse:end", "study:spase:end"), BLOCKS)
    with pytest.raises(SystemExit, match="overwrite"):
        study_ste.main(["--quick"])


def test_the_page_is_what_the_json_says() -> None:
    study, protocol = json.loads(PAGE.with_suffix(".json").read_text()), Protocol()
    assert study["protocol"] == json.loads(json.dumps(dataclasses.asdict(protocol)))
    assert render_page(study, PAGE.read_text(), BLOCKS) == PAGE.read_text()
    for network in protocol.networks:
        assert [run["seed"] for run in floats(study, network)] == list(protocol.seeds)
        for bits in protocol.bits:
            for name in protocol.estimators:
                runs = chosen(study, "qat", network=network, bits=bits, estimator=name)
                assert [run["seed"] for run in runs] == list(protocol.seeds)
    for run in study["toys"]["two_level"]:
        assert abs(run["mean"] - run["c"]) < 1e-5 and abs(run["flip_frequency"] - 1 + abs(run["c"])) < 1e-5
