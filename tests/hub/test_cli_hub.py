"""``madzoo push``, ``pull`` and ``search`` on a Hub on loopback: what they print, and one line for what goes wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
from hub.published import FORECASTER, files_of, made

from madzoo.checkpoint.folder import find_bundled


def test_push_search_pull(hub, alice, run, tmp_path):
    code, out, _ = run("push", FORECASTER, "alice/mine", "--private")
    commit = hub.branch("alice/mine")
    assert code == 0
    assert out.splitlines()[-1] == f"{hub.url}/alice/mine/commit/{commit}"
    assert "alice/mine, branch main" in out
    assert "model.safetensors" in out
    assert hub.store.repository("alice/mine").private
    code, out, _ = run("push", find_bundled(FORECASTER), "hf-hub:alice/mine")
    assert "held the folder already" in out
    assert [line.split()[-2] for line in out.splitlines() if "bytes uploaded" in line] == ["0"]

    code, out, _ = run("search", "mine", "--task", "time-series-forecasting", "--author", "alice")
    assert code == 0
    assert "alice/mine" in out
    assert "apache-2.0" in out
    assert "mse" in out
    code, out, _ = run("search", "nothing like it")
    assert (code, out.startswith("no checkpoint of this kind")) == (0, True)

    code, out, _ = run("pull", f"alice/mine@{commit}", "--cache-dir", tmp_path / "cache")
    assert code == 0
    pulled = Path(out.strip())
    assert pulled.is_relative_to(tmp_path / "cache")
    assert files_of(pulled).items() >= files_of(find_bundled(FORECASTER)).items()


def test_a_branch(hub, alice, run):
    code, out, _ = run("push", FORECASTER, "alice/mine", "--revision", "next")
    assert code == 0
    assert "branch next" in out
    assert hub.branch("alice/mine", "next") == out.strip().rpartition("/")[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("push", "absent", "alice/mine"), "no such checkpoint folder"),
        (("push", FORECASTER, "mine"), "a Hub repository is written org/repo"),
        (("push", FORECASTER, "bob/mine"), "may not do that there"),
        (("pull", "alice/absent"), "there is no such repository"),
        (("search", "--task", "detection"), "no task is named 'detection'"),
    ],
)
def test_one_line_for_what_goes_wrong(hub, alice, run, words, told):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("madzoo: ")
    assert err.count("\n") == 1
    assert told in err


def test_everything_wrong_with_a_folder_in_one_line(hub, alice, run, tmp_path):
    folder = made(tmp_path)
    (folder / "a.pkl").write_bytes(b"x")
    (folder / "b.py").write_bytes(b"x")
    code, out, err = run("push", folder, "alice/mine")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "a.pkl is of no kind" in err
    assert "b.py is of no kind" in err
    assert hub.requests == []


def test_help_is_light():
    script = "import sys, madzoo.cli_hub; print([m for m in ('torch', 'huggingface_hub', 'timm') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert ran.stdout.strip() == "[]"
