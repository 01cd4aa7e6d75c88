"""What the checkpoint tests share: a Hub on loopback, and a request that never waits."""

import pytest
from hub_server import serve_hub

from madzoo.checkpoint import network


@pytest.fixture(scope="session")
def hub_process():
    with serve_hub() as hub:
        yield hub


@pytest.fixture
def hub(hub_process, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub_process.url)
    monkeypatch.setattr(network, "PAUSES", (0.0, 0.0))
    yield hub_process
    hub_process.clear()
