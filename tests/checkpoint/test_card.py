"""The card: a pure function of its folder, prose kept byte for byte, hashes checked, YAML that reloads equal."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from madzoo.checkpoint.card import check_card, render_card, write_card
from madzoo.checkpoint.card_front_matter import to_yaml
from madzoo.errors import CheckpointError
from tests.checkpoint.card_folder import NAME, geometry, make_folder, quantization, row, write_json

PROSE = "\nHand-written: caf\u00e9, *kept*,\r\nwith its own line ends and trailing blanks.  \n\n"


def front(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def test_a_new_card_says_everything(tmp_path: Path) -> None:
    sha256 = make_folder(tmp_path)
    text = write_card(tmp_path).read_text()
    check_card(tmp_path)
    values = front(text)
    assert values["license"] == "apache-2.0" and values["library_name"] == "madzoo"
    assert values["pipeline_tag"] == "image-classification" and values["metrics"] == ["accuracy", "nll"]
    assert values["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.9253
    for block in ("geometry", "quantization"):
        assert len(values[block]) <= 15 and values[block]["schema"] == 2
        assert values[block]["weights_sha256"] == sha256
        assert all(type(value) in (int, float, str, bool) for value in values[block].values())
    assert values["geometry"]["local_dimension"] == "≥ 160, 160 rows" and values["geometry"]["upper_bound"] == 12305
    assert values["geometry"]["upper_bound_is"] == "verified" and values["geometry"]["lambda_max"] == 14.5
    assert values["geometry"]["samples"] == 16 and values["geometry"]["dtype"] == "float64"
    assert values["quantization"]["bits_4"] == 0.9 and "bits_2" not in values["quantization"]
    assert f"madzoo evaluate {NAME} shapes`" in text and "92.53 % [92.00 %, 93.00 %]" in text
    assert f'create_model("{NAME}", pretrained=True)' in text and "1 configuration of this model ever met" in text
    assert "can the local dimension pass **12,305** (verified)" in text and "| `relu.scale` | 2 | 40 |" in text
    assert "1 dead, 0 always active units on this sample" in text and "eigenvalue 14.5 (residual 0.01)" in text
    assert "≥ 160 (160 rows)" in text and "lower bound, not the dimension" in text and sha256 in text


def test_quantization_is_tabled_for_the_whole_and_for_each_group(tmp_path: Path) -> None:
    make_folder(tmp_path)
    text = render_card(tmp_path)
    assert "| bits | top-1 | drop | mean loss | rise |" in text and "| 32 | 92.53 % |  | 0.25 |  |" in text
    assert "| 4 | 90.00 % | 2.53 % ± 0.10 % | 0.3 | 0.05 ± 0.001 |" in text and "| 2 | - | - | - | - |" in text
    rows = ["| `head` | 320 | +0.048 ± 0.001 | +0.042 | 24.1 |", "| `A` | 64 | +0.002 ± 0.001 | +0.0018 | 24.1 |"]
    assert "\n".join(rows) in text and "| `vector` | 7 | -1e-05 ± 0.001 | -8.8e-06 | 24.1 |" in text
    assert "on 512 samples" in text and "(500 samples of the part train)" in text and "Gauss-Newton" in text
    assert "over the 3 groups: 0.98 at 8, 0.96 at 6, 0.94 at 4, 0.93 at 3, 0.92 at 2 bits." in text
    block = front(text)["quantization"]
    assert len(block) == 14 and block["most_sensitive_group"] == "head" and block["spearman_4"] == 0.94


def test_a_report_of_the_first_schema_is_shown_as_it_was(tmp_path: Path) -> None:
    sha256 = make_folder(tmp_path)
    write_json(tmp_path / "quantization.json", quantization(sha256, schema=1))
    text = render_card(tmp_path)
    assert "| bits | top-1 | loss against float32 |" in text and "| 4 | 90.00 % | 2.53 % ± 0.10 % |" in text
    block = front(text)["quantization"]
    assert block["schema"] == 1 and block["policy"] == "rtn" and "most_sensitive_group" not in block


def test_the_hub_reads_the_front_matter(tmp_path: Path) -> None:
    make_folder(tmp_path)
    data: Any = ModelCard.load(write_card(tmp_path)).data
    results = data.eval_results
    assert results[0].metric_type == "accuracy" and results[0].metric_value == 0.9253
    assert data.to_dict()["geometry"] == front(render_card(tmp_path))["geometry"]


def test_synthetic_series_and_recordings_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path, image=False)
    config = json.loads((tmp_path / "config.json").read_text())
    for dataset, words in (
        ("synthetic-frequencies", "trained on synthetic series alone."),
        ("synthetic-frequencies+citylearn", "trained on synthetic series and recordings of citylearn."),
    ):
        config["pretrained_cfg"]["dataset"] = dataset
        write_json(tmp_path / "config.json", config)
        text = render_card(tmp_path)
        assert words in text and f"- training data: {dataset.replace('+', ', ')}" in text
        assert front(text)["datasets"][: len(dataset.split("+"))] == dataset.split("+")


def test_a_rank_that_the_sample_did_not_limit_is_a_number(tmp_path: Path) -> None:
    sha256 = make_folder(tmp_path)
    write_json(tmp_path / "geometry.json", geometry(sha256, rank=150, rows=20000))
    text = render_card(tmp_path)
    assert front(text)["geometry"]["local_dimension"] == 150 and "Measured: **150**." in text


def test_a_forecaster_shows_baselines_other_seeds_and_their_mean(tmp_path: Path) -> None:
    sha256 = make_folder(tmp_path, image=False)
    write_json(tmp_path / "quantization.json", quantization(sha256, metric="mse"))
    seeds = [row("22" * 32, image=False, seed=s, metrics={"mse": m, "mae": 0.4}) for s, m in ((1, 0.37), (2, 0.35))]
    ablation = row("33" * 32, image=False, model="scan removed", metrics={"mse": 0.41, "mae": 0.42})
    evaluation = {"schema": 1, "weights_sha256": sha256, "rows": [row(sha256, image=False)]}
    write_json(tmp_path / "evaluation.json", evaluation | {"other_seeds": seeds, "ablations": [ablation]})
    text = render_card(tmp_path)
    assert front(text)["pipeline_tag"] == "time-series-forecasting"
    assert "| **mean ± sd of 3 seeds** | 0.3604 ± 0.01 | 0.3933 ± 0.012 | 10,000 |  |" in text
    assert "| baseline: seasonal naive | 0.5123 | 0.433 |" in text and "| scan removed | 0.41 |" in text
    assert "horizon 96" in text and "madzoo.forecast(" in text and "no standard error" in text


def test_prose_is_kept_byte_for_byte_and_rendering_is_idempotent(tmp_path: Path) -> None:
    sha256 = make_folder(tmp_path)
    card = write_card(tmp_path)
    before = card.read_bytes()
    prose = PROSE.encode()
    edited = before.replace(b"\n## Geometry\n", prose + b"\n## Geometry\n") + prose
    edited = edited.replace(b"library_name: madzoo\n", b"base_model: someone/else\nlibrary_name: other\n")
    card.write_bytes(edited)
    with pytest.raises(CheckpointError, match=r"README\.md"):
        check_card(tmp_path)
    write_json(tmp_path / "geometry.json", geometry(sha256, rank=99, rows=99))
    write_card(tmp_path)
    check_card(tmp_path)
    after = card.read_bytes()
    assert after.count(prose) == 2 and after.endswith(prose) and b"99 rows" in after and b"160 rows" not in after
    assert front(after.decode())["base_model"] == "someone/else"
    assert front(after.decode())["library_name"] == "madzoo"
    write_card(tmp_path)
    assert card.read_bytes() == after
    (tmp_path / "geometry.json").unlink()
    assert "geometry" not in front(render_card(tmp_path)) and "Not measured yet." in render_card(tmp_path)


def test_a_hand_made_readme_gains_blocks_and_loses_nothing(tmp_path: Path) -> None:
    make_folder(tmp_path, reports=False)
    (tmp_path / "README.md").write_bytes(b"# Mine\r\nno newline at the end")
    text = write_card(tmp_path).read_bytes()
    assert b"---\n# Mine\r\nno newline at the end\n\n<!-- madzoo:begin summary -->" in text
    check_card(tmp_path)


def test_rendering_is_a_pure_function_of_the_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "a")
    make_folder(tmp_path / "b")
    assert render_card(tmp_path / "a") == render_card(tmp_path / "b") == render_card(tmp_path / "a")
    assert not (tmp_path / "a" / "README.md").exists()


def test_evaluation_results_follow_the_hubs_format(tmp_path: Path) -> None:
    make_folder(tmp_path)
    write_card(tmp_path)
    file = tmp_path / ".eval_results" / "shapes.yaml"
    entries = yaml.safe_load(file.read_text())
    assert entries[0]["dataset"] == {"id": "someone/shapes", "task_id": "accuracy"} and entries[0]["value"] == 0.9253
    (file.parent / "stale.yaml").write_text("[]\n")
    with pytest.raises(CheckpointError, match="stale"):
        check_card(tmp_path)
    write_card(tmp_path)
    check_card(tmp_path)
    file.write_text("[]\n")
    with pytest.raises(CheckpointError, match="shapes"):
        check_card(tmp_path)


@pytest.mark.parametrize("name", ["geometry.json", "quantization.json", "evaluation.json", "config.json"])
def test_a_card_whose_hashes_disagree_is_refused(tmp_path: Path, name: str) -> None:
    sha256 = make_folder(tmp_path)
    write_card(tmp_path)
    file = tmp_path / name
    file.write_text(file.read_text().replace(sha256, "ab" * 32))
    for action in (render_card, write_card, check_card):
        with pytest.raises(CheckpointError, match="disagree"):
            action(tmp_path)


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path)
    write_card(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="disagree"):
        check_card(tmp_path)


def test_a_row_of_other_weights_is_no_row_of_these(tmp_path: Path) -> None:
    sha256 = make_folder(tmp_path)
    rows = [row(sha256), row("cd" * 32)]
    write_json(tmp_path / "evaluation.json", {"schema": 1, "weights_sha256": sha256, "rows": rows})
    with pytest.raises(CheckpointError, match="disagree"):
        render_card(tmp_path)


@pytest.mark.parametrize("damage", ["schema", "type", "nan", "missing", "text"])
def test_a_damaged_report_is_refused(tmp_path: Path, damage: str) -> None:
    sha256 = make_folder(tmp_path)
    values = quantization(sha256)
    if damage == "schema":
        values["schema"] = 3
    elif damage == "type":
        values["n"] = "5000"
    elif damage == "nan":
        values["reference"] = math.nan
    elif damage == "missing":
        del values["entries"]
    text = "{" if damage == "text" else json.dumps(values)
    (tmp_path / "quantization.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"quantization\.json"):
        render_card(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "<!-- madzoo:begin results -->\n",
        "<!-- madzoo:end results -->\n",
        "<!-- madzoo:begin results --><!-- madzoo:end geometry -->",
        "<!-- madzoo:begin resluts -->\n<!-- madzoo:end resluts -->",
        "<!-- madzoo:begin results --><!-- madzoo:end results -->" * 2,
        "---\n- a list\n---\n",
        "---\na: [\n---\n",
    ],
)
def test_a_card_that_cannot_be_merged_is_refused(tmp_path: Path, text: str) -> None:
    make_folder(tmp_path)
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(CheckpointError, match=r"README\.md"):
        write_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == text


@pytest.mark.parametrize("bad", [{"a": (1, 2)}, {"a": math.nan}, {"a": np.float64(1)}])
def test_yaml_takes_plain_values_only(bad: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        to_yaml(bad)
    for odd in (
        {"a": "1e5", "b": 1e-05, "c": "0123e4", "d": "≥ 3", "e": None, "f": "yes", "g": "12345678901234567890"},
    ):
        assert yaml.safe_load(to_yaml(odd)) == odd
