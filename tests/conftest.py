"""The ground every test stands on: one thread, private caches, no network."""

import logging
import os
import socket
import tempfile
from pathlib import Path

import pytest

# Above every other import: huggingface_hub, torch and matplotlib read their environment once.
CACHE = tempfile.TemporaryDirectory(prefix="madzoo-tests-")
os.environ |= {name: os.path.join(CACHE.name, name.lower()) for name in ("HF_HOME", "XDG_CACHE_HOME", "TORCH_HOME")}
os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
os.environ |= {"MPLBACKEND": "agg", "MPLCONFIGDIR": os.path.join(CACHE.name, "matplotlib"), "OMP_NUM_THREADS": "1"}
os.environ.setdefault("MADZOO_TEST_DATA_DIR", os.environ.get("MADZOO_DATA_DIR", ""))  # for the fixture data_folder
for variable in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE", "MADZOO_DATA_DIR"):
    os.environ.pop(variable, None)

import torch  # noqa: E402
from hub_server import serve_hub  # noqa: E402

from madzoo import cli  # noqa: E402
from madzoo._torchvision_shim import ensure_torchvision  # noqa: E402
from madzoo.checkpoint import network  # noqa: E402

torch.set_num_threads(1)
ensure_torchvision()


def pytest_unconfigure():
    CACHE.cleanup()


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch):
    """Refuses every connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test reached for the network: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def hub_process():
    with serve_hub() as hub:
        yield hub


@pytest.fixture
def hub(hub_process, monkeypatch):
    """An empty Hub on loopback that HF_ENDPOINT names; nobody is logged in, and requests never wait."""
    monkeypatch.setenv("HF_ENDPOINT", hub_process.url)
    monkeypatch.setattr(network, "PAUSES", (0.0, 0.0))
    yield hub_process
    hub_process.clear()


@pytest.fixture
def alice(hub, monkeypatch):
    """Logs in as alice, who may also write under madzoo-org."""
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    return "alice"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs ``madzoo ...``; returns (exit code, stdout, stderr)."""
    logger = logging.getLogger("madzoo")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["madzoo", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return run


@pytest.fixture(scope="session")
def data_folder():
    """The folder that MADZOO_DATA_DIR named when the tests began; without one the test that asks for it is skipped."""
    folder = os.environ["MADZOO_TEST_DATA_DIR"]
    if not folder:
        pytest.skip("MADZOO_DATA_DIR names no folder")
    return Path(folder)
