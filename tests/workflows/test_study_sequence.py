"""The study of quantized recurrences: its networks, its measures on hand-made cases, its page, the whole in small."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from madzoo.data.images import ImageArrays
from madzoo.errors import DataError
from madzoo.quantization.state_rounding import calibrate_states, round_states
from madzoo.workflows.study_page import render_page
from madzoo.workflows.study_sequence import QUICK, SequenceProtocol, to_json
from madzoo.workflows.study_sequence_measures import (
    AtLengths,
    Condition,
    compare,
    conditions,
    logits_of,
    run_condition,
    share_without_decay,
    weight_parts,
)
from madzoo.workflows.study_sequence_networks import NETWORKS
from madzoo.workflows.study_sequence_page import BLOCKS
from madzoo.workflows.study_sequence_train import draw, pixel_batches

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))

import study_quantized_recurrence  # noqa: E402

PAGE = ROOT / "docs" / "studies" / "quantized_recurrence.md"


def pictures(count: int, seed: int = 0) -> ImageArrays:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 1, 28, 28), generator=generator).to(torch.uint8)
    return ImageArrays(images=images, labels=torch.randint(10, (count,), generator=generator), num_classes=10)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval()


def test_one_pass_reads_every_length(network: torch.nn.Module) -> None:
    x = torch.randn(2, 60)
    with torch.no_grad():
        found = AtLengths(network, (60, 7))(x)
        torch.testing.assert_close(found[:, 0], network(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[:, 1], network(x[:, :7]), rtol=1e-5, atol=1e-6)


def test_every_parameter_but_vectors_has_one_part(network: torch.nn.Module) -> None:
    parts = weight_parts(network)
    listed = [name for part, names in parts.items() if part != "all" for name in names]
    assert len(listed) == len(set(listed)) and set(listed) < set(parts["all"])
    assert {"dt", "projections"} < set(parts) and ("A_log" in parts) != ("A_imag" in parts)
    assert len({*conditions(network, (8, 2))}) == len([*conditions(network, (8, 2))])


def test_a_condition_rounds_what_it_says_and_nothing_else(network: torch.nn.Module) -> None:
    batches = [(torch.randn(2, 30), torch.zeros(2))]
    exact = logits_of(network, batches, (30,))
    found = {}
    for condition in (*conditions(network, (8,)), Condition(part="all", share="row", bits=2)):
        logits = run_condition(
            network, condition, batches, (30,), lambda share: calibrate_states(network, batches, share=share)
        )
        found[condition] = float((logits - exact).norm() / exact.norm())
    assert torch.equal(logits_of(network, batches, (30,)), exact)  # the network itself is as it was
    assert found[Condition(part="all", share="row", bits=8)] < 0.1 < found[Condition(part="all", share="row", bits=2)]
    state = Condition(part="state", share="channel", bits=8)
    with torch.no_grad(), round_states(network, 8):
        expected = network(batches[0][0]).double()
    assert found[state] == pytest.approx(float((expected - exact[:, 0]).norm() / exact.norm()), rel=1e-2)
    assert all(0 <= error < 1 for condition, error in found.items() if condition.bits == 8)


def test_factors_that_do_not_decay_are_counted() -> None:
    model = NETWORKS["s4d"]()
    with torch.no_grad():
        for (
            mixer
        ) in model.mixers:  # z = exp(-dt (1 + 0 i)), half of it 0.5 and half 0.97: 15 / 15 at 5 bits, 0.967 at 6
            mixer.kernel.log_A_real.zero_()
            mixer.kernel.A_imag.zero_()
            mixer.kernel.log_dt[:24], mixer.kernel.log_dt[24:] = math.log(-math.log(0.5)), math.log(-math.log(0.97))
    assert share_without_decay(model, torch.randn(1, 3), (6, 5)) == {"6": 0.0, "5": 0.5}


def test_comparison_by_hand() -> None:
    exact = torch.tensor([[[2.0, 0.0]], [[0.0, 2.0]], [[1.0, 0.0]], [[1.0, 0.0]]])
    rounded = torch.tensor([[[2.0, 0.0]], [[2.0, 0.0]], [[1.0, 0.0]], [[float("nan"), 0.0]]])
    found = compare(exact, rounded[:3].repeat(2, 1, 1)[:4], torch.tensor([0, 1, 1, 0]))
    assert found["top1"] == [0.5] and found["drop"] == [0.25]
    assert found["drop_error"] == [pytest.approx(0.25)]  # (1, 0, 0, 0): deviation 1/2 over sqrt(4)
    found = compare(exact, rounded, torch.tensor([0, 1, 1, 0]))
    assert found["top1"] == [0.25] and found["distance"] == [None]


def test_parts_are_drawn_once() -> None:
    data = pictures(30)
    assert torch.equal(draw(data, 12).images, draw(data, 12).images)
    x, y = pixel_batches(draw(data, 12), QUICK.recipe, batch_size=12)[0]
    assert x.shape == (12, 784) and torch.equal(y, draw(data, 12).labels)
    with pytest.raises(DataError, match="too few"):
        draw(data, 31)


def test_the_whole_study_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"train": pictures(4), "validation": pictures(4, 1), "test": pictures(4, 2)}
    monkeypatch.setattr(study_quantized_recurrence, "load_pictures", lambda recipe, *, folder: parts)
    page = tmp_path / "study.md"
    page.write_text(PAGE.read_text())
    files = ["--json", str(tmp_path / "study.json"), "--page", str(page), "--runs", str(tmp_path / "runs")]
    study_quantized_recurrence.main(["--quick", *files])
    first, study = page.read_text(), json.loads((tmp_path / "study.json").read_text())
    for name, net in study["networks"].items():
        assert len(net["rows"]) == len([*conditions(NETWORKS[name](), QUICK.bits)])
    assert json.loads(to_json(study)) == study and imread(tmp_path / "study.png").std() > 0
    study_quantized_recurrence.main(["--quick", *files])  # everything is remembered
    assert page.read_text() == first
    study_quantized_recurrence.main(["--render", *files])
    assert page.read_text() == first
    with pytest.raises(DataError, match="no place"):
        render_page(study, first.replace("study:setup:end", "study:setap:end"), BLOCKS)
    with pytest.raises(SystemExit, match="overwrite"):
        study_quantized_recurrence.main(["--quick"])


def test_the_page_is_what_the_json_says() -> None:
    file = PAGE.with_suffix(".json")
    study, protocol = json.loads(file.read_text()), SequenceProtocol()
    assert file.stat().st_size < 50_000 and study["protocol"]["lengths"] == list(protocol.lengths)
    assert study["protocol"]["recipe"]["train"] == protocol.recipe.train
    assert render_page(study, PAGE.read_text(), BLOCKS) == PAGE.read_text()
    assert all(f"<!-- study:{name}:begin -->" in PAGE.read_text() for name in BLOCKS)
    for name, net in study["networks"].items():
        measured = [Condition(part=row["part"], share=row["share"], bits=row["bits"]) for row in net["rows"]]
        assert set(measured) <= set(conditions(NETWORKS[name](), protocol.bits)) and len(set(measured)) == len(measured)
