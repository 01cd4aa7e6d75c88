"""What is found on a Hub on loopback, and what its cards say."""

import pytest
from hub.published import FORECASTER, IMAGE, PACKED, files_of, hurry

from madzoo.checkpoint.folder import find_bundled
from madzoo.errors import ConfigError, HubError
from madzoo.hub import search
from madzoo.hub.search import Found

CARD = (
    "---\nlicense: mit\nlibrary_name: madzoo\npipeline_tag: image-classification\ntags: [madzoo, extra]\n{}---\n# x\n"
)


@pytest.fixture
def zoo(hub):
    """Two checkpoints of the zoo, and somebody else's repositories."""
    for repo, name in (("madzoo-org/weft", IMAGE), ("alice/forecaster", FORECASTER)):
        files = files_of(find_bundled(name))
        hub.push(repo, {name: files[name] for name in ("README.md", "config.json")})
    hub.push("bob/foreign", {"README.md": CARD.format("").replace("madzoo", "timm").encode()})
    return hub


def test_what_a_card_says(zoo):
    (found,) = search("weft")
    card = found.metrics["cifar10"]
    assert (found.repo, found.name, found.task) == ("madzoo-org/weft", IMAGE, "image-classification")
    assert (found.licence, found.num_params, found.local_dimension) == ("apache-2.0", 1056170, "≥ 120, 120 rows")
    assert card["top1"] == 0.8529
    assert found.commit == zoo.branch("madzoo-org/weft")
    assert not found.private
    assert not found.gated
    assert "state-space-model" in found.tags


def test_who_is_found(zoo):
    assert [found.repo for found in search()] == ["alice/forecaster", "madzoo-org/weft"]
    assert [found.repo for found in search(task="time-series-forecasting")] == ["alice/forecaster"]
    assert [found.repo for found in search(author="madzoo-org")] == ["madzoo-org/weft"]
    assert [found.repo for found in search(tags=["weft_micro_patch8_32"])] == ["madzoo-org/weft"]
    assert search("nothing of that name") == []
    assert search(author="bob") == []


def test_private_ones_are_for_their_owner(zoo, monkeypatch):
    zoo.create("alice/forecaster", private=True)
    assert [found.repo for found in search()] == ["madzoo-org/weft"]
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    assert [found.private for found in search()] == [True, False]


def test_every_page_is_read(hub):
    for number in range(7):
        hub.push(f"alice/m{number}", {"README.md": CARD.format("").encode()})
    hub.page_size = 3
    assert [found.repo for found in search()] == [f"alice/m{number}" for number in range(7)]
    assert len(search(limit=5)) == 5


@pytest.mark.parametrize(
    "lines",
    [
        "model-index: nonsense\n",
        "model-index:\n- name: a\n  results: [1]\n",
        "model-index:\n- results: []\n",
        "geometry: [1, 2]\n",
        "geometry: {num_params: many, local_dimension: [1]}\n",
        "model-index:\n- name: a\n  results:\n  - task: {type: t}\n    dataset: {type: d, name: d}\n"
        "    metrics: [{type: m, value: high}]\n",
    ],
)
def test_cards_of_others_may_say_anything(hub, lines):
    hub.push("alice/odd", {"README.md": CARD.format(lines).encode()})
    (found,) = search()
    assert isinstance(found, Found)
    assert (found.num_params, found.local_dimension, dict(found.metrics)) == (None, None, {})
    assert found.licence == "mit"


def test_a_packed_model_tells_its_float_ones_number(hub):
    hub.push("alice/small", {"README.md": files_of(find_bundled(PACKED))["README.md"]})
    (found,) = search()
    assert (found.name, found.num_params) == (PACKED, 1056170)


@pytest.mark.parametrize(
    "options", [{"task": "detection"}, {"limit": 0}, {"limit": True}, {"query": ""}, {"tags": "x"}, {"author": 1}]
)
def test_ill_valued_arguments(hub, options):
    with pytest.raises(ConfigError):
        search(**options)
    assert hub.requests == []


def test_what_goes_wrong(hub, monkeypatch):
    hurry(monkeypatch)
    hub.fail("GET", "/api/models", "500", times=None)
    with pytest.raises(HubError, match="500"):
        search()
    hub.faults.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    hub.push("alice/m", {"README.md": CARD.format("").encode()})
    with pytest.raises(HubError, match="hf auth login"):
        search()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="unset HF_HUB_OFFLINE"):
        search()
