"""Publishing many folders on a Hub on loopback: the plan, the pushes, and going on after a failure."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest

from madzoo.checkpoint.folder import bundled_root
from madzoo.errors import CheckpointError, ConfigError, UploadError
from madzoo.workflows.publish import publish

NAMES = ("patch_s4d_nano_512_96.etth1", "patch_s4d_nano_512_96.etth2", "patch_s4d_nano_512_96.ettm1")
SCRIPT = Path(__file__).parents[2] / "scripts" / "publish.py"
pytestmark = [
    pytest.mark.usefixtures("alice"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # of huggingface_hub's own request
]


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        shutil.copytree(bundled_root() / name, tmp_path / "cards" / name)
    (tmp_path / "cards" / "notes").mkdir()
    return tmp_path / "cards"


def states(steps):
    return [step.state for step in steps]


def size(root, name):
    return sum(path.stat().st_size for path in (root / name).rglob("*") if path.is_file())


def commits(hub):
    return {name: sum(repo == f"alice/{name}" for repo, _ in hub.commits) - 1 for name in NAMES}


def test_a_plan_changes_nothing(hub, root):
    steps = publish(root, organization="alice")
    assert [step.repo for step in steps] == [f"alice/{name}" for name in NAMES]
    assert states(steps) == ["new"] * 3
    assert [step.bytes_to_upload for step in steps] == [size(root, name) for name in NAMES]
    assert not [method for method, _, _ in hub.requests if method != "GET"]
    assert not [step for step in steps if step.pushed]


def test_publish_then_only_what_changed(hub, root):
    steps = publish(root, organization="alice", dry_run=False)
    assert [step.pushed.repo for step in steps] == [f"alice/{name}" for name in NAMES]
    assert commits(hub) == dict.fromkeys(NAMES, 1)
    (root / NAMES[1] / "notes.txt").write_text("x")
    again = publish(root, organization="alice")
    assert states(again) == ["same", "changed", "same"]
    assert [step.bytes_to_upload for step in again] == [0, 1, 0]
    hub.received.clear()
    done = publish(root, organization="alice", dry_run=False)
    assert [step.pushed is not None for step in done] == [False, True, False]
    assert commits(hub) == dict(zip(NAMES, (1, 2, 1), strict=True))
    assert not [path for method, path, _ in hub.received if method == "PUT"]


def test_a_failure_in_the_middle_is_gone_on_from(hub, root):
    hub.fail("POST", f"{NAMES[1]}/commit/", "500", times=None)
    with pytest.raises(UploadError, match="1 of 3 folders are on the Hub") as refused:
        publish(root, organization="alice", dry_run=False)
    assert "this command again" in str(refused.value)
    assert NAMES[1] in str(refused.value)
    assert commits(hub) == dict(zip(NAMES, (1, 0, -1), strict=True))  # -1: no repository yet
    hub.faults.clear()
    hub.received.clear()
    steps = publish(root, organization="alice", dry_run=False)
    assert [step.pushed is not None for step in steps] == [False, True, True]
    assert commits(hub) == dict.fromkeys(NAMES, 1)
    assert not [path for _, path, _ in hub.received if NAMES[0] in path]
    puts = [path for method, path, _ in hub.received if method == "PUT"]
    assert len(puts) == len(set(puts))


def test_offline_the_plan_says_what_it_does_not_know(hub, root, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert states(publish(root)) == ["unknown"] * 3
    with pytest.raises(UploadError, match="0 of 3"):
        publish(root, dry_run=False)
    assert hub.requests == []


def test_unfit_folders_are_shown_and_stop_everything(hub, root):
    (root / NAMES[2] / "model.pt").write_bytes(b"x")
    steps = publish(root, organization="alice")
    assert states(steps) == ["new", "new", "unfit"]
    assert "model.pt" in steps[2].problems[0]
    with pytest.raises(CheckpointError, match=rf"{NAMES[2]}: model\.pt"):
        publish(root, organization="alice", dry_run=False)
    assert not [method for method, _, _ in hub.requests if method != "GET"]


def test_nothing_there(hub, tmp_path, root):
    with pytest.raises(CheckpointError, match="no checkpoint folders"):
        publish(tmp_path)
    with pytest.raises(ConfigError):
        publish(root, organization="a--b")


def test_the_bundled_folders_go_to_the_organisation(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("madzoo.workflows.publish.find_problems", lambda path: ())  # tests/hub checks them
    steps = publish()
    assert [step.repo for step in steps] == [f"madzoo/{path.name}" for path in sorted(bundled_root().iterdir())]
    assert states(steps) == ["unknown"] * len(steps)


def test_the_script(hub, root, monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--root", str(root), "--organization", "alice", *words])
        monkeypatch.setenv("COLUMNS", "200")
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out

    out = run()
    assert "Nothing was pushed" in out
    assert out.count(" new ") == 3
    assert commits(hub) == dict.fromkeys(NAMES, -1)
    assert run("--really", "--private").count(" pushed ") == 3
    assert commits(hub) == dict.fromkeys(NAMES, 1)
    assert hub.store.repository(f"alice/{NAMES[0]}").private
    (root / NAMES[0] / "a.pkl").write_bytes(b"x")
    with pytest.raises(SystemExit, match=r"a\.pkl is of no kind"):
        run("--really")
