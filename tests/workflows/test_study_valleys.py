"""The study of flat valleys: its rules against torch's, its measures on small cases, its page, the whole in small."""

import json
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from torch import Tensor, nn

from madzoo.errors import DataError
from madzoo.geometry import local_dimension
from madzoo.workflows import study_valleys_page
from madzoo.workflows.study_page import render_page
from madzoo.workflows.study_valleys import Finished
from madzoo.workflows.study_valleys_measures import fitted_loss, largest_eigenvalue, measure
from madzoo.workflows.study_valleys_networks import Pictures, build, half_square, load_pictures
from madzoo.workflows.study_valleys_page import BLOCKS, write_page
from madzoo.workflows.study_valleys_protocol import QUICK, Protocol
from madzoo.workflows.study_valleys_runs import descend, make_rule

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))

import study_flat_valleys  # noqa: E402

PAGE = ROOT / "docs" / "studies" / "flat_valleys.md"


def pictures(train: int = 8, fresh: int = 2) -> Pictures:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(train + fresh + 20, 14, 14, generator=draw)
    targets = torch.eye(10)[torch.arange(train) % 10]
    return Pictures(x[:train], targets, x[train : train + 20], torch.arange(20) % 10, x[train + 20 :])


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_a_run_repeats_and_is_torchs(name: str) -> None:
    data, state = pictures(), torch.get_rng_state()
    ends = []
    for _ in range(2):
        model = build("s4d", 3)
        assert descend(make_rule(model, name, 0.01, QUICK), data, steps=3, batch=8, seed=0) is None
        ends.append(flat(model))
    assert torch.equal(*ends) and torch.equal(state, torch.get_rng_state())
    model = build("s4d", 3)
    rules = {
        "sgd": torch.optim.SGD(model.parameters(), lr=0.01),
        "momentum": torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        "adam": torch.optim.Adam(model.parameters(), lr=0.01),
    }
    for _ in range(3):
        rules[name].zero_grad()
        half_square(model(data.train), data.targets).backward()
        rules[name].step()
    torch.testing.assert_close(flat(model), ends[0])


def test_sam_takes_its_gradient_uphill_and_comes_back() -> None:
    data, lr, rho = pictures(), 0.1, Protocol().rho
    model, by_hand = build("s4d", 0), build("s4d", 0)
    make_rule(model, "sam", lr, Protocol()).step(data.train, data.targets)
    start = flat(by_hand)

    def slope(at: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(at, by_hand.parameters())
        loss = half_square(by_hand(data.train), data.targets)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(by_hand.parameters()))])

    g = slope(start)
    torch.testing.assert_close(flat(model), start - lr * slope(start + rho * g / g.norm()), rtol=1e-4, atol=1e-6)


def test_divergence_is_told() -> None:
    model = build("s4d", 0)
    step = descend(make_rule(model, "sgd", 1e4, QUICK), pictures(), steps=20, batch=8, seed=0)
    assert step is not None and 1 < step < 20


def test_label_noise_is_fresh_noise_on_the_targets() -> None:
    """From a point that fits exactly, plain SGD stays and noisy labels move it."""
    data, model = pictures(), build("mamba", 0)
    with torch.no_grad():
        data = data._replace(targets=model(data.train))
    start = flat(model)
    descend(make_rule(model, "sgd", 0.05, QUICK), data, steps=3, batch=2, seed=0)
    assert (flat(model) - start).norm() < 1e-5
    descend(make_rule(model, "label", 0.05, QUICK), data, steps=3, batch=2, seed=0, label=0.3)
    assert (flat(model) - start).norm() > 1e-2


def test_measures_at_zero_residual() -> None:
    data, model = pictures(), build("s4d", 1)
    with torch.no_grad():
        data = data._replace(targets=model(data.train))
    found = measure(model, data, (3, 8), whole=True)
    assert found["loss"] == fitted_loss(model, data) == 0
    assert found["lambda_max"] == pytest.approx(found["sigma_max_squared"], rel=1e-4)  # H = J^T J / n
    assert found["lambda_max"] == largest_eigenvalue(model, data)["lambda_max"] < found["trace"]
    assert (found["rank"], found["rows"]) == (local_dimension(model, data.train).rank, 80)
    assert 0 < found["clear_rank"] <= found["rank"] and found["dimension_rows"] == 20
    three, eight = found["rounded"]
    assert three["loss"] > 10 * eight["loss"] > 0


def test_the_store_keeps_and_refuses(tmp_path: Path) -> None:
    told: list[str] = []
    store = Finished(tmp_path / "runs", QUICK, told.append)
    assert store.once("a", lambda: 1) == 1 and store.once("a", lambda: 2) == 1 and told == ["a"]
    assert Finished(tmp_path / "runs", QUICK, told.append).once("a", lambda: 2) == 1
    with pytest.raises(DataError, match="another protocol"):
        Finished(tmp_path / "runs", Protocol(), told.append)
    with pytest.raises(ValueError, match="JSON"):
        store.once("b", lambda: float("nan"))


@pytest.mark.slow
def test_the_whole_study_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_flat_valleys, "load_pictures", lambda protocol, *, folder: pictures())
    page = tmp_path / "flat_valleys.md"
    page.write_text(PAGE.read_text())
    files = ["--runs", str(tmp_path / "runs"), "--json", str(tmp_path / "found.json"), "--page", str(page)]
    study_flat_valleys.main(["--quick", *files])
    found, text = json.loads((tmp_path / "found.json").read_text()), page.read_text()
    assert {run["kind"] for run in found["runs"]} == {"fit", "arm", "grid", "algorithm"}
    assert text != PAGE.read_text() and all(render(found) in text for render in BLOCKS.values())
    for name in ("flat_valleys_known.png", "flat_valleys_training.png"):
        assert imread(tmp_path / name).std() > 0.05
    page.write_text(PAGE.read_text())
    drawn: list[Path] = []
    for name in ("draw_known", "draw_training"):
        monkeypatch.setattr(study_valleys_page, name, lambda _, path: drawn.append(path))
    study_flat_valleys.main(["--render", *files[2:]])
    assert page.read_text() == text and len(drawn) == 2
    with pytest.raises(SystemExit, match="overwrite"):
        study_flat_valleys.main(["--quick"])
    with pytest.raises(DataError, match="markers"):
        write_page(found, tmp_path / "nowhere.md")


def test_the_published_page_says_what_its_json_says() -> None:
    study, text = json.loads(PAGE.with_suffix(".json").read_text()), PAGE.read_text()
    assert render_page(study, text, BLOCKS) == text
    assert "PLACEHOLDER" not in text
    assert study["protocol"] == json.loads(json.dumps(study["protocol"]))
    assert all(r["share"] < 0.1 for r in study["overhead"])


def test_the_pictures(data_folder: Path) -> None:
    found = load_pictures(QUICK, folder=data_folder)
    assert found.train.shape == (8, 14, 14) and found.fresh.shape == (2, 14, 14) and found.test.shape == (20, 14, 14)
    assert (found.targets.sum(1) == 1).all() and torch.cat([found.train, found.fresh]).std().item() == pytest.approx(1)
