"""The models of an author on the Hub as lines of the leaderboard, and a broken one among them."""

import csv
import json
import logging

from madzoo.checkpoint.folder import find_bundled
from madzoo.workflows.leaderboard import leaderboard

NAME = "patch_s4d_nano_512_96.etth1"


def test_an_authors_models_are_read_without_their_weights(hub, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = find_bundled(NAME)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    commit = hub.push("someone/good", files)
    small = {name: files[name] for name in ("README.md", "config.json")}
    hub.push("someone/broken", small | {"evaluation.json": json.dumps({"rows": 1}).encode()})
    hub.push("someone/unscored", small)
    borrowed = json.loads(files["evaluation.json"])
    borrowed["rows"][0]["weights_sha256"] = "0" * 64
    hub.push("someone/borrowed", small | {"evaluation.json": json.dumps(borrowed).encode()})
    hub.push("another/good", files)
    with caplog.at_level(logging.WARNING, logger="madzoo"):
        found = leaderboard(hub="someone", out=tmp_path / "site", bundled=False)
    assert (found.models, found.benchmarks) == (1, 1)
    lines = list(csv.DictReader((tmp_path / "site" / "leaderboard.csv").read_text().splitlines()))
    (line,) = [line for line in lines if line["kind"] == "model"]
    assert (line["name"], line["source"]) == (NAME, f"hf-hub:someone/good@{commit}")
    left_out = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert [line.split("@")[0] for line in left_out] == [
        f"hf-hub:someone/{name}" for name in ("borrowed", "broken", "unscored")
    ]
    assert not [path for _, path, _ in hub.requests if path.endswith(".safetensors")]
    assert "hf-hub:someone/good" in (tmp_path / "site" / "index.html").read_text()
    assert (tmp_path / "site" / "models" / NAME / "geometry.png").read_bytes() == files["geometry.png"]


def test_what_was_measured_here_takes_the_place_of_what_the_hub_says_of_the_same_weights(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = find_bundled(NAME)
    files = {name: (folder / name).read_bytes() for name in ("README.md", "config.json", "evaluation.json")}
    better = json.loads(files["evaluation.json"])
    better["rows"][0]["metrics"]["mse"] = 0.001
    hub.push("someone/better", files | {"evaluation.json": json.dumps(better).encode()})
    leaderboard([folder], hub="someone", out=tmp_path / "site", bundled=False)
    lines = list(csv.DictReader((tmp_path / "site" / "leaderboard.csv").read_text().splitlines()))
    (line,) = [line for line in lines if line["kind"] == "model"]
    assert (line["source"], line["int4_cost"][:4]) == (NAME, "3.68") and float(line["value"]) > 0.3
