"""The study of the local dimension: its measures against plain references, its page, and the whole of it in small."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from torch import nn

from madzoo.data.images import ImageArrays
from madzoo.errors import DataError
from madzoo.geometry import local_dimension
from madzoo.geometry.jacobian import count_parameters
from madzoo.workflows.study_dimension import PUBLISHED, QUICK, Protocol, draw_pictures, load_pictures, run_one
from madzoo.workflows.study_measures import accuracy, jacobian, pruned, rank_conventions, ranks
from madzoo.workflows.study_networks import LOST, NETWORKS
from madzoo.workflows.study_page import BLOCKS, render_page
from madzoo.workflows.study_statistics import correlate

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))

import study_local_dimension  # noqa: E402

PAGE = ROOT / "docs" / "studies" / "local_dimension.md"


def pictures(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 8, 8, generator=generator), torch.randint(10, (count,), generator=generator)


def test_the_networks_have_one_size() -> None:
    sizes = {name: count_parameters(build()) for name, build in NETWORKS.items()}
    assert max(sizes.values()) <= 1.05 * min(sizes.values()), sizes
    for build in NETWORKS.values():
        assert build().eval()(pictures(2)[0]).shape == (2, 10)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_rank_is_the_local_dimension(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    x, _ = pictures(6)
    x[:, :, 0] = 0  # a black row: the perceptron's weights from it do nothing
    found, expected = ranks(model, x), local_dimension(model, x)
    assert (found["rank"], found["rows"], found["num_params"]) == (expected.rank, expected.rows, expected.num_params)
    assert found["sigma_max"] == pytest.approx(expected.sigma_max, rel=1e-10)
    assert found["inactive"] >= (8 * 16 if name == "relu_mlp" else 0)
    assert jacobian(model, x, dtype=torch.float32).dtype == torch.float64


@pytest.mark.parametrize(("name", "noise"), [("resnet", 0.05), ("vit", 0.3), ("mamba", 0.3)])
def test_counted_symmetries_are_all_that_is_lost(name: str, noise: float) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(noise * torch.randn_like(p))  # a gain of exactly 1 or a bias of exactly 0 is not generic
    # 6 features before its head make 6 rows a picture of the ResNet's Jacobian independent, not 10.
    found = ranks(model, 2 * torch.randn(300, 1, 8, 8))
    assert found["rank"] == found["num_params"] - LOST[name]


def test_conventions_on_a_network_whose_ranks_are_known() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 10))
    x = 4 * pictures(400)[0] - 2
    found = rank_conventions(model, x)
    assert found["logits_float64"] == local_dimension(model, x).rank == 235 - 3
    assert found["softmax_float64"] == local_dimension(model, x, output="probabilities").rank == 235 - 3 - 4
    assert found["logits_float32"] > found["logits_float64"]  # round-off of float32 counted by the rule of float64


def test_pruning_removes_the_smallest_weights_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
        model[1].weight.copy_(torch.tensor([[5.0, -6.0], [7.0, 8.0]]))
    twin = pruned(model, 0.5)
    assert twin[0].weight.count_nonzero() == 0 and torch.equal(twin[1].weight, model[1].weight)
    assert torch.equal(twin[0].bias, model[0].bias) and model[0].weight.all()
    assert torch.equal(pruned(model, 0.0)[0].weight, model[0].weight)


def test_accuracy_keeps_the_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(64, 10)).train()
    x, y = pictures(30)
    with torch.no_grad():
        expected = (model.eval()(x).argmax(-1) == y).double().mean().item()
    model.train()
    assert accuracy(model, x, y) == expected and model.training


def test_correlations_against_pandas_and_within_groups() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 12).astype(float), rng.normal(size=12)  # with ties
    found = correlate(list(x), list(y), ["a"] * 12, within=False)
    assert found.rho == pytest.approx(pd.DataFrame({"x": x, "y": y}).corr(method="spearman").loc["x", "y"])
    assert 0 < found.p <= 1 and found.n == 12
    # Falling inside each group, rising from group to group.
    x, y = [1, 2, 3, 11, 12, 13], [3, 2, 1, 13, 12, 11]
    groups = ["a"] * 3 + ["b"] * 3
    assert correlate(x, y, groups, within=False).rho > 0
    inside = correlate(x, y, groups, within=True)
    assert (inside.rho, inside.p) == (-1.0, pytest.approx(2 / 36))
    assert correlate([1, 1], [1, 2], ["a", "a"], within=False).p == 1.0


def test_parts_are_disjoint_and_drawn_once() -> None:
    images = torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1).expand(-1, 1, 16, 16)
    data = ImageArrays(images=images, labels=torch.arange(30), num_classes=30)
    x, y = draw_pictures(data, 12)
    assert x.shape == (12, 1, 8, 8) and len(y.unique()) == 12
    torch.testing.assert_close(x[:, 0, 0, 0] * 255, y.float())
    assert torch.equal(draw_pictures(data, 12)[1], y)
    with pytest.raises(DataError, match="too few"):
        draw_pictures(data, 31)


def test_real_pictures(data_folder: Path) -> None:
    found = load_pictures(QUICK, folder=data_folder)
    assert {part: len(x) for part, (x, _) in found.items()} == {"train": 20, "validation": 40, "test": 40}
    assert all(x.min() >= 0 and x.max() <= 1 for x, _ in found.values())


def test_a_run_repeats() -> None:
    parts = {"train": pictures(20), "validation": pictures(10, 1), "test": pictures(10, 2)}
    state = torch.get_rng_state()
    first, second = (run_one("relu_mlp", 0, parts, QUICK) for _ in range(2))
    assert first["records"] == second["records"] and first["tolerance"] == second["tolerance"]
    assert first["records"] != run_one("relu_mlp", 1, parts, QUICK)["records"]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.slow
def test_the_whole_study_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"train": pictures(20), "validation": pictures(10, 1), "test": pictures(10, 2)}
    monkeypatch.setattr(study_local_dimension, "load_pictures", lambda protocol, *, folder: parts)
    page = tmp_path / "local_dimension.md"
    page.write_text(PAGE.read_text())
    files = ["--json", str(tmp_path / "found.json"), "--page", str(page)]
    study_local_dimension.main(["--quick", *files])
    study = json.loads((tmp_path / "found.json").read_text())
    assert len(study["runs"]) == (len(NETWORKS) + 1) * len(QUICK.seeds)
    assert {run["network"] for run in study["runs"]} == {*NETWORKS, PUBLISHED}
    for kind in ("training", "properties", "conventions"):
        assert imread(tmp_path / f"local_dimension_{kind}.png").std() > 0
    text = page.read_text()
    study_local_dimension.main(["--render", *files])
    assert page.read_text() == text
    with pytest.raises(DataError, match="no place"):
        render_page(study, text.replace("study:training:end", "study:trainng:end"))
    with pytest.raises(SystemExit, match="overwrite"):
        study_local_dimension.main(["--quick"])


def test_the_page_is_what_the_json_says() -> None:
    study = json.loads(PAGE.with_suffix(".json").read_text())
    protocol = Protocol()
    assert study["protocol"]["seeds"] == list(protocol.seeds) and study["protocol"]["train"] == protocol.train
    assert len(study["runs"]) == (len(NETWORKS) + 1) * len(protocol.seeds)
    assert render_page(study, PAGE.read_text()) == PAGE.read_text()
    for run in study["runs"]:
        for rank in (record["rank"] for record in run["records"]):
            assert rank["rank"] <= rank["num_params"] - LOST[run["network"].removesuffix("_sgd")]
    assert all(f"<!-- study:{name}:begin -->" in PAGE.read_text() for name in BLOCKS)
