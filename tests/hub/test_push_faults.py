"""A Hub that fails while a folder is on its way: the whole commit or none, one error that says what to do."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub.published import files_of, hurry, made
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session

from madzoo.errors import UploadError
from madzoo.hub import client, remote
from madzoo.hub.push import upload
from madzoo.hub.validation import check_folder

REPO = "alice/anything"
ROOT = Path(__file__).parents[2]
OLD = {".gitattributes": b"x", "config.json": b"{}", "old.txt": b"old"}


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A folder that passed its checks, which are not repeated for every fault."""
    return check_folder(made(tmp_path_factory.mktemp("folder")))


def sent(checked):
    return upload(checked, REPO, private=False)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    hurry(monkeypatch)


@pytest.fixture
def repo(hub, alice):
    """A repository that holds something else."""
    hub.push(REPO, OLD)
    hub.requests.clear()
    return hub


def state(hub, name=REPO):
    files = hub.commits[name, hub.branch(name)]
    return {key: files[key] for key in files}


def is_whole(hub, checked):
    return {key: value for key, value in state(hub).items() if key != ".gitattributes"} == files_of(checked.path)


def commits(hub):
    return sum(name == REPO for name, _ in hub.commits)


COMMIT, PREUPLOAD, PUT, BATCH = (
    ("POST", "/commit/"),
    ("POST", "/preupload/"),
    ("PUT", "/lfs-upload/"),
    ("POST", "/batch"),
)


@pytest.mark.parametrize(
    ("method", "part", "kind"),
    [
        *((*COMMIT, kind) for kind in ("500", "503", "cut", "drop", "truncate")),
        *((*PREUPLOAD, kind) for kind in ("503", "cut", "drop")),
        *((*PUT, kind) for kind in ("500", "503", "cut", "drop")),
        (*BATCH, "503"),
    ],
)
def test_one_failure_is_got_over_with_one_commit(repo, checked, method, part, kind):
    repo.fail(method, part, kind)
    pushed = sent(checked)
    assert is_whole(repo, checked)
    assert commits(repo) == 2
    assert pushed.commit == repo.branch(REPO)
    assert pushed.bytes_uploaded == sum(map(len, files_of(checked.path).values()))


@pytest.mark.parametrize(
    ("method", "part", "kind"),
    [(*COMMIT, "500"), (*COMMIT, "cut"), (*PREUPLOAD, "503"), (*PUT, "500"), (*PUT, "cut"), (*BATCH, "503")],
)
def test_lasting_failure_leaves_everything_as_it_was(repo, checked, method, part, kind):
    repo.fail(method, part, kind, times=None)
    with pytest.raises(UploadError, match="the same command again later") as refused:
        sent(checked)
    assert REPO in str(refused.value)
    assert state(repo) == OLD
    assert commits(repo) == 1
    repo.faults.clear()
    sent(checked)
    assert is_whole(repo, checked)
    assert commits(repo) == 2


def test_commits_are_tried_three_times(repo, checked):
    repo.fail("POST", "/commit/", "503", times=None)
    with pytest.raises(UploadError, match="the Hub answered 503"):
        sent(checked)
    assert repo.seen("POST", "/commit/") == 3


def test_lost_answers_are_not_taken_for_failures(repo, checked):
    repo.fail("POST", "/commit/", "drop", times=None)
    sent(checked)
    assert repo.seen("POST", "/commit/") == 1
    assert is_whole(repo, checked)


def test_nothing_is_waited_for_without_end(repo, checked, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", 0.5)
    monkeypatch.setattr(remote, "TIMEOUT", 0.5)
    before = get_session().timeout
    repo.fail("PUT", "/lfs-upload/", "silent")
    repo.fail("POST", "/commit/", "silent")
    sent(checked)
    assert is_whole(repo, checked)
    repo.fail("GET", "/api/models/", "silent", times=None)
    with pytest.raises(UploadError, match="cannot be reached"):
        sent(checked)
    assert get_session().timeout == before


def test_a_storage_host_that_stays_silent_is_given_up(repo, checked, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", 1.0)
    repo.fail("PUT", "/lfs-upload/", "silent", times=None)
    started = time.monotonic()
    with pytest.raises(UploadError, match="has not answered for"):
        sent(checked)
    assert time.monotonic() - started < 5.0
    assert state(repo) == OLD
    repo.faults.clear()
    sent(checked)
    assert is_whole(repo, checked)


def test_a_page_of_a_hotel_is_no_hub(repo, checked):
    repo.fail("GET", "/api/models/", "html", times=None)
    with pytest.raises(UploadError, match="what answered is not the Hub"):
        sent(checked)
    assert state(repo) == OLD


@pytest.mark.parametrize("answer", ["{}", "[]", "null", '{"id": 1, "siblings": 3}'])
def test_some_other_server_is_no_hub(repo, checked, monkeypatch, answer):
    monkeypatch.setattr("httpx2.Response.json", lambda self, **options: json.loads(answer))
    with pytest.raises(UploadError, match="what answered is not the Hub"):
        sent(checked)
    assert state(repo) == OLD


def test_a_hub_that_keeps_something_else_is_caught(repo, checked):
    def spoil():
        files = repo.commits[REPO, repo.branch(REPO)]
        files["config.json"] = b"{}"

    repo.after("POST", "/commit/", spoil)
    with pytest.raises(UploadError, match=r"not as it was sent: config\.json"):
        sent(checked)


def test_a_branch_that_moves_is_followed_once(repo, checked):
    repo.after("POST", "/preupload/", lambda: repo.push(REPO, OLD | {"meanwhile.txt": b"m"}))
    pushed = sent(checked)
    assert "meanwhile.txt" in pushed.deleted
    assert is_whole(repo, checked)
    assert commits(repo) == 3
    assert repo.seen("POST", "/commit/") == 2


def test_a_branch_that_never_rests_is_left_alone(repo, checked):
    for number in range(9):
        text = f"{number}".encode()
        repo.after("POST", "/preupload/", lambda text=text: repo.push(REPO, OLD | {"n.txt": text}), nth=number + 1)
    with pytest.raises(UploadError, match="the branch moved while"):
        sent(checked)
    assert set(state(repo)) == {*OLD, "n.txt"}


def test_two_may_make_the_repository(hub, alice, checked):
    hub.after("GET", "/api/models/", lambda: hub.push(REPO, OLD))
    sent(checked)  # its own request to create it is answered 409
    assert is_whole(hub, checked)


@pytest.mark.parametrize("method", ["create_repo", "create_commit"])
def test_a_busy_hub(hub, alice, checked, monkeypatch, method):
    def busy(self, *arguments, **options):
        raise HfHubHTTPError("409 Conflict", response=SimpleNamespace(status_code=409, headers={}, request=None))

    monkeypatch.setattr(HfApi, method, busy)
    with pytest.raises(UploadError, match="busy with another operation") as refused:
        sent(checked)
    assert "again later" in str(refused.value)


def refusal(checked, repo):
    with pytest.raises(UploadError) as refused:
        upload(checked, repo, private=False)
    told = str(refused.value)
    assert repo in told
    assert "hf_" not in told.replace("hf_hub", "")
    return told


def test_who_may_not(hub, checked, monkeypatch):
    hub.push("bob/open", OLD)
    hub.push("bob/secret", OLD)
    hub.create("bob/secret", private=True)
    hub.push("bob/asks", OLD)
    hub.create("bob/asks", gated=True)
    hub.push("bob/empty", OLD)
    assert "nobody is logged in" in refusal(checked, "alice/x")
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    told = refusal(checked, "alice/x")
    assert "does not know the token (Invalid credentials" in told
    assert "hf auth login" in told
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    for repo in ("bob/new", "bob/open", "bob/secret", "bob/asks"):
        told = refusal(checked, repo)
        assert "may not do that there" in told
        assert "under the namespace 'bob'" in told
        assert "organisation you belong to" in told
    assert hub.branch("bob/new") is None
    assert state(hub, "bob/open") == state(hub, "bob/secret") == state(hub, "bob/asks") == OLD
    assert hub.leaks == set()


def test_offline_and_unreachable(hub, alice, checked, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "unset HF_HUB_OFFLINE" in refusal(checked, REPO)
    assert hub.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "the Hub cannot be reached" in refusal(checked, REPO)


def test_a_card_that_the_hub_refuses(hub, alice, checked, monkeypatch):
    def refuse(self, content, **options):
        raise ValueError('Invalid metadata in README.md.\n- Error: "license" must be a string')

    monkeypatch.setattr(HfApi, "_validate_yaml", refuse)
    with pytest.raises(UploadError, match="refuses the content") as refused:
        sent(checked)
    assert "mend what the Hub names" in str(refused.value)
    assert set(state(hub)) == {".gitattributes"}


def test_a_file_that_changes_meanwhile(repo, tmp_path):
    checked = check_folder(made(tmp_path))
    (checked.path / "config.json").write_text("{}")
    with pytest.raises(UploadError, match=r"config\.json was changed"):
        upload(checked, REPO, private=False)
    assert state(repo) == OLD


NURSERY = """
import os, signal, sys
from madzoo.hub import push
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    child = os.fork()
    if not child:
        push(*line.split())
        os._exit(0)
    print(child, flush=True)
"""


def is_alive(child):
    try:
        os.kill(child, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_killed_at_any_request(repo, checked, tmp_path):
    env = {"HF_ENDPOINT": repo.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_alice", "PATH": "/usr/bin:/bin"}
    env |= {"HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    ends = []
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY], env=env, cwd=ROOT, text=True, stdin=-1, stdout=-1, stderr=-1
    ) as nursery:
        for count in range(1, 20):
            repo.clear()
            repo.push(REPO, OLD)
            print(checked.path, REPO, file=nursery.stdin, flush=True)
            child = int(nursery.stdout.readline())
            while len(repo.requests) < count and is_alive(child):
                time.sleep(0.0005)
            os.kill(child, signal.SIGKILL) if is_alive(child) else None
            while is_alive(child):
                time.sleep(0.001)
            time.sleep(0.05)  # what it sent last is still being answered
            ends.append("old" if state(repo) == OLD else "whole" if is_whole(repo, checked) else "half")
            sent(checked)
            assert is_whole(repo, checked)
            assert commits(repo) == 2
        nursery.stdin.close()
    assert set(ends) == {"old", "whole"}, ends
    assert len(ends) > ends.count("old") > 5
