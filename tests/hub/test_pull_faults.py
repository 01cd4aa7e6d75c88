"""Every fault of a Hub against both ways to pull: the right bytes or one error, soon, and nothing wrong left behind."""

import threading
import time

import pytest
from hub import tiny_repository
from hub.tiny_repository import ARCH, REPO, WIDTH
from huggingface_hub import constants
from tiny_family import registered_tiny, trained

from madzoo import create_model
from madzoo.checkpoint import fetch as fetch_module
from madzoo.checkpoint import patience
from madzoo.errors import DownloadError
from madzoo.hub.pull import pull

LIST = ("GET", "/api/models/")
HEAD = ("HEAD", "/resolve/")
SMALL = ("GET", "/resolve/")  # of a large file: the redirect
LARGE = ("GET", "/lfs/")
ANSWERS = ("500", "cut", "silent")
BODIES = ("truncate", "corrupt", "drop", "stall", "html")
FAULTS = [(*where, kind) for where in (LIST, HEAD, SMALL, LARGE) for kind in ANSWERS]
FAULTS += [(*LARGE, kind) for kind in ("429", "502", "503", "504")]
FAULTS += [(*where, kind) for where in (LIST, SMALL, LARGE) for kind in BODIES]
QUICK = 4.0  # seconds; the limit of these tests is 0.45 seconds without progress


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_repository.made(tmp_path_factory.mktemp("made") / "tiny")


@pytest.fixture(params=["pull", "create_model"])
def fetch(request, tmp_path, files):
    """Fetches REPO in one of the two ways, and checks that what came is right."""

    def pulled():
        assert tiny_repository.read(pull(REPO, cache_dir=tmp_path / "cache")) == files

    def created():
        model = create_model(f"hf-hub:{REPO}", cache_dir=tmp_path / "cache", verify=True)
        for name, tensor in trained(width=WIDTH).state_dict().items():
            assert (model.state_dict()[name] == tensor).all()

    with registered_tiny(ARCH, {}):
        yield pulled if request.param == "pull" else created


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(patience, "LIMIT", 0.45)
    monkeypatch.setattr(patience, "READ", 0.15)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")


def nothing_wrong_lies_there(tmp_path, files):
    """Compares everything that the cache shows under a file's name with what was published under it."""
    for snapshot in (tmp_path / "cache").glob("models--*/snapshots/*"):
        assert tiny_repository.read(snapshot).items() <= files.items()


@pytest.mark.parametrize(("method", "part", "kind"), FAULTS)
def test_fault_that_happens_once_is_survived(hub, fetch, files, method, part, kind):
    hub.push(REPO, files)
    hub.fail(method, part, kind)
    start = time.monotonic()
    fetch()
    assert time.monotonic() - start < QUICK
    assert hub.faults[0].times == 0
    assert hub.leaks == set()


@pytest.mark.parametrize(("method", "part", "kind"), FAULTS)
def test_fault_that_stays_is_one_error(hub, fetch, files, tmp_path, method, part, kind):
    hub.push(REPO, files)
    hub.fail(method, part, kind, times=None)
    start = time.monotonic()
    with pytest.raises(DownloadError) as refusal:
        fetch()
    assert time.monotonic() - start < QUICK
    message = str(refusal.value)
    assert all(part in message for part in (f"{REPO}@main", str(tmp_path / "cache"), hub.url, f"madzoo pull {REPO}"))
    assert any(message.startswith(f"{name} could not be fetched: ") for name in files)
    nothing_wrong_lies_there(tmp_path, files)
    hub.faults.clear()
    fetch()
    assert hub.leaks == set()


@pytest.mark.parametrize("where", [LIST, SMALL, LARGE])
def test_trickle_ends(hub, fetch, files, where):
    hub.push(REPO, files)
    hub.fail(*where, "slow", times=None, delay=0.1, chunk=1)
    start = time.monotonic()
    with pytest.raises(DownloadError, match="next to nothing"):
        fetch()
    assert time.monotonic() - start < QUICK


def test_slow_body_that_moves_arrives(hub, fetch, files):
    hub.push(REPO, files)
    hub.fail("GET", "/", "slow", times=None, delay=0.02, chunk=1024)
    start = time.monotonic()
    fetch()
    assert time.monotonic() - start > 2 * patience.READ  # it was slow, and that was no reason to give it up
    assert hub.leaks == set()


@pytest.mark.parametrize("fault", ["hangs", "fails", "lies"])
def test_xet_that_does_not_serve_gives_way_to_plain_http(hub, fetch, files, tmp_path, monkeypatch, fault):
    commit, called = hub.push(REPO, files), []

    def download(repo, name, **_):
        called.append(name)
        if fault == "hangs":
            threading.Event().wait(2.0)
        if fault == "lies":
            (tmp_path / "lie").write_bytes(b"~" * len(files[name]))
            return str(tmp_path / "lie")
        raise RuntimeError("no store answers")

    monkeypatch.setattr(fetch_module, "HAS_XET", True)
    monkeypatch.setattr(fetch_module, "hf_hub_download", download)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    entry = hub.store.repository(REPO).files(commit)["model.safetensors"]
    hub.xet_hashes[entry.sha256] = "a" * 64
    start = time.monotonic()
    fetch()
    assert time.monotonic() - start < QUICK
    assert called == ["model.safetensors"]
    assert hub.seen("GET", "/lfs/alice/tiny") >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "kind"), [(LIST, "silent"), (HEAD, "silent"), (SMALL, "slow"), (LARGE, "stall"), (LARGE, "slow")]
)
def test_nothing_hangs_with_the_limits_as_they_are(hub, fetch, files, monkeypatch, where, kind):
    for name, value in {"LIMIT": 20.0, "READ": 8.0}.items():
        monkeypatch.setattr(patience, name, value)
    hub.push(REPO, files)
    hub.fail(*where, kind, times=None, delay=1.0, chunk=1)
    start = time.monotonic()
    with pytest.raises(DownloadError):
        fetch()
    assert time.monotonic() - start < 30
