"""The notice about non-commercial weights: once for each name, and never about others."""

import pytest
import torch
from safetensors.torch import save_file
from tiny_family import author_state, registered_tiny, trained

from madzoo import factory
from madzoo.checkpoint import licence
from madzoo.checkpoint.download import Pulled
from madzoo.checkpoint.licence import tell_licence
from madzoo.checkpoint.weights import sha256_of
from madzoo.registry import PretrainedCfg

NC = "cc-by-nc-sa-4.0"


@pytest.fixture(autouse=True)
def nobody_was_told(monkeypatch):
    monkeypatch.setattr(licence, "_told", set())


def test_each_name_is_told_once(caplog):
    for name in ("net.a", "net.a", "net.b", "net.a"):
        tell_licence(name, NC)
    assert [message.split()[2] for message in caplog.messages] == ["net.a", "net.b"]
    assert all(NC in message and "commercial" in message for message in caplog.messages)


@pytest.mark.parametrize("free", ["mit", "apache-2.0", "cc-by-4.0", "ncsa", None])
def test_other_licences_are_silent(free, caplog):
    tell_licence("net.a", free)
    assert not caplog.messages


def test_create_model_tells_when_weights_are_asked_for(tmp_path, monkeypatch, caplog):
    file, told = tmp_path / "tiny.safetensors", []
    save_file(author_state(trained()), file)

    def pull(_place, **_options):
        told.append(list(caplog.messages))
        return Pulled(path=file, sha256=sha256_of(file))

    monkeypatch.setattr(factory, "pull_file", pull)
    with registered_tiny("test_told", {"data": PretrainedCfg(license=NC, hub_id="alice/tiny")}):
        factory.create_model("test_told")
        assert not caplog.messages
        for _ in range(2):
            model = factory.create_model("test_told", pretrained=True)
    assert [NC in message and "test_told.data" in message for message in caplog.messages] == [True]
    assert told[0] == caplog.messages  # before anything is downloaded
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained().parameters(), strict=True))
