"""What the tests of the Hub's rooms share: a Hub on loopback, the token of its owner, and requests that never wait."""

from pathlib import Path

import pytest
from hub_server import serve_hub

from madzoo.checkpoint import network


def pytest_collection_modifyitems(items):
    """Lets huggingface_hub 2.4 upload large files as it does: by a deprecated argument of its own HTTP client."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"))


@pytest.fixture(scope="session")
def hub_process():
    with serve_hub() as hub:
        yield hub


@pytest.fixture
def hub(hub_process, monkeypatch):
    """An empty Hub that HF_ENDPOINT names; nobody is logged in."""
    monkeypatch.setenv("HF_ENDPOINT", hub_process.url)
    monkeypatch.setattr(network, "PAUSES", (0.0, 0.0))
    yield hub_process
    hub_process.clear()


@pytest.fixture
def alice(hub, monkeypatch):
    """Logs in as alice, who may also write under madzoo-org."""
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    return "alice"
